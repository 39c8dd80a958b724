"""Find rows whose 64-bit hashes differ in few bits, and cluster them.

The search uses several hash tables, each over some of the hashes' bits. The 64 bits are divided
into m blocks, and a table uses m - d of them: two hashes that differ in at most d bits agree
completely in the blocks of at least one table (pigeonhole), so no pair within the distance is
missed. Rows in one bucket of a table are compared and joined at once: candidate pairs are never
listed, so memory is a few numbers per row. The result does not depend on the order of the rows.

Rows that do not fit one search are divided into several, each for the rows that agree in one of
d + 1 blocks.

Source: Manku, Jain, Das Sarma, "Detecting Near-Duplicates for Web Crawling", WWW 2007, section 3.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from math import comb
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from dataops.kernels.compiled import compiled
from dataops.kernels.hashes import mix

# Choose blocks of bits in which two close 64-bit hashes must agree, by the pigeonhole principle -----------------------
# Source: Manku, Jain, Das Sarma, "Detecting Near-Duplicates for Web Crawling", WWW 2007, section 3.

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


Rows = NDArray[np.int64]

_BUCKET_BITS = range(4, 25)
_PAIRS = 1 << 20  # pairs that `find_close_pairs` yields at a time


def hamming_distance(left: Hashes, right: Hashes) -> NDArray[np.uint8]:
    """Return the number of bits in which hashes differ."""
    return np.bitwise_count(left ^ right)


def find_clusters(
    hashes: Hashes,
    groups: Rows,
    thumbnails: NDArray[np.uint8],
    distance: int,
    tolerance: int,
    block: BlockSearch = ALL_PAIRS,
) -> Rows:
    """Return the smallest row of each row's cluster (int64, (N,)): the connected components of the near-duplicates.

    Two rows are near-duplicates if their groups are equal, their hashes differ in at most
    `distance` bits, and their thumbnails in at most `tolerance` everywhere. The time is quadratic
    in the number of nearly equal rows; rows that are exactly equal are compared once.

    Args:
        hashes: (N,)
        groups: (N,)
        thumbnails: (N, K); K may be 0.
        block: the pairs to search, beside those of rows that are equal in everything.
    """
    first, same_as = _distinct(hashes, groups, thumbnails)
    hashes, groups = hashes[first], groups[first]
    parent, shared, before = np.arange(len(first)), np.uint64(block.shared), np.array(block.before, np.uint64)
    for starts, rows, ordered in _fill_tables(hashes, groups, distance, block):
        _join(starts, rows, ordered, groups, thumbnails, first, distance, tolerance, shared, before, parent)
    _flatten(parent)
    return first[parent][same_as]


def has_neighbour(hashes: Hashes, groups: Rows, distance: int, block: BlockSearch = ALL_PAIRS) -> NDArray[np.bool_]:
    """Return whether each row has another one of its group whose hash differs in at most `distance` bits (N,)."""
    first, same_as = _distinct(hashes, groups, np.empty((len(hashes), 0), np.uint8))
    found = np.bincount(same_as, minlength=len(first)) > (1 if not block.before else len(same_as))
    hashes, groups = hashes[first], groups[first]
    shared, before = np.uint64(block.shared), np.array(block.before, np.uint64)
    for starts, rows, ordered in _fill_tables(hashes, groups, distance, block):
        _mark(starts, rows, ordered, groups, distance, shared, before, found)
    return found[same_as]


def find_connected(count: int, one: Rows, two: Rows) -> Rows:
    """Return the smallest row of each connected component, for each of `count` rows linked by pairs (one[i], two[i])."""
    parent = np.arange(count)
    _join_pairs(one, two, parent)
    _flatten(parent)
    return parent


def _fill_tables(
    hashes: Hashes, groups: Rows, distance: int, block: BlockSearch
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32], Hashes]]:
    """Yield the tables of a search: where each bucket begins, its rows, and their hashes."""
    count = len(hashes)
    rows, ordered, starts = np.empty(count, np.int32), np.empty(count, np.uint64), _starts(count)
    comparisons = count * count / 2 / 2 ** block.shared.bit_count()
    for mask in choose_masks(distance, comparisons, count, block.shared):
        _put(hashes, groups, mask, starts, rows, ordered)
        yield starts, rows, ordered


def _distinct(hashes: Hashes, groups: Rows, thumbnails: NDArray[np.uint8]) -> tuple[Rows, Rows]:
    """Return the first of each set of equal rows, ascending, and the index of each row's set among them."""
    width = thumbnails.shape[1]
    data = pa.py_buffer(np.ascontiguousarray(thumbnails))
    cells = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(hashes), [None, data]) if width else None
    rows = pl.DataFrame({"hash": hashes, "group": groups} | ({"cells": pl.Series(cells)} if width else {}))
    first = rows.with_row_index("row").select(pl.col("row").first().over(rows.columns))["row"].to_numpy()
    kept, same_as = np.unique(first.astype(np.int64), return_inverse=True)
    return kept, same_as


def find_close_pairs(queries: Hashes, hashes: Hashes, distance: int) -> Iterator[Rows]:
    """Yield all pairs (query, row) whose hashes differ in at most `distance` bits, as blocks (P, 2), each pair once."""
    if not len(queries) or not len(hashes):
        return
    masks = choose_masks(distance, len(queries) * len(hashes), len(queries) + len(hashes))
    starts, no_group = _starts(len(hashes)), np.zeros(max(len(hashes), len(queries)), np.int64)
    rows, ordered = np.empty(len(hashes), np.int32), np.empty(len(hashes), np.uint64)
    pairs = np.empty((max(_PAIRS, len(hashes)), 2), np.int64)
    for number, mask in enumerate(masks):
        _put(hashes, no_group, mask, starts, rows, ordered)
        at = 0
        while at < len(queries):
            found, at = _match(queries, at, masks[: number + 1], starts, rows, ordered, distance, pairs)
            if found:
                yield pairs[:found].copy()


def _starts(count: int) -> NDArray[np.int32]:
    """Return space for the starts of a table's buckets and the end of the last; there are about as many as rows."""
    bits = min(max(count.bit_length(), _BUCKET_BITS.start), _BUCKET_BITS.stop - 1)
    return np.empty((1 << bits) + 1, np.int32)


@compiled(inline="always")
def _bits(value):
    """Return the number of set bits."""
    value -= (value >> np.uint64(1)) & np.uint64(0x5555555555555555)
    value = (value & np.uint64(0x3333333333333333)) + ((value >> np.uint64(2)) & np.uint64(0x3333333333333333))
    value = (value + (value >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((value * np.uint64(0x0101010101010101)) >> np.uint64(56))


@compiled(inline="always")
def _bucket(value, group, mask, buckets):
    """Return the bucket of a row: equal for rows of one group that agree in the mask's bits, and sometimes for others."""
    return np.int64(mix((value & mask) ^ (np.uint64(group) * np.uint64(0x9E3779B97F4A7C15))) & np.uint64(buckets - 1))


@compiled(nogil=True)
def _put(hashes, groups, mask, starts, rows, ordered):
    """Sort the rows by bucket, with a stable counting sort."""
    buckets = len(starts) - 1
    starts[:] = 0
    for i in range(len(hashes)):
        starts[_bucket(hashes[i], groups[i], mask, buckets)] += 1
    total = 0
    for b in range(buckets):
        total += starts[b]
        starts[b] = total
    starts[buckets] = total
    for i in range(len(hashes) - 1, -1, -1):
        b = _bucket(hashes[i], groups[i], mask, buckets)
        starts[b] -= 1
        rows[starts[b]], ordered[starts[b]] = i, hashes[i]


@compiled(inline="always")
def _root(parent, row):
    while parent[row] != row:
        parent[row] = parent[parent[row]]
        row = parent[row]
    return row


@compiled(inline="always")
def _agree(apart, masks):
    """Return whether two hashes agree in all bits of some mask, from the bits in which they differ."""
    found = False
    for mask in masks:
        found |= (apart & mask) == 0
    return found


@compiled(inline="always")
def _elsewhere(apart, shared, before):
    """Return whether another search finds the pair: it differs in `shared`, or agrees in an earlier block."""
    return (apart & shared) != 0 or _agree(apart, before)


@compiled(nogil=True)
def _mark(starts, rows, ordered, groups, distance, shared, before, found):
    """Mark the rows of each bucket that have a neighbour."""
    for b in range(len(starts) - 1):
        for i in range(starts[b], starts[b + 1]):
            for j in range(i + 1, starts[b + 1]):
                if found[rows[i]] and found[rows[j]]:
                    continue
                apart = ordered[i] ^ ordered[j]
                if _bits(apart) > distance or groups[rows[i]] != groups[rows[j]] or _elsewhere(apart, shared, before):
                    continue
                found[rows[i]] = found[rows[j]] = True


@compiled(nogil=True)
def _join_pairs(one, two, parent):
    for i in range(len(one)):
        a, b = _root(parent, one[i]), _root(parent, two[i])
        parent[max(a, b)] = min(a, b)


@compiled(nogil=True)
def _join(starts, rows, ordered, groups, thumbnails, first, distance, tolerance, shared, before, parent):
    """Join the near-duplicates in each bucket; the smaller root becomes the root of both."""
    for b in range(len(starts) - 1):
        for i in range(starts[b], starts[b + 1]):
            for j in range(i + 1, starts[b + 1]):
                apart = ordered[i] ^ ordered[j]
                if _bits(apart) > distance or groups[rows[i]] != groups[rows[j]] or _elsewhere(apart, shared, before):
                    continue
                one, two = _root(parent, rows[i]), _root(parent, rows[j])
                if one != two and _within(thumbnails, first[rows[i]], first[rows[j]], tolerance):
                    parent[max(one, two)] = min(one, two)


@compiled(nogil=True)
def _within(thumbnails, one, two, tolerance):
    for k in range(thumbnails.shape[1]):
        if abs(np.int64(thumbnails[one, k]) - np.int64(thumbnails[two, k])) > tolerance:
            return False
    return True


@compiled(nogil=True)
def _flatten(parent):
    for row in range(len(parent)):
        parent[row] = parent[parent[row]]  # a root is never after its rows


@compiled(nogil=True)
def _match(queries, at, masks, starts, rows, ordered, distance, pairs):
    """Fill `pairs` from query `at` on; return their number and the next query. The last mask is that of the table.

    A pair that agrees in the bits of an earlier table was found there.
    """
    found, mask, before = 0, masks[-1], masks[:-1]
    for query in range(at, len(queries)):
        value = queries[query]
        b = _bucket(value, 0, mask, len(starts) - 1)
        if found + starts[b + 1] - starts[b] > len(pairs):
            return found, query
        for i in range(starts[b], starts[b + 1]):
            apart = value ^ ordered[i]
            if _bits(apart) > distance or apart & mask:
                continue
            if not _agree(apart, before):
                pairs[found, 0], pairs[found, 1] = query, rows[i]
                found += 1
    return found, len(queries)
