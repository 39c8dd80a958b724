"""Compiled functions of an HTML tokenizer, with which dataops.web.markup scans the tags of a page.

Names of tags and attributes are compared by a hash of 64 bits.
"""

import numpy as np

from dataops.kernels.compiled import compiled

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
