"""Choose blocks of bits in which two close 64-bit hashes must agree, by the pigeonhole principle.

Source: Manku, Jain, Das Sarma, "Detecting Near-Duplicates for Web Crawling", WWW 2007, section 3.
"""

from collections.abc import Sequence
from itertools import combinations, pairwise
from math import comb
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

MAX_DISTANCE = 16
"""Maximum distance of a search, in bits."""
_ROW_COST, _PAIR_COST = 50.0, 0.7  # nanoseconds to put a row into a large table, and to compare two


class BlockSearch(NamedTuple):
    """A search for the pairs that agree in all bits of `shared`, but not in all bits of any mask in `before`."""

    shared: int = 0
    before: tuple[int, ...] = ()


ALL_PAIRS = BlockSearch()


def plan_searches(distance: int) -> list[BlockSearch]:
    """Return searches that find each pair within the distance once, in the first block in which it agrees completely."""
    masks = _masks(range(64), distance + 1)
    return [BlockSearch(mask, tuple(masks[:number])) for number, mask in enumerate(masks)]


def _masks(bits: Sequence[int], count: int) -> list[int]:
    """Return the masks of `count` blocks of the bits, of about equal size."""
    edges = np.linspace(0, len(bits), count + 1).astype(int).tolist()
    return [sum(1 << bit for bit in bits[low:high]) for low, high in pairwise(edges)]


def choose_masks(distance: int, comparisons: float, rows: int, shared: int = 0) -> Hashes:
    """Return the bit mask of each table, for the number of blocks with the cheapest search.

    Args:
        distance: maximum number of bits in which two hashes differ.
        comparisons: number of pairs that are searched.
        rows: number of rows in a table.
        shared: bits in which all these pairs agree; they are part of each mask.

    Raises: ValueError if the distance is not 0 to MAX_DISTANCE.
    """
    if not 0 <= distance <= MAX_DISTANCE:
        raise ValueError(f"distance is {distance}; allowed: 0 to {MAX_DISTANCE} bits")

    free = [bit for bit in range(64) if not shared >> bit & 1]

    def cost(blocks: int) -> float:
        bits = len(free) * (blocks - distance) // blocks
        return comb(blocks, distance) * (rows * _ROW_COST + comparisons * _PAIR_COST / 2 ** min(bits, 24))

    number = min(range(distance + 1, distance + 5), key=cost)
    chosen = combinations(_masks(free, number), number - distance)
    return np.array([sum(masks) | shared for masks in chosen], np.uint64)
