"""A set of 256-bit hashes that is searched by Hamming distance, with 32 bytes of memory for each hash."""

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1 << 15
"""Hashes that are compared at a time: their words fit in the cache of a core."""


class DistanceSet:
    """A set of 256-bit hashes.

    Args:
        words_N4: the hashes as four words each.
    """

    def __init__(self, words_N4: NDArray[np.uint64]):
        self._columns = [np.ascontiguousarray(words_N4[:, column]) for column in range(4)]

    def __len__(self) -> int:
        return len(self._columns[0])

    def has_near(self, words: NDArray[np.uint64], max_bits: int) -> bool:
        """Return whether a hash of the set differs in at most `max_bits` bits.

        The distance over two words is at most that over four. Few pairs of unrelated hashes pass the first comparison,
        and only those are compared in full.
        """
        for start in range(0, len(self), _BLOCK):
            first, second, third, fourth = (column[start : start + _BLOCK] for column in self._columns)
            distances = np.bitwise_count(first ^ words[0])
            distances += np.bitwise_count(second ^ words[1])  # at most 128, in one byte
            near = np.flatnonzero(distances <= max_bits)
            if len(near):
                rest = np.bitwise_count(third[near] ^ words[2]) + np.bitwise_count(fourth[near] ^ words[3])
                if (distances[near].astype(np.int64) + rest <= max_bits).any():
                    return True
        return False
