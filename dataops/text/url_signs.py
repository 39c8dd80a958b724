"""Finds the hosts of URLs, and the URLs on which slow rules must run, in one pass over a column's bytes.

As the flags of dataops.text.caption_counts, `may_*` are false only where the regular expression of a rule finds nothing.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from dataops.kernels.compiled import compiled
from dataops.kernels.hashes import text_buffers
from dataops.web.urls import HOST

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


def may_have_word(words: Sequence[str]) -> pl.Expr:
    """Return whether the URL may have one of `words`; a null URL has none.

    It is true where the first three letters of a word, in any case, are at the beginning or after one of `/_.-`, and where
    the URL is not ASCII.

    Args:
        words: in lower case, with at least three ASCII letters.
    """
    return _test_urls(partial(_run, _find_words, _AS_SLASH, _beginnings(tuple(words))))


def may_end(endings: Sequence[str]) -> pl.Expr:
    """Return whether the URL may have one of `endings`; a null URL has none.

    It is true where the text before the first `?` or `#` has an ending, in any case, after its last dot, and where the URL
    is not ASCII.

    Args:
        endings: in lower case, with ASCII letters and digits.
    """
    return _test_urls(partial(_run, _find_endings, _AS_SLASH, _ending_bytes(tuple(endings))))


def _test_urls(test: Callable[[pl.Series], pl.Series]) -> pl.Expr:
    return pl.col("url").map_batches(test, pl.Boolean, is_elementwise=True)


def _run(find: Any, *tables_and_urls: Any) -> pl.Series:
    *tables, urls = tables_and_urls
    found = np.zeros(len(urls), np.bool_)
    find(*text_buffers(urls.to_arrow()), *tables, found)
    return pl.Series(urls.name, found)


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
def _find_words(data, offsets, as_slash, words, found):
    for i in range(len(offsets) - 1):
        last, high, has_word = ord("/"), np.uint8(0), False
        for at in range(offsets[i], offsets[i + 1]):  # without branches that the processor would mispredict
            byte = data[at]
            high |= byte
            last = ((last << 8) | as_slash[byte]) & 0xFFFFFFFF
            has_word |= (last >> 24 == ord("/")) & words[_slot(last)]
        found[i] = has_word or high >= 128


@compiled(nogil=True)
def _find_endings(data, offsets, as_slash, endings, found):
    for i in range(len(offsets) - 1):
        start, end = offsets[i], offsets[i + 1]
        high, path_end, ends = np.uint8(0), end, False
        for at in range(start, end):
            high |= data[at]
            if path_end == end and (data[at] == ord("?") or data[at] == ord("#")):
                path_end = at
        for j in range(len(endings)):
            size = np.int64(endings[j, 0])
            if path_end - start > size and data[path_end - size - 1] == ord("."):
                same = True
                for k in range(size):
                    same &= as_slash[data[path_end - 1 - k]] == endings[j, k + 1]
                ends |= same
        found[i] = ends or high >= 128


def host(url: pl.Expr) -> pl.Expr:
    """Return the host name of a URL, in lower case."""
    unusual = pl.col("url").str.extract(HOST, 1).str.to_lowercase()
    return url.map_batches(lambda urls: parse_hosts(urls, unusual), pl.String, is_elementwise=True)


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
