"""Finds the hosts of URLs, and the URLs on which slow rules must run, in one pass over a column's bytes.

As in dataops.text.caption_counts, `url_may_*` is false only where the regular expression of a rule finds nothing.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from dataops.kernels.compiled import compiled
from dataops.kernels.hashes import text_buffers

_SLOTS_BITS = 12
_LOWER = np.arange(256, dtype=np.uint8)
_LOWER[ord("A") : ord("Z") + 1] += 32
_ENDS = np.zeros(256, np.bool_)
_ENDS[[ord(c) for c in "/?#"]] = True
_ODD = np.zeros(256, np.bool_)
_ODD[[ord(c) for c in ":@["]] = _ODD[128:] = True
# Words begin after one of these characters, which all become a slash.
_AS_SLASH = _LOWER.copy()
_AS_SLASH[[ord(c) for c in "_.-"]] = ord("/")
_NONE, _PLAIN, _UNUSUAL = range(3)


def find_url_signs(urls: pl.Series, words: Sequence[str], endings: Sequence[str]) -> pl.DataFrame:
    """Find URLs that may have a word or an ending; null counts as "".

    Args:
        words: in lower case, with at least three ASCII letters.
        endings: in lower case, with ASCII letters and digits.

    Returns: Boolean columns
        url_may_have_word: the first three letters of one of `words`, in any case, are at the beginning or after one of
            `/_.-`; or the URL is not ASCII.
        url_may_end: the text before the first `?` or `#` has one of `endings`, in any case, after its last dot; or the
            URL is not ASCII.
    """
    data, offsets = text_buffers(urls.to_arrow())
    found = np.zeros((2, len(urls)), np.bool_)
    _find_signs(data, offsets, _AS_SLASH, _beginnings(tuple(words)), _ending_bytes(tuple(endings)), found)
    return pl.DataFrame({"url_may_have_word": found[0], "url_may_end": found[1]})


@lru_cache(maxsize=8)
def _beginnings(words: tuple[str, ...]) -> NDArray[np.bool_]:
    """Return, for each hash of three letters (2^_SLOTS_BITS,), whether a word begins with them."""
    table = np.zeros(1 << _SLOTS_BITS, np.bool_)
    for word in words:
        first, second, third = word[:3].encode("ascii")
        table[_slot.py_func(first << 16 | second << 8 | third)] = True
    return table


@lru_cache(maxsize=8)
def _ending_bytes(endings: tuple[str, ...]) -> NDArray[np.uint8]:
    """Return the length of each ending and its bytes in reverse order (N, longest + 1)."""
    table = np.zeros((len(endings), max(map(len, endings), default=0) + 1), np.uint8)
    for row, ending in zip(table, endings, strict=True):
        row[0], row[1 : len(ending) + 1] = len(ending), list(ending.encode("ascii"))[::-1]
    return table


@compiled(inline="always")
def _slot(letters):
    return (((letters & 0xFFFFFF) * 0x9E3779B1) >> 16) & 0xFFF


@compiled(nogil=True)
def _find_signs(data, offsets, as_slash, words, endings, found):
    for i in range(len(offsets) - 1):
        start, end = offsets[i], offsets[i + 1]
        last, high, has_word, path_end = ord("/"), np.uint8(0), False, end
        for at in range(start, end):  # without branches that the processor would mispredict
            byte = data[at]
            high |= byte
            last = ((last << 8) | as_slash[byte]) & 0xFFFFFFFF
            has_word |= (last >> 24 == ord("/")) & words[_slot(last)]
        for at in range(start, end):
            if data[at] == ord("?") or data[at] == ord("#"):
                path_end = at
                break
        ends = False
        for j in range(len(endings)):
            size = np.int64(endings[j, 0])
            if path_end - start > size and data[path_end - size - 1] == ord("."):
                same = True
                for k in range(size):
                    same &= as_slash[data[path_end - 1 - k]] == endings[j, k + 1]
                ends |= same
        found[0, i], found[1, i] = has_word or high >= 128, ends or high >= 128


def parse_hosts(urls: pl.Series, unusual: pl.Expr) -> pl.Series:
    """Return the host name of each URL in lower case, null for text that is not an http or https URL.

    Args: unusual: expression over `url` that finds the host in URLs with a user, a port, an IPv6 address or non-ASCII
        text.
    """
    data, offsets = text_buffers(urls.to_arrow())
    kinds, bounds = np.zeros(len(urls), np.uint8), np.zeros(len(offsets), np.int64)
    names = np.empty(len(data), np.uint8)
    _find_hosts(data, offsets, _LOWER, _ENDS, _ODD, kinds, bounds, names)
    buffers = [None, pa.py_buffer(bounds), pa.py_buffer(names[: bounds[-1]])]
    found = pl.Series("host", pa.Array.from_buffers(pa.large_string(), len(urls), buffers))
    if not (kinds == _PLAIN).all():
        found = pl.select(pl.when(pl.Series(kinds == _PLAIN)).then(found)).to_series().alias("host")
        odd = pl.Series(np.flatnonzero(kinds == _UNUSUAL))
        found = found.scatter(odd, urls[odd].to_frame("url").select(unusual).to_series())
    return found


@compiled(nogil=True)
def _find_hosts(data, offsets, lower, ends, odd, kinds, bounds, names):
    size = 0
    for i in range(len(kinds)):
        at, end = offsets[i], offsets[i + 1]
        bounds[i + 1] = size
        if end - at < 7 or data[at] != ord("h") or data[at + 1] != ord("t") or data[at + 2] != ord("t"):
            continue
        at += 4 if data[at + 4] != ord("s") else 5
        if (
            data[offsets[i] + 3] != ord("p")
            or end - at < 3
            or data[at] != ord(":")
            or data[at + 1] != ord("/")
            or data[at + 2] != ord("/")
        ):
            continue
        at += 3
        kinds[i] = _PLAIN
        while at < end and not ends[data[at]]:
            if odd[data[at]]:
                kinds[i] = _UNUSUAL
                size = bounds[i + 1]
                break
            names[size] = lower[data[at]]
            size += 1
            at += 1
        bounds[i + 1] = size
