"""Finds every query of a list in every caption: whole words, in any case, at the speed of memory.

A caption's words are hashed once; each run of up to as many words as the longest query has is looked up in one hash table,
which holds the beginnings of queries too, so that a run which begins none is left at once. Two runs count as the same when
their 64-bit hashes are: with 500,000 queries, one run of words in 10^13 is taken for a query that it is not.

A word is a run of letters, marks and digits; in scripts that set no spaces between words, each character is one. Case is
folded.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dataops.kernels.characters import GAP, LETTER, MOST_FOLDED, characters, fold, next_code
from dataops.kernels.compiled import compiled
from dataops.kernels.hashes import mix, text_buffers

MAX_WORDS = 4096
"""Of a caption, that are looked at."""

_PREFIX = -1  # in the table: what begins queries but is none


@dataclass(frozen=True, eq=False)
class Queries:
    """A list of queries as a hash table of S slots (a power of two)."""

    texts: tuple[str, ...]
    """As they were given; their places are the numbers that `match` gives."""
    hashes: NDArray[np.uint64]  # (S,) 0 where empty
    numbers: NDArray[np.int32]  # (S,)
    longest: int
    """Words of the longest one."""


def compile_queries(texts: Sequence[str]) -> Queries:
    """Make the table of a list of queries. Of queries that differ in case and spacing only, the first stands for all.

    Raises: ValueError for a query without a word.
    """
    data, offsets = text_buffers(pa.array(texts, pa.large_string()))
    lengths = np.zeros(len(texts), np.int32)
    slots = 1 << max(4, (4 * max(1, sum(text.count(" ") + 1 for text in texts))).bit_length())
    hashes, numbers = np.zeros(slots, np.uint64), np.zeros(slots, np.int32)
    _fill(data, offsets, *characters(), lengths, hashes, numbers)
    if (lengths == 0).any():
        number = int(np.flatnonzero(lengths == 0)[0])
        raise ValueError(f"query {number} has no word: {texts[number]!r}")
    return Queries(tuple(texts), hashes, numbers, int(lengths.max(initial=1)))


def match_queries(captions: pa.Array, queries: Queries) -> pa.Array:
    """The numbers of the queries in each caption (list<uint32>): each once, sorted. A null caption has none."""
    data, offsets = text_buffers(captions)
    starts, found = np.zeros(len(captions) + 1, np.int32), np.empty(max(1024, 4 * len(captions)), np.uint32)
    done = 0
    while done < len(captions):
        done = _match(
            data, offsets, *characters(), queries.hashes, queries.numbers, queries.longest, done, starts, found
        )
        if done < len(captions):  # room ran out
            found = np.concatenate([found, np.empty(max(len(found), MAX_WORDS * queries.longest), np.uint32)])
    return pa.ListArray.from_arrays(pa.array(starts), pa.array(found[: starts[-1]]))


@compiled(inline="always")
def _extend_run(run, word):
    """The hash of a run of words with one more word; never 0, which marks an empty slot."""
    return mix(run * np.uint64(0x9E3779B97F4A7C15) + word) | np.uint64(1)


@compiled()
def _hash_words(data, start, end, kinds, folds, several, words):
    """Write the hash of each word of a text to `words`; how many there are, at most as many as fit."""
    count, at, inside = 0, start, False
    word = np.uint64(0)
    folded = np.empty(MOST_FOLDED, np.uint32)
    while at < end:
        code, at = next_code(data, at)
        kind = kinds[code]
        if inside and kind != LETTER:
            words[count] = mix(word)
            count, inside = count + 1, False
        if kind == GAP:
            continue
        if count == len(words):
            return count
        if not inside:
            word = np.uint64(0xCBF29CE484222325)  # FNV-1a, over code points
        for i in range(fold(code, folds, several, folded)):
            word = (word ^ np.uint64(folded[i])) * np.uint64(0x100000001B3)
        if kind == LETTER:
            inside = True
        else:
            words[count] = mix(word)
            count += 1
    if inside and count < len(words):
        words[count] = mix(word)
        count += 1
    return count


@compiled(inline="always")
def _slot(hashes, run):
    """Where a run stands in the table, or the empty slot where it would."""
    mask = np.uint64(len(hashes) - 1)
    at = (run >> np.uint64(20)) & mask
    while hashes[at] != 0 and hashes[at] != run:
        at = (at + np.uint64(1)) & mask
    return at


@compiled()
def _fill(data, offsets, kinds, folds, several, lengths, hashes, numbers):
    words = np.empty(MAX_WORDS, np.uint64)
    for number in range(len(lengths)):
        count = _hash_words(data, offsets[number], offsets[number + 1], kinds, folds, several, words)
        lengths[number] = count
        run = np.uint64(0)
        for i in range(count):
            run = _extend_run(run, words[i])
            at = _slot(hashes, run)
            if hashes[at] == 0:
                hashes[at] = run
                numbers[at] = _PREFIX
            if i == count - 1 and numbers[at] == _PREFIX:
                numbers[at] = number


@compiled(nogil=True)
def _match(data, offsets, kinds, folds, several, hashes, numbers, longest, done, starts, found):
    """Match captions from `done` on until `found` is full; how many captions are done."""
    words = np.empty(MAX_WORDS, np.uint64)
    for i in range(done, len(offsets) - 1):
        count = _hash_words(data, offsets[i], offsets[i + 1], kinds, folds, several, words)
        end = starts[i]
        if end + count * longest > len(found):
            return i
        for first in range(count):
            run = np.uint64(0)
            for last in range(first, min(first + longest, count)):
                run = _extend_run(run, words[last])
                at = _slot(hashes, run)
                if hashes[at] == 0:
                    break
                if numbers[at] != _PREFIX:
                    found[end] = numbers[at]
                    end += 1
        starts[i + 1] = _sort_unique(found, starts[i], end)
    return len(offsets) - 1


@compiled()
def _sort_unique(found, start, end):
    """Sort found[start:end] and take out what is there twice; the new end. Few at a time: by insertion."""
    size = start
    for i in range(start, end):
        value = found[i]
        at = size
        while at > start and found[at - 1] > value:
            at -= 1
        if at > start and found[at - 1] == value:
            continue
        for j in range(size, at, -1):
            found[j] = found[j - 1]
        found[at] = value
        size += 1
    return size
