"""What two captions are compared by: the runs of three characters in their normal forms.

The normal form is the caption's words (as dataops.text.query_matching finds them: runs of letters, marks and digits; in scripts
that set no spaces between words, each character is one) in folded case, with one space before, between and after them. So
case, punctuation and spacing do not count.

Characters and not words, since captions are short: of three words, one with another ending ("kite", "kites") would leave
two words of four in common, and compounds and scripts without spaces have no words to speak of. Three characters tell
texts apart (two of any twenty words of English share a tenth of these shingles) and still survive a change of one letter.
Since runs go over the space between words, a change of order costs two of them for each place where it shows. In scripts
without spaces they are the characters and the pairs of neighbours. A share of them is a matter of length, as it should
be: another letter in three words ("a red cat", "a red hat") says something else, in twenty words it is a slip.
"""

import numpy as np
import pyarrow as pa

from dataops.kernels.characters import GAP, LETTER, MOST_FOLDED, characters, fold, next_code
from dataops.kernels.compiled import compiled
from dataops.kernels.hashes import Halves, mix, text_buffers

SHINGLE = 3
"""Characters of a shingle."""
MAX_CHARACTERS = 4096
"""Of a normal form, that are looked at."""

_SPACE = 32


def hash_normal_forms(captions: pa.Array) -> Halves:
    """A 128-bit hash of each caption's normal form; 0, 0 for one without a word."""
    data, offsets = text_buffers(captions)
    halves = np.zeros((len(offsets) - 1, 2), np.uint64)
    _hash_normal(data, offsets, *characters(), halves)
    return halves


@compiled()
def write_normal_form(data, start, end, kinds, folds, several, codes):
    """Write the code points of a text's normal form to `codes` (room for MOST_CHARACTERS); how many there are."""
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
    """The shingle that begins at a place of a normal form, as a number: three code points of 21 bits each."""
    return (np.uint64(codes[i]) << np.uint64(42)) | (np.uint64(codes[i + 1]) << np.uint64(21)) | np.uint64(codes[i + 2])


@compiled()
def write_shingles(codes, size, found):
    """Write the set of shingles of a normal form to `found`, sorted; how many there are."""
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
