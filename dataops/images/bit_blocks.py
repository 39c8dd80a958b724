"""Blocks of the bits of 64-bit hashes: where two hashes that differ in few bits must agree (pigeonhole).

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
"""The greatest distance that may be asked for."""
_ROW_COST, _PAIR_COST = 50.0, 0.7  # nanoseconds to put a row into a large table, and to compare two


class BlockSearch(NamedTuple):
    """Of which pairs a search is: those that agree in all bits of `shared`, but not in all bits of any of `before`."""

    shared: int = 0
    before: tuple[int, ...] = ()


ALL_PAIRS = BlockSearch()
"""All pairs."""


def plan_searches(distance: int) -> list[BlockSearch]:
    """Searches that find each pair within the distance once, in the first block of bits in which it agrees wholly."""
    masks = _masks(range(64), distance + 1)
    return [BlockSearch(mask, tuple(masks[:number])) for number, mask in enumerate(masks)]


def _masks(bits: Sequence[int], number: int) -> list[int]:
    """The masks of so many blocks, of about one size, of some bits."""
    edges = np.linspace(0, len(bits), number + 1).astype(int).tolist()
    return [sum(1 << bit for bit in bits[low:high]) for low, high in pairwise(edges)]


def choose_masks(distance: int, comparisons: float, rows: int, shared: int = 0) -> Hashes:
    """The mask of the bits of each table; as many blocks as make the search cheapest.

    Args:
        distance: bits in which two hashes may differ.
        comparisons: of how many pairs the search is.
        rows: that go into a table.
        shared: bits in which the pairs agree anyway; they are part of each mask.

    Raises: ValueError for a distance that is not 0 to MOST_BITS.
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
