"""The parts of an HTML tokenizer that dataops.web.markup reads a page's tags with, compiled.

Names are numbers: a hash of 64 bits, in which the names that a page knows are told apart.
"""

import numpy as np

from dataops.kernels.compiled import compiled

LICENSE, LABELLED = 1, 2
"""What the attributes of a tag may say: that it is a link to a licence; that its label is another element."""
_BLOCK = 16
_PRIME = 0x100000001B3


def hash_name(name: str) -> int:
    """Of a name in lower case, as `read_name` gives it."""
    found = 0
    for byte in name.encode():
        found = (found * _PRIME + byte) % (1 << 64)
    return found


def hash_names(names: str) -> tuple[np.uint64, ...]:
    """Of names with spaces between them."""
    return tuple(np.uint64(hash_name(name)) for name in names.split())


_SPACE, _SLASH, _END, _EQUALS, _QUOTE = 1, 2, 4, 8, 16
_WHAT = np.zeros(256, np.uint8)
for _bytes, _what in ((b" \t\n\f\r", _SPACE), (b"/", _SLASH), (b">", _END), (b"=", _EQUALS), (b"\"'", _QUOTE)):
    _WHAT[list(_bytes)] = _what
_REL, _HREF, _LABELLEDBY = hash_names("rel href aria-labelledby")


@compiled(nogil=True)
def find_byte(data, at, byte):
    """The next place of a byte, else the end. An unsigned index, which numba does not check for being negative."""
    place, end = np.uint64(at), np.uint64(data.size)
    while place + np.uint64(_BLOCK) <= end:
        first = np.uint8(_BLOCK)
        for k in range(_BLOCK):  # a loop of fixed length without a branch, which becomes one of vectors
            first = min(first, np.uint8(k) if data[place + np.uint64(k)] == byte else np.uint8(_BLOCK))
        if first < _BLOCK:
            return np.int64(place) + first
        place += np.uint64(_BLOCK)
    while place < end and data[place] != byte:
        place += np.uint64(1)
    return max(np.int64(place), at)


@compiled(nogil=True)
def copy_range(data, begin, end, out, written):
    """Copy a range of the data behind what was written; how much then is."""
    place, there = np.uint64(begin), np.uint64(written)
    for k in range(np.uint64(max(0, end - begin))):
        out[there + k] = data[place + k]
    return written + max(0, end - begin)


@compiled(nogil=True)
def ends_comment(data, at):
    """Whether the ">" at a place stands behind "--" or "--!"."""
    if data[at - 1] == 33:
        at -= 1
    return data[at - 1] == 45 and data[at - 2] == 45


@compiled(nogil=True)
def _is(data, at, what):
    """Whether the byte at a place is one of these. An unsigned index: as in `find`."""
    return _WHAT[data[np.uint64(at)]] & what != 0


@compiled(nogil=True)
def read_name(data, at):
    """Where the name that starts here ends, and its number."""
    found = np.uint64(0)
    while at < data.size and not _is(data, at, _SPACE | _SLASH | _END):
        found = found * np.uint64(_PRIME) + np.uint64(_lower(data[np.uint64(at)]))
        at += 1
    return at, max(found, np.uint64(1))


@compiled(nogil=True)
def _lower(byte):
    return byte | 0x20 if 65 <= byte <= 90 else byte


@compiled(nogil=True)
def read_attributes(data, at):
    """Of the tag whose name ended here: where it ends, how many attributes it has, whether it closes itself, and what of
    LICENSE and LABELLED its attributes may say.

    Source: the HTML Standard, sections 13.2.5.32 to 13.2.5.40.
    """
    size, count, says, closed = data.size, 0, 0, False
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
        if end - begin == 3 or end - begin == 4 or end - begin == 15:
            says |= _says(data, begin, end, value, min(at, size))
    return at + 1, count, closed, says


@compiled(nogil=True)
def _says(data, begin, end, value, after):
    """What an attribute may say."""
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
    """Whether three letters may stand in a range, in either case, one behind the other."""
    for at in range(begin, end):
        if data[at] == 38:  # "&": a character reference
            return True
        if at + 2 < end and data[at] | 0x20 == first and data[at + 1] | 0x20 == second and data[at + 2] | 0x20 == third:
            return True
    return False
