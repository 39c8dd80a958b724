"""Reads a page's tags before a tree is built of them.

Tells markup that is built, or grown, to exhaust a parser, and leaves out what no tree is needed for: the contents of
scripts and styles, half of the bytes of real pages and a third of a parser's time.
"""

from typing import NamedTuple

import numpy as np

from dataops.compiled import compiled

MAX_DEPTH = 5_000
"""Open elements at once. Building a tree takes time that grows with the square of its depth: 0.1 s at 10,000, 17 s at
100,000 (measured with Lexbor 3)."""
MAX_REOPENED = 2_000_000
"""Most elements that unclosed formatting may make, at some 360 bytes: each is opened again in each paragraph after."""
MAX_ATTRIBUTES = 50_000
"""Of one tag, and the root of the sum of squares of a page's tags: each is compared with all before it (5 s at this
number)."""
MAX_TREE_BYTES = 180_000_000
"""What the tree's nodes, by the sizes below, the page and the tree's copy of its text may take: with what else there is
in the process, less than 500 MB."""

_ELEMENT_BYTES, _TEXT_BYTES, _ATTRIBUTE_BYTES = 240, 150, 290  # measured with Lexbor 3, rounded up
_MAX_NAMES = 8_000  # different names of elements; the table has twice the room
_MAX_HOLES = 4_000  # scripts and styles of a page that are left out
_SLOTS = 1 << 14
_BLOCK = 16
_PRIME = 0x100000001B3
_FLAT, _RAW, _FORMATTING, _FOREIGN, _STOPPING = 1, 2, 3, 4, 5
# Elements that hold nothing, or that the next of their kind closes, do not nest. What is in raw ones is text up to their
# end tag, but not within foreign ones. Formatting is opened again after each block that closes over it (of a and nobr
# there is only ever one). Behind those that stop, a script may be none.
_NAMES_OF = {
    _FLAT: "area base br col embed hr img input link meta param source track wbr p li dt dd option optgroup tr td th thead "
    "tbody tfoot colgroup rp rt rb rtc html head body",
    _RAW: "script style textarea title xmp iframe noframes noembed",
    _FORMATTING: "b big code em font i s small strike strong tt u",
    _FOREIGN: "svg math",
    _STOPPING: "frameset plaintext",
}
_NAMES = {name: kind for kind, names in _NAMES_OF.items() for name in names.split()}
SOUGHT = ("img", "amp-img", "base", "meta", "noscript", "figcaption", "picture")
"""Names whose start tags are looked for; `<image>` is read as `<img>`."""


class BadPage(ValueError):
    """The page cannot be read; `reason` is what the manifest counts it under: too_complex."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


class Markup(NamedTuple):
    """A page that a tree can be built of."""

    html: bytes
    """Without the contents of scripts and styles, where they are sure to be that; all else as it was."""
    starts: frozenset[str]
    """Those of SOUGHT whose start tags may occur: their first two letters stand behind a `<` somewhere."""


def read_markup(html: bytes) -> Markup:
    """Read the page's tags as a tokenizer does (comments and scripts are skipped), their nesting simply: an end tag
    closes an open element of its own name. That counts pages of sloppy markup as deeper than they are.

    Raises: BadPage('too_complex') where a tree of the page's tags could not be built in fair time and memory.
    """
    holes = np.empty((_MAX_HOLES, 2), np.int64)
    work = _Work(*_read(np.frombuffer(html, np.uint8), _KEYS, _KINDS, _STARTS, holes))
    tree = 2 * len(html) + work.elements * _ELEMENT_BYTES + work.tags * _TEXT_BYTES + work.attributes * _ATTRIBUTE_BYTES
    if (
        work.depth > MAX_DEPTH
        or work.formatting * work.tags > MAX_REOPENED
        or work.compared > MAX_ATTRIBUTES**2
        or tree > MAX_TREE_BYTES
    ):
        raise BadPage("too_complex")
    return Markup(_without(html, holes[: work.holes].ravel().tolist()), _sought(work.starts))


def _without(html: bytes, edges: list[int]) -> bytes:
    """All but what lies between the first edge and the second, the third and the fourth, ..."""
    if not edges:
        return html
    edges = [0, *edges, len(html)]
    return b"".join([html[edges[i] : edges[i + 1]] for i in range(0, len(edges), 2)])


class _Work(NamedTuple):
    """What a page's tags ask of a parser: how many there are, and the greatest of what is open at once."""

    tags: int
    elements: int
    attributes: int
    compared: int  # sum of the squares of each tag's attributes
    depth: int
    formatting: int
    starts: int  # a bit for each of SOUGHT
    holes: int  # scripts and styles whose contents can be left out


@compiled(nogil=True)
def _read(data, known, known_kinds, starts, holes):
    """The fields of _Work; the places of the contents of scripts and styles go to `holes`.

    None is left out from where on a tree might have it otherwise: an end tag of svg or math within an element of theirs
    that may hold HTML, `<s` behind `<!--` in a script (HTML Standard, 13.2.5.15 to 29), a frameset, a plaintext.
    """
    keys, kinds = np.zeros(_SLOTS, np.uint64), np.zeros(_SLOTS, np.uint8)
    is_open = np.zeros(_SLOTS, np.int32)
    names = 0
    for i in range(known.size):
        slot = _slot(keys, known[i])
        keys[slot], kinds[slot] = known[i], known_kinds[i]
    tags = elements = attributes = compared = 0
    depth = formatting = foreign = most_depth = most_formatting = 0
    found = np.uint16(0)
    at, size = 0, data.size
    raw = np.uint64(0)  # the name of the raw element that we are in
    comment = escaped = unsure = False
    point = np.uint64(0)  # the element of svg or math in which HTML may stand that we are in
    hole = left_out = 0
    while at + 2 < size:
        if comment:
            while at < size and data[at] != 60 and not (data[at] == 62 and _ends_comment(data, at)):
                at += 1
            comment = at < size and data[at] == 60
        else:
            at = _find(data, at, 60)  # "<"
        if at + 2 >= size:
            break
        if data[at] != 60:
            continue
        after = data[at + 1]
        found |= starts[(np.uint32(after) << np.uint32(8)) | data[at + 2]]
        closing = after == 47
        first = (data[at + 2] if closing else after) | 0x20
        if comment or (raw != 0 and not closing):
            if raw == _SCRIPT:
                unsure |= escaped and first == 115
                escaped |= after == 33 and data[at + 2] == 45
            at += 1
            continue
        if first < 97 or first > 122:
            if raw == 0 and after == 33 and data[at + 2] == 45 and at + 3 < size and data[at + 3] == 45:
                comment = True
                tags += 1
                at += 2
            elif raw == 0 and (after == 33 or after == 63 or closing):  # a declaration, or what counts as a comment
                at = _find(data, at, 62)
            else:
                at += 1
            continue
        begin = at
        at, name = _name(data, at + 2 if closing else at + 1)
        if raw != 0:
            if name != raw:
                at = begin + 1
                continue
            if hole and not escaped and not unsure and hole < begin and left_out < len(holes):
                holes[left_out, 0], holes[left_out, 1] = hole, begin
                left_out += 1
            raw, hole = np.uint64(0), 0
        at, count = _attributes(data, at)
        tags += 1
        attributes += count
        compared += count * count
        slot = _slot(keys, name)
        if keys[slot] == 0:
            names += 1
            keys[slot] = name
            if names > _MAX_NAMES:
                most_depth = MAX_DEPTH + 1
                break
        kind = kinds[slot]
        if kind == _STOPPING:
            unsure = True
        if foreign != 0:
            if name in _POINTS:
                unsure |= point != 0 and not (closing and name == point)
                point = np.uint64(0) if closing else name
            unsure |= closing and kind == _FOREIGN and point != 0
        if not closing:
            elements += 1
            if kind == _RAW and foreign == 0:
                raw, escaped = name, False
                if name == _SCRIPT or (name == _STYLE and is_open[_slot(keys, _SELECT)] == 0):
                    hole = at
        if kind in (_FLAT, _RAW) or (closing and is_open[slot] == 0):
            continue
        step = -1 if closing else 1
        is_open[slot] += step
        depth += step
        if kind == _FORMATTING:
            formatting += step
        elif kind == _FOREIGN:
            foreign += step
        most_depth, most_formatting = max(most_depth, depth), max(most_formatting, formatting)
    return tags, elements, attributes, compared, most_depth, most_formatting, found, left_out


@compiled(nogil=True, inline="always")
def _slot(keys, name):
    slot = np.int64((name ^ (name >> np.uint64(29))) % np.uint64(_SLOTS))
    while keys[slot] != 0 and keys[slot] != name:
        slot = (slot + 1) % _SLOTS
    return slot


@compiled(nogil=True, inline="always")
def _ends_comment(data, at):
    """Whether a ">" stands behind "--" or "--!"."""
    if data[at - 1] == 33:
        at -= 1
    return data[at - 1] == 45 and data[at - 2] == 45


@compiled(nogil=True)
def _find(data, at, byte):
    """The next place of a byte, else the end. An unsigned index, which numba does not check for being negative."""
    place, end = np.uint64(at), np.uint64(data.size)
    while place + np.uint64(_BLOCK) <= end:  # a loop of fixed length, which becomes one of vectors
        hit = np.uint8(0)
        for k in range(_BLOCK):
            hit |= np.uint8(data[place + np.uint64(k)] == byte)
        if hit:
            break
        place += np.uint64(_BLOCK)
    while place < end and data[place] != byte:
        place += np.uint64(1)
    return max(np.int64(place), at)


@compiled(nogil=True, inline="always")
def _is_space(byte):
    return byte == 32 or byte == 9 or byte == 10 or byte == 12 or byte == 13


@compiled(nogil=True, inline="always")
def _name(data, at):
    """Where the name that starts here ends, and its number."""
    number = np.uint64(0)
    while at < data.size:
        byte = data[at]
        if byte == 62 or byte == 47 or _is_space(byte):
            break
        if 65 <= byte <= 90:
            byte |= 0x20
        number = number * np.uint64(_PRIME) + np.uint64(byte)
        at += 1
    return at, max(number, np.uint64(1))


@compiled(nogil=True, inline="always")
def _attributes(data, at):
    """Where the tag ends whose name ended here, and how many attributes it has.

    Source: the HTML Standard, sections 13.2.5.32 to 13.2.5.40.
    """
    size, count = data.size, 0
    while at < size and data[at] != 62:
        if _is_space(data[at]) or data[at] == 47:
            at += 1
            continue
        count += 1
        at += 1  # an "=" here is part of the name
        while at < size and not (data[at] == 61 or data[at] == 62 or data[at] == 47 or _is_space(data[at])):
            at += 1
        while at < size and _is_space(data[at]):
            at += 1
        if at >= size or data[at] != 61:
            continue
        at += 1
        while at < size and _is_space(data[at]):
            at += 1
        if at < size and (data[at] == 34 or data[at] == 39):
            at = _find(data, at + 1, data[at]) + 1
        else:
            while at < size and not (data[at] == 62 or _is_space(data[at])):
                at += 1
    return at + 1, count


def _number(name: str) -> int:
    """As _name gives it."""
    number = 0
    for byte in name.encode():
        number = (number * _PRIME + byte) % (1 << 64)
    return number


def _numbers(names: str) -> tuple[np.uint64, ...]:
    return tuple(np.uint64(_number(name)) for name in names.split())


def _start_bits() -> np.ndarray:
    """By the two bytes behind a "<": a bit for each of SOUGHT that starts so."""
    bits = np.zeros(1 << 16, np.uint16)
    for i, name in enumerate(SOUGHT):
        for first in {ord(name[0]), ord(name[0].upper())}:
            for second in {ord(name[1]), ord(name[1].upper())}:
                bits[first << 8 | second] |= 1 << i
    return bits


def _sought(bits: int) -> frozenset[str]:
    if bits not in _SOUGHT:
        _SOUGHT[bits] = frozenset(name for i, name in enumerate(SOUGHT) if bits >> i & 1)
    return _SOUGHT[bits]


_SOUGHT: dict[int, frozenset[str]] = {}
_SCRIPT, _STYLE, _SELECT, *_ = _numbers("script style select")
# Elements within svg and math in which HTML may stand, where an end tag of theirs may count for nothing.
_POINTS = _numbers("foreignobject desc title annotation-xml mi mo mn ms mtext")
_KEYS = np.array([_number(name) for name in _NAMES], np.uint64)
_KINDS = np.array(list(_NAMES.values()), np.uint8)
_STARTS = _start_bits()
