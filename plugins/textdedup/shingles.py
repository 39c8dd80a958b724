"""Computes the normal forms of captions and their shingles, by which captions are compared.

The normal form is the words of the caption (as in dataops.text.query_matching) in folded case, with one space before,
between and after them. So case, punctuation and spacing do not count. A shingle is three consecutive characters of the
normal form.

Shingles are characters, not words, since captions are short: in a caption of three words, one other ending ("kite",
    "kites")
would leave two of four words in common, and scripts without spaces have no words. Three characters distinguish texts
(two random English texts of twenty words share a tenth of their shingles), and most shingles survive the change of one
letter. A shingle may contain the space between words, so a change of word order costs two shingles at each place. In
scripts without spaces, shingles are the characters and the pairs of neighbours. The similarity depends on length, as it
should: another letter in three words ("a red cat", "a red hat") changes the meaning, in twenty words it is a typing
error.
"""

import numpy as np
import pyarrow as pa

from dataops.kernels.characters import GAP, LETTER, MOST_FOLDED, characters, fold, next_code
from dataops.kernels.compiled import compiled
from dataops.kernels.hashes import Halves, mix, text_buffers

SHINGLE = 3
"""Characters of a shingle."""
MAX_CHARACTERS = 4096
"""Maximum characters of a normal form; the rest is ignored."""

_SPACE = 32


def hash_normal_forms(captions: pa.Array) -> Halves:
    """Return a 128-bit hash of the normal form of each caption (n, 2); (0, 0) for a caption without words."""
    data, offsets = text_buffers(captions)
    halves = np.zeros((len(offsets) - 1, 2), np.uint64)
    _hash_normal(data, offsets, *characters(), halves)
    return halves


@compiled()
def write_normal_form(data, start, end, kinds, folds, several, codes):
    """Write the code points of the normal form of a text to `codes` (MAX_CHARACTERS,), and return their number."""
    size, at, inside = 0, start, False
    folded = np.empty(MOST_FOLDED, np.uint32)
    while at < end:
        code, at = next_code(data, at)
        kind = kinds[code]
        if kind == GAP:
            inside = False
            continue
        if size + MOST_FOLDED + 2 > len(codes):
            break
        if not inside or kind != LETTER:
            codes[size] = _SPACE
            size += 1
        for i in range(fold(code, folds, several, folded)):
            codes[size] = folded[i]
            size += 1
        inside = kind == LETTER
    if size:
        codes[size] = _SPACE
        size += 1
    return size


@compiled(inline="always")
def shingle_at(codes, i):
    """Return the shingle at index i of a normal form as a number: three code points of 21 bits each."""
    return (np.uint64(codes[i]) << np.uint64(42)) | (np.uint64(codes[i + 1]) << np.uint64(21)) | np.uint64(codes[i + 2])


@compiled()
def write_shingles(codes, size, found):
    """Write the set of shingles of a normal form to `found`, sorted, and return their number."""
    count = max(0, size - SHINGLE + 1)
    for i in range(count):
        found[i] = shingle_at(codes, i)
    found[:count].sort()
    distinct = 0
    for i in range(count):
        if i == 0 or found[i] != found[distinct - 1]:
            found[distinct] = found[i]
            distinct += 1
    return distinct


@compiled(nogil=True)
def _hash_normal(data, offsets, kinds, folds, several, halves):
    codes = np.empty(MAX_CHARACTERS, np.uint32)
    for i in range(len(offsets) - 1):
        size = write_normal_form(data, offsets[i], offsets[i + 1], kinds, folds, several, codes)
        if size == 0:
            continue
        one, two = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1B54A32D192ED03)
        for j in range(size):
            code = np.uint64(codes[j])
            one = mix(one ^ code)
            two = mix(two + code * np.uint64(0x9E3779B97F4A7C15))
        halves[i, 0], halves[i, 1] = one, two
