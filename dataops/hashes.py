"""128-bit hashes of whole columns, in compiled code.

Source: MurmurHash3_x64_128 (Austin Appleby, public domain), seed 0.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dataops.characters import MOST_FOLDED, characters, fold, next_code
from dataops.compiled import compiled

Halves = NDArray[np.uint64]
"""(n, 2): the high and the low half of n 128-bit numbers."""


def text_buffers(texts: pa.Array) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The UTF-8 bytes of a column of strings, and where each begins and the last one ends (n + 1,). A null is ""."""
    texts = texts.cast(pa.large_string()).fill_null("")
    _, offsets, data = texts.buffers()
    bytes_ = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    if offsets is None:
        return bytes_, np.zeros(1, np.int64)
    return bytes_, np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]


def hash128(texts: pa.Array) -> Halves:
    """The hash of each string's UTF-8 bytes; a null hashes as ""."""
    data, offsets = text_buffers(texts)
    halves = np.empty((len(offsets) - 1, 2), np.uint64)
    _hash(data, offsets, halves)
    return halves


def uid_halves(uids: pa.Array) -> Halves:
    """The numbers that uids (32 hex digits) are.

    Raises: ValueError for a string that is none.
    """
    data, offsets = text_buffers(uids)
    halves = np.empty((len(offsets) - 1, 2), np.uint64)
    bad = _hex(data, offsets, halves)
    if bad >= 0:
        msg = f"row {bad} has no uid of 32 hex digits: {uids[bad].as_py()!r}"
        raise ValueError(msg)
    return halves


@compiled(inline="always")
def mixed(value):
    """MurmurHash3's 64-bit finalizer: each bit of the result depends on all of the value."""
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xFF51AFD7ED558CCD)
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xC4CEB9FE1A85EC53)
    return value ^ (value >> np.uint64(33))


@compiled(inline="always")
def _turned(value, bits):
    return (value << np.uint64(bits)) | (value >> np.uint64(64 - bits))


@compiled(inline="always")
def _word(data, at, size):
    """Up to eight bytes as a little-endian number."""
    word = np.uint64(0)
    for i in range(size):
        word |= np.uint64(data[at + i]) << np.uint64(8 * i)
    return word


@compiled(inline="always")
def _first(word):
    return _turned(word * np.uint64(0x87C37B91114253D5), 31) * np.uint64(0x4CF5AD432745937F)


@compiled(inline="always")
def _second(word):
    return _turned(word * np.uint64(0x4CF5AD432745937F), 33) * np.uint64(0x87C37B91114253D5)


@compiled(nogil=True)
def _hash(data, offsets, halves):
    for i in range(len(offsets) - 1):
        at, end = offsets[i], offsets[i + 1]
        size = end - at
        one = two = np.uint64(0)
        while end - at >= 16:
            one = _turned(one ^ _first(_word(data, at, 8)), 27) + two
            one = one * np.uint64(5) + np.uint64(0x52DCE729)
            two = _turned(two ^ _second(_word(data, at + 8, 8)), 31) + one
            two = two * np.uint64(5) + np.uint64(0x38495AB5)
            at += 16
        if end - at > 8:
            two ^= _second(_word(data, at + 8, end - at - 8))
        if end > at:
            one ^= _first(_word(data, at, min(8, end - at)))
        one ^= np.uint64(size)
        two ^= np.uint64(size)
        one += two
        two += one
        one, two = mixed(one), mixed(two)
        one += two
        two += one
        halves[i, 0], halves[i, 1] = one, two


@compiled(nogil=True)
def _hex(data, offsets, halves):
    """Parse hex digits; the first row that is not 32 of them, else -1."""
    for i in range(len(offsets) - 1):
        if offsets[i + 1] - offsets[i] != 32:
            return i
        for half in range(2):
            number = np.uint64(0)
            for at in range(offsets[i] + 16 * half, offsets[i] + 16 * half + 16):
                digit = data[at]
                if 48 <= digit <= 57:
                    value = digit - 48
                elif 97 <= digit <= 102:
                    value = digit - 87
                else:
                    return i
                number = (number << np.uint64(4)) | np.uint64(value)
            halves[i, half] = number
    return -1


def hash128_folded(texts: pa.Array) -> Halves:
    """The hash of each string as `str.casefold` makes it, so that strings which differ in case alone are equal."""
    data, offsets = text_buffers(texts)
    halves = np.empty((len(offsets) - 1, 2), np.uint64)
    longest = int(np.diff(offsets).max(initial=0))
    _hash_folded(data, offsets, *characters(), np.empty(4 * MOST_FOLDED * longest, np.uint8), halves)
    return halves


@compiled(nogil=True)
def _hash_folded(data, offsets, kinds, folds, several, buffer, halves):
    folded, ends = np.empty(MOST_FOLDED, np.uint32), np.zeros(2, np.int64)
    for i in range(len(offsets) - 1):
        at, end, size = offsets[i], offsets[i + 1], 0
        while at < end:
            code, at = next_code(data, at)
            for j in range(fold(code, folds, several, folded)):
                for byte in range(4):  # as UTF-32
                    buffer[size] = (folded[j] >> np.uint32(8 * byte)) & np.uint32(0xFF)
                    size += 1
        ends[1] = size
        _hash(buffer, ends, halves[i : i + 1])
