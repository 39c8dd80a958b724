"""128-bit hashes of whole columns, in compiled code.

Source: MurmurHash3_x64_128 (Austin Appleby, public domain), seed 0.
"""

from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from dataops.kernels.compiled import compiled

Halves = NDArray[np.uint64]
"""(n, 2): the high and the low half of each of n 128-bit numbers."""

_DIGITS = np.full(256, 255, np.uint8)
_DIGITS[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)


def text_buffers(texts: pa.Array) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the UTF-8 bytes of a column of strings, and their offsets (n + 1,), both read-only. A null is ""."""
    texts = texts.cast(pa.large_string())
    if texts.null_count:
        texts = texts.fill_null("")
    _, offsets, data = texts.buffers()
    bytes_ = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    if offsets is None:
        return _read_only(bytes_), _read_only(np.zeros(1, np.int64))
    bounds = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    return _read_only(bytes_), _read_only(bounds)


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array as read-only: numba compiles a function again for an array with another flag."""
    array = array.view()
    array.setflags(write=False)
    return array


def hash128(texts: pa.Array) -> Halves:
    """Return the hash of each string's UTF-8 bytes; a null hashes as ""."""
    data, offsets = text_buffers(texts)
    halves = np.empty((len(offsets) - 1, 2), np.uint64)
    _hash(data, offsets[:-1], offsets[1:], halves)
    return halves


def hash128_folded(texts: pa.Array) -> Halves:
    """Return the hash of each string after `str.casefold`, so that strings that differ only in case are equal."""
    return hash128(pl.Series([(text or "").casefold() for text in texts.to_pylist()], dtype=pl.String).to_arrow())


def uid_halves(uids: pa.Array) -> Halves:
    """Return uids (32 hex digits) as numbers.

    Raises: ValueError for a string that is not a uid.
    """
    data, offsets = text_buffers(uids)
    halves = np.empty((len(offsets) - 1, 2), np.uint64)
    bad = _hex(data, offsets, _DIGITS, halves)
    if bad >= 0:
        raise ValueError(f"row {bad} has no uid of 32 hex digits: {uids[bad].as_py()!r}")
    return halves


@compiled(inline="always")
def mix(value):
    """Return MurmurHash3's 64-bit finalizer: each bit of the result depends on all bits of the value."""
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
    """Return up to eight bytes as a little-endian number."""
    word, first = np.uint64(0), np.uint64(at)  # for a signed index, numba also handles a negative one, byte by byte
    for i in range(size):
        word |= np.uint64(data[first + np.uint64(i)]) << np.uint64(8 * i)
    return word


@compiled(inline="always")
def _last_bytes(data, end, size):
    """Return one to eight bytes as a number, by one load that also reads bytes before them."""
    return _word(data, end - 8, 8) >> np.uint64(8 * (8 - size))


@compiled(inline="always")
def _first(word):
    return _turned(word * np.uint64(0x87C37B91114253D5), 31) * np.uint64(0x4CF5AD432745937F)


@compiled(inline="always")
def _second(word):
    return _turned(word * np.uint64(0x4CF5AD432745937F), 33) * np.uint64(0x87C37B91114253D5)


@compiled(nogil=True)
def _hash(data, starts, ends, halves):
    for i in range(len(starts)):
        at, end = starts[i], ends[i]
        size = end - at
        one = two = np.uint64(0)
        while end - at >= 16:
            one = _turned(one ^ _first(_word(data, at, 8)), 27) + two
            one = one * np.uint64(5) + np.uint64(0x52DCE729)
            two = _turned(two ^ _second(_word(data, at + 8, 8)), 31) + one
            two = two * np.uint64(5) + np.uint64(0x38495AB5)
            at += 16
        if end - at > 8:
            two ^= _second(_last_bytes(data, end, end - at - 8))
            one ^= _first(_word(data, at, 8))
        elif end > at and size >= 8:
            one ^= _first(_last_bytes(data, end, end - at))
        elif end > at:
            one ^= _first(_word(data, at, size))
        one ^= np.uint64(size)
        two ^= np.uint64(size)
        one += two
        two += one
        one, two = mix(one), mix(two)
        one += two
        two += one
        halves[i, 0], halves[i, 1] = one, two


@compiled(nogil=True)
def _hex(data, offsets, digits, halves):
    """Parse hex digits; return the first row that is not 32 of them, else -1. A table avoids branches, which a processor
    would predict wrongly.
    """
    for i in range(len(offsets) - 1):
        start, seen = offsets[i], np.uint8(0)
        if offsets[i + 1] - start != 32:
            return i
        for half in range(2):
            number = np.uint64(0)
            for at in range(start + 16 * half, start + 16 * half + 16):
                value = digits[data[at]]
                seen |= value
                number = (number << np.uint64(4)) | np.uint64(value)
            halves[i, half] = number
        if seen > 15:
            return i
    return -1
