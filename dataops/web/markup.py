"""Scans the tags of a page before a tree is built.

The scan refuses markup that would exhaust the parser, and removes what readers of the tree do not
use: the contents of scripts and styles, and unused attributes. That is two thirds of the bytes of
real pages, and half of the parser's time. Names of tags and attributes are compared by a hash of 64
bits.
"""

from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from dataops.kernels.compiled import compiled
from dataops.reasons import Reason, Unusable

LICENSE, LABELLED, CAPTION = 1, 2, 4
"""Bits for what the attributes of a tag may show: that it links to a licence; that another element is its label; that its
first class is one that WordPress gives to captions (`wp-caption`, `wp-caption-text`)."""
_BLOCK = 16
_PRIME = 0x100000001B3


def hash_name(name: str) -> int:
    """Return the hash of a lower-case name, equal to that of `read_name`."""
    value = 0
    for byte in name.encode():
        value = (value * _PRIME + byte) % (1 << 64)
    return value


def hash_names(names: str) -> tuple[np.uint64, ...]:
    """Return the hashes of names that are separated by spaces."""
    return tuple(np.uint64(hash_name(name)) for name in names.split())


_SPACE, _SLASH, _END, _EQUALS, _QUOTE = 1, 2, 4, 8, 16
_BYTE_CLASS = np.zeros(256, np.uint8)
for _bytes, _class in ((b" \t\n\f\r", _SPACE), (b"/", _SLASH), (b">", _END), (b"=", _EQUALS), (b"\"'", _QUOTE)):
    _BYTE_CLASS[list(_bytes)] = _class
_REL, _HREF, _LABELLEDBY = hash_names("rel href aria-labelledby")


@compiled(nogil=True)
def find_byte(data, at, byte):
    """Return the next position of a byte, or the end of the data. Numba does not check unsigned indexes for wraparound."""
    place, end = np.uint64(at), np.uint64(data.size)
    while place + np.uint64(_BLOCK) <= end:
        first = np.uint8(_BLOCK)
        for k in range(_BLOCK):  # fixed length and no branch, so that the compiler vectorises it
            first = min(first, np.uint8(k) if data[place + np.uint64(k)] == byte else np.uint8(_BLOCK))
        if first < _BLOCK:
            return np.int64(place) + first
        place += np.uint64(_BLOCK)
    while place < end and data[place] != byte:
        place += np.uint64(1)
    return max(np.int64(place), at)


@compiled(nogil=True)
def copy_range(data, begin, end, out, written):
    """Append a range of the data to the first `written` bytes of `out`. Return the new number of written bytes."""
    source, target = np.uint64(begin), np.uint64(written)
    for k in range(np.uint64(max(0, end - begin))):
        out[target + k] = data[source + k]
    return written + max(0, end - begin)


@compiled(nogil=True)
def ends_comment(data, at):
    """Return whether the ">" at a position follows "--" or "--!"."""
    if data[at - 1] == 33:
        at -= 1
    return data[at - 1] == 45 and data[at - 2] == 45


@compiled(nogil=True)
def _is(data, at, classes):
    """Return whether the byte at a position is in one of the classes. The index is unsigned, as in `find_byte`."""
    return _BYTE_CLASS[data[np.uint64(at)]] & classes != 0


@compiled(nogil=True)
def read_name(data, at):
    """Return the end and the hash of the name that starts at a position."""
    value = np.uint64(0)
    while at < data.size and not _is(data, at, _SPACE | _SLASH | _END):
        value = value * np.uint64(_PRIME) + np.uint64(_lower(data[np.uint64(at)]))
        at += 1
    return at, max(value, np.uint64(1))


@compiled(nogil=True)
def _lower(byte):
    return byte | 0x20 if 65 <= byte <= 90 else byte


@compiled(nogil=True)
def read_attributes(data, at):
    """Scan the attributes of a tag, from the end of its name on.

    Returns: the end of the tag, the number of attributes, whether the tag closes itself, and the bits LICENSE and LABELLED.
    Source: the HTML Standard, sections 13.2.5.32 to 13.2.5.40.
    """
    size, count, signs, closed = data.size, 0, 0, False
    while at < size and not _is(data, at, _END):
        if _is(data, at, _SPACE | _SLASH):
            closed = _is(data, at, _SLASH)
            at += 1
            continue
        closed = False
        count += 1
        begin = at
        at += 1  # an "=" here is part of the name
        while at < size and not _is(data, at, _SPACE | _SLASH | _END | _EQUALS):
            at += 1
        end = at
        while at < size and _is(data, at, _SPACE):
            at += 1
        if at >= size or not _is(data, at, _EQUALS):
            continue
        at += 1
        while at < size and _is(data, at, _SPACE):
            at += 1
        if at < size and _is(data, at, _QUOTE):
            value = at + 1
            at = find_byte(data, value, data[np.uint64(at)]) + 1
        else:
            value = at
            while at < size and not _is(data, at, _SPACE | _END):
                at += 1
        if end - begin == 5:
            if data[begin] | 0x20 == 99 and value + 4 < size and _is_wordpress_caption(data, value):
                signs |= CAPTION
        elif end - begin == 3 or end - begin == 4 or end - begin == 15:
            signs |= _attribute_signs(data, begin, end, value, min(at, size))
    return at + 1, count, closed, signs


@compiled(nogil=True)
def _is_wordpress_caption(data, value):
    """Return whether a value starts with "wp-c"."""
    return data[value] == 119 and data[value + 1] == 112 and data[value + 2] == 45 and data[value + 3] == 99


@compiled(nogil=True)
def _attribute_signs(data, begin, end, value, after):
    """Return the bits LICENSE and LABELLED for one attribute; `value` to `after` is the range of its value."""
    name = np.uint64(0)
    for at in range(begin, end):
        name = name * np.uint64(_PRIME) + np.uint64(_lower(data[at]))
    if name == _LABELLEDBY:
        return LABELLED
    if name == _REL:
        return LICENSE if _has(data, value, after, 108, 105, 99) else 0  # "lic"
    if name == _HREF:
        while value < after and (data[value] <= 32 or data[value] >= 128):
            value += 1
        if value < after and (data[value] | 0x20 == 104 or data[value] == 38):  # "h", "&"
            before_path = min(after, value + len("https://www.creat"))
            return LICENSE if _has(data, value, before_path, 99, 114, 101) else 0  # "cre"
    return 0


@compiled(nogil=True)
def _has(data, begin, end, first, second, third):
    """Return whether a range may contain three consecutive letters, in either case."""
    for at in range(begin, end):
        if data[at] == 38:  # "&": a character reference
            return True
        if at + 2 < end and data[at] | 0x20 == first and data[at + 1] | 0x20 == second and data[at + 2] | 0x20 == third:
            return True
    return False


MAX_DEPTH = 5_000
"""Maximum number of open elements. The time to build a tree grows with the square of its depth: 0.1 s at 10,000, 17 s at
100,000 (measured with Lexbor 3)."""
MAX_REOPENED = 2_000_000
"""Maximum number of elements (360 bytes each) from unclosed formatting, which is reopened in each later paragraph."""
MAX_STEPS = 100_000_000
"""Maximum of the sum, over all tags, of the number of open elements, besides STEPS_PER_TAG for each: the parser searches
the open elements at many tags (0.3 s at this number; 400,000 in the largest of 730 real pages)."""
STEPS_PER_TAG = 100
MAX_ATTRIBUTES = 16_000
"""Maximum number of attributes of one tag, and of the root of the sum of squares over all tags: the parser compares each
attribute with all before it (0.5 s at this number). All `<html>` tags count as one, because they are one element; so do all
`<body>` tags."""
MAX_TREE_BYTES = 180_000_000
"""Maximum size of the page, the tree's copy of its text and the tree's nodes, estimated by the sizes below: the process
then stays below 500 MB."""

_ELEMENT_BYTES, _TEXT_BYTES, _ATTRIBUTE_BYTES = 240, 150, 290  # measured with Lexbor 3, rounded up
_MAX_NAMES = 8_000  # distinct element names; the hash table has twice as many slots
_SLOTS = 1 << 14
_MAX_PROBES = 512  # slots that are searched for a name; names of which more are in use were chosen for it
_FLAT, _RAW, _FORMATTING, _FOREIGN, _STOPPING, _SHAPE, _POINT = range(1, 8)
# FLAT elements do not nest: they are empty, or the next of their kind closes them. The content of RAW elements is text up
# to their end tag, except inside FOREIGN ones. FORMATTING elements are reopened after each block that closes over them (a
# and nobr are not: only one of each can be open). After a STOPPING element, a script tag may not be a script. SHAPE
# elements occur only in svg, contain only each other, and never end it. POINT elements (integration points) in svg and
# math may contain HTML, in which an end tag of svg or math may be ignored.
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
# No reader uses the attributes of these elements, and the tree is the same without them. (Attributes of formatting
# elements and of input do change the tree: the parser counts equal formatting elements.)
_BARE = (
    "div span p li ul ol dl dt dd h1 h2 h3 h4 h5 h6 section article nav header footer main aside table thead tbody tfoot "
    "tr td th col colgroup caption form label button select option optgroup br hr wbr figure figcaption noscript script "
    "style iframe time video audio svg"
)
_LINKS = "a link"
SOUGHT_TAGS = ("img", "amp-img", "base", "meta", "noscript", "figcaption", "picture")
"""Names of the tags whose occurrence is reported; `<image>` is read as `<img>`."""


class BadPage(Unusable):
    """Raised for a page that cannot be parsed; `reason` is its name in the manifest's counts: too_complex."""


class Reader(IntEnum):
    """The attributes that the reader of a tree uses; each member keeps more than the one before."""

    PAIRS = 0
    """Attributes of images, of the elements around them, and of links to licences."""
    LINKS = 1
    """In addition, attributes of all links."""
    ALL = 2


class Markup(NamedTuple):
    """A page that the parser can build a tree of."""

    html: bytes
    """The page without the bytes that its reader certainly does not use."""
    starts: frozenset[str]
    """The members of SOUGHT_TAGS that may occur: their first two letters follow a `<` somewhere."""
    licensed: bool
    """True if a link to a licence may occur."""
    has_wordpress_captions: bool = False
    """True if an element has one of the classes that WordPress gives to captions."""


def read_markup(html: bytes, reader: Reader) -> Markup:
    """Scan the tags of a page, and remove what the reader does not use.

    Tags are tokenised as in HTML (comments and scripts are skipped), but nesting is approximate: an
    end tag closes an open element of its own name. Pages with many unclosed tags therefore count as
    deeper than they are.

    Raises: BadPage('too_complex') if a tree of the page would take too much time or memory.
    """
    data, out = np.frombuffer(html, np.uint8), np.empty(len(html), np.uint8)
    work = _Work(*_read(data, int(reader), _KEYS, _KINDS, _STARTS, out))
    tree = 2 * len(html) + work.elements * _ELEMENT_BYTES + work.tags * _TEXT_BYTES + work.attributes * _ATTRIBUTE_BYTES
    if (
        work.depth > MAX_DEPTH
        or work.steps > MAX_STEPS + STEPS_PER_TAG * work.tags
        or work.formatting * work.tags > MAX_REOPENED
        or work.compared > MAX_ATTRIBUTES**2
        or tree > MAX_TREE_BYTES
    ):
        raise BadPage(Reason.TOO_COMPLEX)
    if reader != Reader.ALL and (work.unsure or work.signs & LABELLED):  # a label may be any element
        return read_markup(html, Reader.ALL)
    kept = html if work.written == len(html) else out[: work.written].tobytes()
    return Markup(
        kept, _sought_tags(work.starts), reader == Reader.ALL or bool(work.signs & LICENSE), bool(work.signs & CAPTION)
    )


class _Work(NamedTuple):
    """The work that the tags of a page cause for the parser: totals, and the maxima of open elements."""

    tags: int
    elements: int
    attributes: int
    compared: int
    """Sum over all tags of the squared number of attributes."""
    steps: int
    """Sum over all tags of the number of open elements."""
    depth: int
    """Maximum number of open elements."""
    formatting: int
    """Maximum number of open formatting elements."""
    starts: int
    """Bit set over SOUGHT_TAGS."""
    signs: int
    """Bit set of LICENSE, LABELLED and CAPTION."""
    unsure: bool
    """True if the parser may see other tags than the scan."""
    written: int
    """Number of bytes of the page that are kept."""


@compiled(nogil=True)
def _fill_slots(known, known_kinds):
    """Return the table of names, and the kinds of the known ones in the same slots."""
    keys, kinds = np.zeros(_SLOTS, np.uint64), np.zeros(_SLOTS, np.uint8)
    for i in range(known.size):
        slot = _slot(keys, known[i])
        keys[slot], kinds[slot] = known[i], known_kinds[i]
    return keys, kinds


@compiled(nogil=True)
def _read(data, reader, known, known_kinds, starts, out):
    """Return the fields of _Work, and write the bytes that are kept to `out`.

    Nothing is removed after a position from which the parser may see other tags: an end tag of svg
    or math within one of their elements that may contain HTML, a raw element within elements that
    may have ended them, `<s` after `<!--` in a script (HTML Standard, 13.2.5.15 to 29), a raw
    element in a select, a frameset, a plaintext.
    """
    keys, kinds = _fill_slots(known, known_kinds)
    is_open = np.zeros(_SLOTS, np.int32)
    names = 0
    tags = elements = attributes = compared = steps = 0
    of_single = np.zeros(2, np.int64)  # attributes of all tags of the one <html>, and of the one <body>
    depth = formatting = foreign = most_depth = most_formatting = 0
    found, all_signs = np.uint16(0), 0
    at, size = 0, data.size
    raw = np.uint64(0)  # name of the open raw element
    escaped = unsure = broken = False
    point = np.uint64(0)  # name of the open integration point of svg or math
    hole = copied = written = 0
    while at < size and most_depth <= MAX_DEPTH:
        at, seen, comments, escaped, doubt = _find_tag(data, at, raw, escaped, foreign, starts)
        found, tags, unsure = found | seen, tags + comments, unsure | doubt
        if at >= size:
            break
        begin, closing = at, data[at + 1] == 47
        at, name = read_name(data, at + 2 if closing else at + 1)
        if raw != 0 and name != raw:
            at = begin + 1
            continue
        name_end = at
        at, count, closed, signs = read_attributes(data, at)
        tags, attributes, steps = tags + 1, attributes + count, steps + depth
        compared += _compare(of_single, name, count)
        slot = _slot(keys, name)
        if slot >= 0 and keys[slot] == 0:
            names += 1
            keys[slot] = name
        if slot < 0 or names > _MAX_NAMES:
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
            point, broken, doubt = _enter_foreign(kind, name, closing, point, broken)
            unsure |= doubt
        if not closing:
            elements += 1
            if kind == _RAW and foreign == 0:
                raw, escaped = name, False
                hole = at if name in (_SCRIPT, _STYLE) else hole
            all_signs |= _signs(kinds[slot], name, signs)
            if (
                reader < 2
                and foreign == 0
                and count
                and not unsure
                and at <= size
                and _is_bare(kinds[slot], signs, reader)
            ):
                written = copy_range(data, copied, name_end, out, written)
                copied = at - (2 if closed else 1)
        if kind in (_FLAT, _RAW) or (closing and is_open[slot] == 0) or (kind == _FOREIGN and closed and not closing):
            continue
        broken &= foreign != 0
        step = -1 if closing else 1
        is_open[slot] += step
        depth += step
        formatting += step if kind == _FORMATTING else 0
        foreign += step if kind == _FOREIGN else 0
        most_depth, most_formatting = max(most_depth, depth), max(most_formatting, formatting)
    written = copy_range(data, copied, size, out, written)
    return tags, elements, attributes, compared, steps, most_depth, most_formatting, found, all_signs, unsure, written


@compiled(nogil=True, inline="always")
def _find_tag(data, at, raw, escaped, foreign, starts):
    """Find the next tag, or in a raw element the next end tag.

    Returns: its position, or the size of the data; the bit set of the SOUGHT_TAGS that may start before; the number of
        comments; whether `<!--` occurred in the open script; whether the parser may see other tags.
    """
    size, found, comments, unsure, comment = data.size, np.uint16(0), 0, False, False
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
        after, second = data[at + 1], data[at + 2]
        found |= starts[(np.uint32(after) << np.uint32(8)) | second]
        closing = after == 47
        first = (second if closing else after) | 0x20
        if comment or (raw != 0 and not closing):
            if raw == _SCRIPT:
                unsure |= escaped and first == 115
                escaped |= after == 33 and second == 45
            at += 1
        elif 97 <= first <= 122:
            return at, found, comments, escaped, unsure
        elif raw == 0 and after == 33 and second == 45 and at + 3 < size and data[at + 3] == 45:
            comment = True
            comments += 1
            at += 2
        elif raw == 0 and (after == 33 or after == 63 or closing):  # a declaration, or what counts as a comment
            unsure |= foreign != 0 and second == 91  # "<![CDATA["
            at = find_byte(data, at, 62)
        else:
            at += 1
    return size, found, comments, escaped, unsure


@compiled(nogil=True, inline="always")
def _enter_foreign(kind, name, closing, point, broken):
    """Return the open integration point, whether an element may have ended svg or math, and whether tags are unsure."""
    unsure = closing and kind == _FOREIGN and point != 0
    if kind == _POINT or name == _TITLE:
        unsure |= point != 0 and not (closing and name == point)
        point = np.uint64(0) if closing else name
    unsure |= kind == _RAW and (broken or (point != 0 and name != _TITLE))
    return point, broken or kind not in (_SHAPE, _POINT, _RAW, _FOREIGN), unsure


@compiled(nogil=True, inline="always")
def _compare(of_single, name, count):
    """Return the work of comparing the attributes of a tag with each other, and with those of all tags of one element."""
    if count == 0 or (name != _HTML and name != _BODY):
        return count * count
    which = 0 if name == _HTML else 1
    before = of_single[which]
    of_single[which] += count
    return count * count + count * before


@compiled(nogil=True, inline="always")
def _signs(bits, name, signs):
    """Return those of LICENSE, LABELLED and CAPTION that count for an element."""
    labelled = signs & LABELLED if name in _IMAGES else 0
    return labelled | (signs & LICENSE if bits & _LINK else 0) | (signs & CAPTION)


@compiled(nogil=True, inline="always")
def _is_bare(bits, signs, reader):
    """Return whether no reader uses the attributes of a tag."""
    is_link = bits & _LINK != 0 and reader == 0 and signs & LICENSE == 0
    return is_link or (bits & _BARE_BIT != 0 and signs & CAPTION == 0)


@compiled(nogil=True, inline="always")
def _slot(keys, name):
    """Return the slot of a name, or a free one; -1 if too many slots after the name's own are in use."""
    slot = np.int64((name ^ (name >> np.uint64(29))) % np.uint64(_SLOTS))
    for _ in range(_MAX_PROBES):
        if keys[slot] == 0 or keys[slot] == name:
            return slot
        slot = (slot + 1) % _SLOTS
    return np.int64(-1)


def _kinds() -> dict[str, int]:
    """Return for each known name its kind, and the bits that show what may be removed from its tags."""
    kinds = dict(_NAMES)
    for names, bit in ((_BARE, _BARE_BIT), (_LINKS, _LINK)):
        for name in names.split():
            kinds[name] = kinds.get(name, 0) | bit
    return kinds


def _start_bits() -> np.ndarray:
    """Return, by the two bytes after a "<", the bit set of the SOUGHT_TAGS that start with them."""
    bits = np.zeros(1 << 16, np.uint16)
    for i, name in enumerate(SOUGHT_TAGS):
        for first in {ord(name[0]), ord(name[0].upper())}:
            for second in {ord(name[1]), ord(name[1].upper())}:
                bits[first << 8 | second] |= 1 << i
    return bits


@lru_cache(maxsize=1 << len(SOUGHT_TAGS))
def _sought_tags(bits: int) -> frozenset[str]:
    return frozenset(name for i, name in enumerate(SOUGHT_TAGS) if bits >> i & 1)


_KIND, _BARE_BIT, _LINK = 7, 8, 16
_SCRIPT, _STYLE, _SELECT, _TITLE = hash_names("script style select title")
_HTML, _BODY = hash_names("html body")
_IMAGES = hash_names("img amp-img image")
_KEYS = np.array([hash_name(name) for name in _kinds()], np.uint64)
_KINDS = np.array(list(_kinds().values()), np.uint8)
_STARTS = _start_bits()
