"""Finds captions that may be near-duplicates: those that agree in a band of their MinHash signatures.

Of each of K hash functions, a signature holds the smallest hash of all the caption's shingles. Two captions agree in one
with the probability J, the Jaccard similarity of their sets of shingles (Broder 1997, "On the resemblance and containment
of documents", section 3), and in all `rows` of at least one of `bands` with 1 - (1 - J^rows)^bands (Leskovec, Rajaraman,
Ullman, "Mining of Massive Datasets", 3.4.2).
"""

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dataops.kernels.characters import characters
from dataops.kernels.compiled import compiled
from dataops.kernels.hashes import mix, text_buffers
from dataops.text.shingles import MAX_CHARACTERS, SHINGLE, shingle_at, write_normal_form

RECALL = 0.98
"""The least probability that a pair at the threshold agrees in a band; above the threshold it grows fast."""
MAX_HASHES, MAX_ROWS = 128, 16
"""In a signature; in a band."""


@dataclass(frozen=True)
class Scheme:
    """How signatures are cut into bands."""

    bands: int
    rows: int

    @property
    def hashes(self) -> int:
        """The size K of a signature."""
        return self.bands * self.rows

    def chance(self, similarity: float) -> float:
        """The probability that two captions of a Jaccard similarity agree in a band."""
        return 1 - (1 - similarity**self.rows) ** self.bands


def choose_scheme(threshold: float) -> Scheme:
    """The one with the longest bands, so the fewest pairs to look at in vain, that finds pairs at the threshold by RECALL.

    Args:
        threshold: of the Jaccard similarity; over 0, at most 1.

    Raises: ValueError where MOST_HASHES do not suffice (below 0.03).
    """
    for rows in range(MAX_ROWS, 0, -1):
        bands = 1 if threshold == 1 else math.ceil(math.log(1 - RECALL) / math.log1p(-(threshold**rows)))
        if bands * rows <= MAX_HASHES:
            return Scheme(bands, rows)
    raise ValueError(f"no {MAX_HASHES} hashes find pairs of a similarity of {threshold}")


def compute_signatures(captions: pa.Array, hashes: int) -> NDArray[np.uint32]:
    """(n, hashes): the signature of each caption; all ones where it has no word."""
    data, offsets = text_buffers(captions)
    found = np.empty((len(offsets) - 1, hashes), np.uint32)
    _signatures(data, offsets, *characters(), *_hash_functions(hashes), found)
    return found


def hash_bands(captions: pa.Array, scopes: NDArray[np.uint64], by: Scheme) -> NDArray[np.uint64]:
    """(n, bands): a hash of each band of each caption's signature, of its place, and of the caption's scope.

    Args:
        scopes: (n,); captions of different scopes agree in nothing.
    """
    data, offsets = text_buffers(captions)
    found = np.empty((len(offsets) - 1, by.bands), np.uint64)
    _bands(data, offsets, *characters(), *_hash_functions(by.hashes), scopes, by.rows, found)
    return found


def _hash_functions(number: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Factors (odd, so that each function is a permutation of the 32-bit numbers) and summands of hash functions."""
    seeds = np.arange(1, 2 * number + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    numbers = np.array([mix(seed) for seed in seeds], np.uint64) >> np.uint64(32)
    return numbers[:number].astype(np.uint32) | np.uint32(1), numbers[number:].astype(np.uint32)


@compiled(error_model="numpy")
def _write_signature(codes, size, factors, summands, signature):
    """Write the signature of a normal form. The inner loop is one vector instruction for each of multiply, add, least."""
    signature[:] = np.uint32(0xFFFFFFFF)
    for i in range(size - SHINGLE + 1):
        base = np.uint32(mix(shingle_at(codes, i)) >> np.uint64(32))
        for k in range(len(signature)):
            hash_ = np.uint32(factors[k] * base + summands[k])
            signature[k] = hash_ if hash_ < signature[k] else signature[k]


@compiled(nogil=True)
def _signatures(data, offsets, kinds, folds, several, factors, summands, found):
    codes = np.empty(MAX_CHARACTERS, np.uint32)
    for i in range(len(offsets) - 1):
        size = write_normal_form(data, offsets[i], offsets[i + 1], kinds, folds, several, codes)
        _write_signature(codes, size, factors, summands, found[i])


@compiled(nogil=True)
def _bands(data, offsets, kinds, folds, several, factors, summands, scopes, rows, found):
    codes, signature = np.empty(MAX_CHARACTERS, np.uint32), np.empty(len(factors), np.uint32)
    for i in range(len(offsets) - 1):
        size = write_normal_form(data, offsets[i], offsets[i + 1], kinds, folds, several, codes)
        _write_signature(codes, size, factors, summands, signature)
        for band in range(found.shape[1]):
            hash_ = mix(scopes[i] + np.uint64(band + 1) * np.uint64(0x9E3779B97F4A7C15))
            for k in range(band * rows, (band + 1) * rows):
                hash_ = mix(hash_ ^ np.uint64(signature[k]))
            found[i, band] = hash_
