"""Computes MinHash signatures of captions, and their bands: captions that share a band may be near-duplicates.

A signature holds, for each of K hash functions, the smallest hash of the caption's shingles. Two captions agree in one
of them with probability J, the Jaccard similarity of their sets of shingles (Broder 1997, "On the resemblance and
containment of documents", section 3), and in all `rows` of at least one of `bands` with probability 1 - (1 -
J^rows)^bands (Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", 3.4.2).
"""

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dataops.kernels.characters import characters
from dataops.kernels.compiled import compiled
from dataops.kernels.hashes import mix, text_buffers
from plugins.textdedup.shingles import MAX_CHARACTERS, SHINGLE, shingle_at, write_normal_form

RECALL = 0.98
"""Minimum probability that a pair at the threshold shares a band; above the threshold, it grows fast."""
MAX_HASHES, MAX_ROWS = 128, 16
"""Maximum number of hashes of a signature, and of a band."""


@dataclass(frozen=True)
class Scheme:
    """The number of bands of a signature, and the number of hashes (rows) of a band."""

    bands: int
    rows: int

    @property
    def hashes(self) -> int:
        """The size K of a signature."""
        return self.bands * self.rows

    def chance(self, similarity: float) -> float:
        """Return the probability that two captions of a Jaccard similarity share a band."""
        return 1 - (1 - similarity**self.rows) ** self.bands


def choose_scheme(threshold: float) -> Scheme:
    """Return the scheme with the longest bands, and so the fewest false candidates, that reaches RECALL at a threshold.

    Args:
        threshold: Jaccard similarity, over 0 and at most 1.

    Raises: ValueError when MAX_HASHES are too few (below 0.03).
    """
    for rows in range(MAX_ROWS, 0, -1):
        bands = 1 if threshold == 1 else math.ceil(math.log(1 - RECALL) / math.log1p(-(threshold**rows)))
        if bands * rows <= MAX_HASHES:
            return Scheme(bands, rows)
    raise ValueError(f"no {MAX_HASHES} hashes find pairs of a similarity of {threshold}")


def compute_signatures(captions: pa.Array, hashes: int) -> NDArray[np.uint32]:
    """Return the signature of each caption (n, hashes); all bits are 1 for a caption without words."""
    data, offsets = text_buffers(captions)
    found = np.empty((len(offsets) - 1, hashes), np.uint32)
    _signatures(data, offsets, *characters(), *_hash_functions(hashes), found)
    return found


def hash_bands(captions: pa.Array, scopes: NDArray[np.uint64], by: Scheme) -> NDArray[np.uint64]:
    """Return a hash (n, bands) of each band of each caption's signature, its index, and the scope of the caption.

    Args:
        scopes: (n,); captions of different scopes share no band.
    """
    data, offsets = text_buffers(captions)
    found = np.empty((len(offsets) - 1, by.bands), np.uint64)
    _bands(data, offsets, *characters(), *_hash_functions(by.hashes), scopes, by.rows, found)
    return found


def _hash_functions(number: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Return factors and summands of hash functions; odd factors make each function a permutation of 32-bit numbers."""
    seeds = np.arange(1, 2 * number + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    numbers = np.array([mix(seed) for seed in seeds], np.uint64) >> np.uint64(32)
    return numbers[:number].astype(np.uint32) | np.uint32(1), numbers[number:].astype(np.uint32)


@compiled(error_model="numpy")
def _write_signature(codes, size, factors, summands, signature):
    """Write the signature of a normal form. The inner loop compiles to vector instructions: multiply, add, minimum."""
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
