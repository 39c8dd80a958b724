"""Finds pictures that are the same but for scale and compression, and says which of them stays.

Candidates come from a banded search over 64-bit perceptual hashes: two hashes that differ in at most d bits agree
wholly in at least one of d + 1 bands (pigeonhole), so no pair within the distance is missed. A hash of luminance alone
takes a red heart for a blue one, so candidates are verified on small colour thumbnails. Nothing here depends on the
order of the rows.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

Pairs = np.ndarray
"""int64 (P, 2): indices of rows, the smaller first."""
_BLOCK = 1 << 16  # candidate pairs verified at a time


def candidates(hashes: np.ndarray, groups: np.ndarray, distance: int) -> Pairs:
    """All pairs of rows of one group whose hashes differ in at most `distance` bits, each once, sorted.

    Args:
        hashes: uint64 (N,).
        groups: int64 (N,); rows of different groups are never compared.
        distance: 0 to 63.
    """
    count = len(hashes)
    found = [
        pairs[_bits(hashes, pairs) <= distance]
        for shift, width in _bands(distance)
        for pairs in _equal_pairs(groups, (hashes >> np.uint64(shift)) & np.uint64((1 << width) - 1))
    ]
    if not found:
        return np.empty((0, 2), np.int64)
    keys = np.unique(np.concatenate([pairs[:, 0] * count + pairs[:, 1] for pairs in found]))
    return np.stack([keys // count, keys % count], axis=1)


def _bits(hashes: np.ndarray, pairs: Pairs) -> np.ndarray:
    return np.bitwise_count(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]])


def _bands(distance: int) -> list[tuple[int, int]]:
    """(shift, width) of distance + 1 bands that cover the 64 bits."""
    edges = np.linspace(0, 64, distance + 2).astype(int).tolist()
    return [(low, high - low) for low, high in pairwise(edges)]


def _equal_pairs(groups: np.ndarray, values: np.ndarray) -> Iterator[Pairs]:
    """Pairs of rows that agree in group and value: of the sorted rows, those 1 apart, then 2 apart, and so on."""
    order = np.lexsort((values, groups))
    same = (np.diff(groups[order]) == 0) & (np.diff(values[order]) == 0)
    runs = np.concatenate([[0], np.cumsum(~same)])
    at, step = np.arange(len(order)), 1
    while len(at := at[at + step < len(order)]) and len(at := at[runs[at] == runs[at + step]]):
        pairs = np.stack([order[at], order[at + step]], axis=1)
        pairs.sort(axis=1)
        yield pairs
        step += 1


def verified(pairs: Pairs, thumbnails: np.ndarray, tolerance: int) -> Pairs:
    """The pairs whose thumbnails (uint8, (N, K)) differ by at most `tolerance` everywhere."""
    kept = [np.empty((0, 2), np.int64)]
    for start in range(0, len(pairs), _BLOCK):
        block = pairs[start : start + _BLOCK]
        left, right = thumbnails[block[:, 0]], thumbnails[block[:, 1]]
        apart = np.maximum(left, right) - np.minimum(left, right)
        kept.append(block[apart.max(axis=1, initial=0) <= tolerance])
    return np.concatenate(kept)


def clusters(count: int, pairs: Pairs) -> np.ndarray:
    """Of each row, the smallest index in its cluster (int64, (N,)): the connected components of the pairs."""
    parent = list(range(count))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for left, right in pairs.tolist():
        a, b = root(left), root(right)
        parent[max(a, b)] = min(a, b)
    return np.array([root(row) for row in range(count)], np.int64)


def survivors(cluster: np.ndarray, ranking: np.ndarray) -> np.ndarray:
    """The one row of each cluster with the smallest rank, as bool (N,).

    Args:
        ranking: int64 (N,), unique; the place of each row in the order of preference.
    """
    order = np.lexsort((ranking, cluster))
    first = np.ones(len(order), bool)
    first[1:] = np.diff(cluster[order]) != 0
    keep = np.zeros(len(order), bool)
    keep[order[first]] = True
    return keep
