"""Reads a page's tags before a tree is built of them.

Tells markup that is built, or grown, to exhaust a parser, and leaves out what makes no difference to what is read from the
tree: the contents of scripts and styles, drawings, and attributes that nobody asks for. They are two thirds of the bytes of
real pages, and half of a parser's time.
"""

from enum import IntEnum
from typing import NamedTuple

import numpy as np

from dataops.kernels.compiled import compiled
from dataops.web.tag_scanner import (
    LABELLED,
    LICENSE,
    copy_range,
    ends_comment,
    find_byte,
    hash_name,
    hash_names,
    read_attributes,
    read_name,
)

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
_SLOTS = 1 << 14
_FLAT, _RAW, _FORMATTING, _FOREIGN, _STOPPING, _SHAPE, _POINT = range(1, 8)
# Elements that hold nothing, or that the next of their kind closes, do not nest. What is in raw ones is text up to their
# end tag, but not within foreign ones. Formatting is opened again after each block that closes over it (of a and nobr
# there is only ever one). Behind those that stop, a script may be none. Shapes stand in svg alone, hold nothing but each
# other, and never end it. In points within svg and math there may be HTML, where an end tag of theirs may count for
# nothing.
_NAMES_OF = {
    _FLAT: "area base br col embed hr img input link meta param source track wbr p li dt dd option optgroup tr td th thead "
    "tbody tfoot colgroup rp rt rb rtc html head body",
    _RAW: "script style textarea title xmp iframe noframes noembed",
    _FORMATTING: "b big code em font i s small strike strong tt u",
    _FOREIGN: "svg math",
    _STOPPING: "frameset plaintext",
    _SHAPE: "path g use defs symbol rect circle ellipse line polyline polygon stop lineargradient radialgradient clippath "
    "mask filter fecolormatrix fecomponenttransfer fecomposite fefunca fefuncb fefuncg fefuncr fegaussianblur feoffset "
    "feblend feflood",
    _POINT: "foreignobject desc annotation-xml mi mo mn ms mtext",
}
_NAMES = {name: kind for kind, names in _NAMES_OF.items() for name in names.split()}
# No reader asks for the attributes of these, and a tree is the same without them (which is not so of formatting, of which
# it counts equal elements, nor of input).
_BARE = (
    "div span p li ul ol dl dt dd h1 h2 h3 h4 h5 h6 section article nav header footer main aside table thead tbody tfoot "
    "tr td th col colgroup caption form label button select option optgroup br hr wbr figure figcaption noscript script "
    "style iframe time video audio svg"
)
_LINKS = "a link"
SOUGHT_TAGS = ("img", "amp-img", "base", "meta", "noscript", "figcaption", "picture")
"""Names whose start tags are looked for; `<image>` is read as `<img>`."""


class BadPage(ValueError):
    """The page cannot be read; `reason` is what the manifest counts it under: too_complex."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


class Reader(IntEnum):
    """What is asked of a tree: each keeps more than the one before."""

    PAIRS = 0
    """Attributes of images, of what belongs to them, and of links to licences."""
    LINKS = 1
    """Those of all links too."""
    ALL = 2


class Markup(NamedTuple):
    """A page that a tree can be built of."""

    html: bytes
    """Without what its reader does not ask for, where it is sure to be that; all else as it was."""
    starts: frozenset[str]
    """Those of SOUGHT whose start tags may occur: their first two letters stand behind a `<` somewhere."""
    licensed: bool
    """Whether a link to a licence may occur."""


def read_markup(html: bytes, reader: Reader) -> Markup:
    """Read the page's tags as a tokenizer does (comments and scripts are skipped), their nesting simply: an end tag
    closes an open element of its own name. That counts pages of sloppy markup as deeper than they are.

    Raises: BadPage('too_complex') where a tree of the page's tags could not be built in fair time and memory.
    """
    data, out = np.frombuffer(html, np.uint8), np.empty(len(html), np.uint8)
    work = _Work(*_read(data, int(reader), _KEYS, _KINDS, _STARTS, out))
    tree = 2 * len(html) + work.elements * _ELEMENT_BYTES + work.tags * _TEXT_BYTES + work.attributes * _ATTRIBUTE_BYTES
    if (
        work.depth > MAX_DEPTH
        or work.formatting * work.tags > MAX_REOPENED
        or work.compared > MAX_ATTRIBUTES**2
        or tree > MAX_TREE_BYTES
    ):
        raise BadPage("too_complex")
    if reader != Reader.ALL and (work.unsure or work.says & LABELLED):  # a label may be any element
        return read_markup(html, Reader.ALL)
    kept = html if work.written == len(html) else out[: work.written].tobytes()
    return Markup(kept, _sought(work.starts), reader == Reader.ALL or bool(work.says & LICENSE))


class _Work(NamedTuple):
    """What a page's tags ask of a parser: how many there are, and the greatest of what is open at once."""

    tags: int
    elements: int
    attributes: int
    compared: int  # sum of the squares of each tag's attributes
    depth: int
    formatting: int
    starts: int  # a bit for each of SOUGHT
    says: int  # of LICENSE and LABELLED, the tags that may
    unsure: bool  # whether the tree may see other tags
    written: int  # bytes of the page that are kept


@compiled(nogil=True)
def _read(data, reader, known, known_kinds, starts, out):
    """The fields of _Work; what is kept of the data goes to `out`.

    Nothing is left out from where on a tree might have it otherwise: an end tag of svg or math within an element of theirs
    that may hold HTML, a raw element within what may have ended them, `<s` behind `<!--` in a script (HTML Standard,
    13.2.5.15 to 29), a raw element in a select, a frameset, a plaintext.
    """
    keys, kinds = np.zeros(_SLOTS, np.uint64), np.zeros(_SLOTS, np.uint8)
    is_open = np.zeros(_SLOTS, np.int32)
    names = 0
    for i in range(known.size):
        slot = _slot(keys, known[i])
        keys[slot], kinds[slot] = known[i], known_kinds[i]
    tags = elements = attributes = compared = 0
    depth = formatting = foreign = most_depth = most_formatting = 0
    found, all_say = np.uint16(0), 0
    at, size = 0, data.size
    raw = np.uint64(0)  # the name of the raw element that we are in
    comment = escaped = unsure = False
    point = np.uint64(0)  # the element of svg or math in which HTML may stand that we are in
    drawing = captioned = astray = broken = False  # in an svg of nothing but shapes; after a figcaption; ...
    hole = copied = written = drawn = 0
    while at + 2 < size:
        if comment:
            while at < size and data[at] != 60 and not (data[at] == 62 and ends_comment(data, at)):
                at += 1
            comment = at < size and data[at] == 60
        else:
            at = find_byte(data, at, 60)  # "<"
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
                unsure |= foreign != 0 and data[at + 2] == 91  # "<![CDATA["
                at = find_byte(data, at, 62)
            else:
                at += 1
            continue
        begin = at
        at, name = read_name(data, at + 2 if closing else at + 1)
        if raw != 0 and name != raw:
            at = begin + 1
            continue
        name_end = at
        at, count, closed, says = read_attributes(data, at)
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
        kind = kinds[slot] & _KIND
        if raw != 0:
            if hole and not escaped and not unsure:
                written = copy_range(data, copied, hole, out, written)
                copied = begin
            raw, hole = np.uint64(0), 0
        elif kind == _STOPPING or (kind == _RAW and name != _SCRIPT and is_open[_slot(keys, _SELECT)] != 0):
            unsure = True
        if foreign != 0:
            if kind == _POINT or name == _TITLE:
                unsure |= point != 0 and not (closing and name == point)
                point = np.uint64(0) if closing else name
            unsure |= closing and kind == _FOREIGN and point != 0
            unsure |= kind == _RAW and (broken or (point != 0 and name != _TITLE))
            broken |= kind not in (_SHAPE, _POINT, _RAW, _FOREIGN)
            if drawing and closing and name == _SVG and foreign == 1 and not unsure:
                written, copied = drawn, begin
            drawing &= (kind == _SHAPE and point == 0) or name == _TITLE
        astray |= kind == _SHAPE and (foreign == 0 or broken or point != 0)
        if not closing:
            elements += 1
            captioned |= name == _FIGCAPTION
            if says & LABELLED and name in _IMAGES:
                all_say |= LABELLED
            if kinds[slot] & _LINK:
                all_say |= says & LICENSE
            if kind == _RAW and foreign == 0:
                raw, escaped = name, False
                if name in (_SCRIPT, _STYLE):
                    hole = at
            is_bare = kinds[slot] & _BARE_BIT != 0
            is_link = kinds[slot] & _LINK != 0 and reader == 0 and says & LICENSE == 0
            if (is_bare or is_link) and count and reader < 2 and foreign == 0 and not unsure and at <= size:
                written = copy_range(data, copied, name_end, out, written)
                copied = at - (2 if closed else 1)
        if kind in (_FLAT, _RAW) or (closing and is_open[slot] == 0) or (kind == _FOREIGN and closed and not closing):
            continue
        if kind == _FOREIGN and not closing and foreign == 0:
            broken = False
            if name == _SVG and reader < 2 and not captioned and not astray and is_open[_slot(keys, _SELECT)] == 0:
                drawing = True
                written = copy_range(data, copied, at, out, written)
                drawn, copied = written, at
        step = -1 if closing else 1
        is_open[slot] += step
        depth += step
        if kind == _FORMATTING:
            formatting += step
        elif kind == _FOREIGN:
            foreign += step
        most_depth, most_formatting = max(most_depth, depth), max(most_formatting, formatting)
    written = copy_range(data, copied, size, out, written)
    return tags, elements, attributes, compared, most_depth, most_formatting, found, all_say, unsure, written


@compiled(nogil=True, inline="always")
def _slot(keys, name):
    slot = np.int64((name ^ (name >> np.uint64(29))) % np.uint64(_SLOTS))
    while keys[slot] != 0 and keys[slot] != name:
        slot = (slot + 1) % _SLOTS
    return slot


def _kinds() -> dict[str, int]:
    """Of each name that is known: its kind, and the bits of what may be left out of its tags."""
    kinds = dict(_NAMES)
    for names, bit in ((_BARE, _BARE_BIT), (_LINKS, _LINK)):
        for name in names.split():
            kinds[name] = kinds.get(name, 0) | bit
    return kinds


def _start_bits() -> np.ndarray:
    """By the two bytes behind a "<": a bit for each of SOUGHT that starts so."""
    bits = np.zeros(1 << 16, np.uint16)
    for i, name in enumerate(SOUGHT_TAGS):
        for first in {ord(name[0]), ord(name[0].upper())}:
            for second in {ord(name[1]), ord(name[1].upper())}:
                bits[first << 8 | second] |= 1 << i
    return bits


def _sought(bits: int) -> frozenset[str]:
    if bits not in _SOUGHT:
        _SOUGHT[bits] = frozenset(name for i, name in enumerate(SOUGHT_TAGS) if bits >> i & 1)
    return _SOUGHT[bits]


_KIND, _BARE_BIT, _LINK = 7, 8, 16
_SOUGHT: dict[int, frozenset[str]] = {}
_SCRIPT, _STYLE, _SELECT, _TITLE, _SVG, _FIGCAPTION = hash_names("script style select title svg figcaption")
_IMAGES = hash_names("img amp-img image")
_KEYS = np.array([hash_name(name) for name in _kinds()], np.uint64)
_KINDS = np.array(list(_kinds().values()), np.uint8)
_STARTS = _start_bits()
