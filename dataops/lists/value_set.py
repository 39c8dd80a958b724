"""A set of 128-bit values, with 16 bytes of memory for each of them."""

import hashlib

import numpy as np
from numpy.typing import NDArray

Halves = NDArray[np.uint64]
"""(n, 2): the high and the low half of each of n 128-bit numbers."""


def sort_values(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the distinct values (n, words) in their order."""
    ordered = values[np.lexsort(values.T[::-1])]
    is_new = np.ones(len(ordered), bool)
    is_new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return ordered[is_new]


def parse_values(values: bytes) -> Halves:
    """Return the values in bytes, each of 16, the most significant byte first."""
    return np.frombuffer(values, ">u8").reshape(-1, 2).astype(np.uint64)


def digest_values(values: NDArray[np.uint64]) -> str:
    """Return the sha256 of sorted values, as 64 hex digits."""
    return hashlib.sha256(values.astype(">u8").tobytes()).hexdigest()


class ValueSet:
    """A set of 128-bit values.

    Args:
        values: result of `sort_values`.
    """

    def __init__(self, values: Halves):
        self._high = np.ascontiguousarray(values[:, 0])
        self._low = np.ascontiguousarray(values[:, 1])

    def __len__(self) -> int:
        return len(self._high)

    def contains(self, values: Halves) -> NDArray[np.bool_]:
        """Return which of the values are in the set (n,)."""
        found = np.zeros(len(values), bool)
        at = np.searchsorted(self._high, values[:, 0])
        rows = np.arange(len(values))
        while len(rows := rows[at[rows] < len(self._high)]):  # more than once only for values with an equal high half
            rows = rows[self._high[at[rows]] == values[rows, 0]]
            is_same = self._low[at[rows]] == values[rows, 1]
            found[rows[is_same]] = True
            rows = rows[~is_same]
            at[rows] += 1
        return found
