"""Matches each query of a list in each caption, as whole words in any case.

The words of a caption are hashed once. Each run of words, up to the length of the longest query, is
looked up in one hash table. The table also has the prefixes of queries, so that a run that begins
no query ends at once. Runs are equal if their 64-bit hashes are: with 500,000 queries, one run in
10^13 is a false match.

A word is a run of letters, marks and digits; in scripts without spaces between words, each
character is a word. Case is folded.
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
"""Maximum words of a caption; the rest is ignored."""

_PREFIX = -1
"""Value in the table of a prefix of queries that is not a query."""


@dataclass(frozen=True, eq=False)
class Queries:
    """A list of queries as a hash table of S slots (a power of two)."""

    texts: tuple[str, ...]
    """The queries; match_queries returns their indices."""
    hashes: NDArray[np.uint64]  # (S,) 0 where empty
    numbers: NDArray[np.int32]  # (S,)
    longest: int
    """Number of words of the longest query."""


def compile_queries(texts: Sequence[str]) -> Queries:
    """Build the table of a list of queries. Queries that differ in case and spacing only match as the first of them.

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
    """Return the indices of the queries that match each caption (list<uint32>), each once, sorted; none for null."""
    data, offsets = text_buffers(captions)
    starts, found = np.zeros(len(captions) + 1, np.int32), np.empty(max(1024, 4 * len(captions)), np.uint32)
    done = 0
    while done < len(captions):
        done = _match(
            data, offsets, *characters(), queries.hashes, queries.numbers, queries.longest, done, starts, found
        )
        if done < len(captions):  # `found` is full
            found = np.concatenate([found, np.empty(max(len(found), MAX_WORDS * queries.longest), np.uint32)])
    return pa.ListArray.from_arrays(pa.array(starts), pa.array(found[: starts[-1]]))


@compiled(inline="always")
def _extend_run(run, word):
    """Return the hash of a run of words with one more word; never 0, which marks an empty slot."""
    return mix(run * np.uint64(0x9E3779B97F4A7C15) + word) | np.uint64(1)


@compiled()
def _hash_words(data, start, end, kinds, folds, several, words):
    """Write the hash of each word of a text to `words`, as many as fit, and return their number."""
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
    """Return the slot of a run in the table, or the empty slot for it."""
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
    """Match captions from `done` on until `found` is full, and return the number of captions that are done."""
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
    """Sort found[start:end] by insertion, since it is short, remove duplicates, and return the new end."""
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
