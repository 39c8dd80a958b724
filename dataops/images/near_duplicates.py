"""Finds rows whose 64-bit hashes differ in few bits, and clusters them.

The search looks at several tables, each of some of the hashes' bits. The 64 bits are cut into m blocks, and a table holds
m - d of them: two hashes that differ in at most d bits agree wholly in the blocks of at least one table (pigeonhole), so no
pair within the distance is missed. Rows that fall into one bucket of a table are compared, and joined at once: candidate
pairs are never listed, so memory is a few numbers a row. What comes out depends on no order of rows.

A set that is too large for one search is cut into several, each of the rows that agree in one of d + 1 blocks
(dataops.images.bit_blocks).

Source: Manku, Jain, Das Sarma, "Detecting Near-Duplicates for Web Crawling", WWW 2007, section 3.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from dataops.images.bit_blocks import ALL_PAIRS, BlockSearch, Hashes, choose_masks
from dataops.kernels.compiled import compiled
from dataops.kernels.hashes import mixed

Rows = NDArray[np.int64]

_BUCKET_BITS = range(4, 25)
_PAIRS = 1 << 20  # pairs that `matches` gives at a time


def hamming_distance(left: Hashes, right: Hashes) -> NDArray[np.uint8]:
    """In how many bits hashes differ."""
    return np.bitwise_count(left ^ right)


def find_clusters(
    hashes: Hashes,
    groups: Rows,
    thumbnails: NDArray[np.uint8],
    distance: int,
    tolerance: int,
    block: BlockSearch = ALL_PAIRS,
) -> Rows:
    """Of each row, the smallest row of its cluster (int64, (N,)): the connected components of the near-duplicates.

    Two rows are near-duplicates where their groups are equal, their hashes differ in at most `distance` bits, and their
    thumbnails in at most `tolerance` anywhere. Where very many pictures are nearly, not wholly, alike, each of them is
    compared with each.

    Args:
        hashes: (N,)
        groups: (N,)
        thumbnails: (N, K); K may be 0.
        block: the pairs that are looked at, beside those of rows that are equal in everything.
    """
    first, same_as = _distinct(hashes, groups, thumbnails)
    hashes, groups = hashes[first], groups[first]
    parent, shared, before = np.arange(len(first)), np.uint64(block.shared), np.array(block.before, np.uint64)
    for starts, rows, ordered in _filled(hashes, groups, distance, block):
        _join(starts, rows, ordered, groups, thumbnails, first, distance, tolerance, shared, before, parent)
    _flatten(parent)
    return first[parent][same_as]


def has_neighbour(hashes: Hashes, groups: Rows, distance: int, block: BlockSearch = ALL_PAIRS) -> NDArray[np.bool_]:
    """Whether a row has another of its group whose hash differs in at most `distance` bits (N,), thumbnails aside."""
    first, same_as = _distinct(hashes, groups, np.empty((len(hashes), 0), np.uint8))
    found = np.bincount(same_as, minlength=len(first)) > (1 if not block.before else len(same_as))
    hashes, groups = hashes[first], groups[first]
    shared, before = np.uint64(block.shared), np.array(block.before, np.uint64)
    for starts, rows, ordered in _filled(hashes, groups, distance, block):
        _mark(starts, rows, ordered, groups, distance, shared, before, found)
    return found[same_as]


def find_connected(count: int, one: Rows, two: Rows) -> Rows:
    """Of each of `count` rows, the smallest that it is joined with by the pairs (one[i], two[i]), itself at last."""
    parent = np.arange(count)
    _join_pairs(one, two, parent)
    _flatten(parent)
    return parent


def _filled(
    hashes: Hashes, groups: Rows, distance: int, block: BlockSearch
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32], Hashes]]:
    """The tables of a search, one after the other: where each bucket begins, its rows, and their hashes."""
    count = len(hashes)
    rows, ordered, starts = np.empty(count, np.int32), np.empty(count, np.uint64), _starts(count)
    comparisons = count * count / 2 / 2 ** block.shared.bit_count()
    for mask in choose_masks(distance, comparisons, count, block.shared):
        _put(hashes, groups, mask, starts, rows, ordered)
        yield starts, rows, ordered


def _distinct(hashes: Hashes, groups: Rows, thumbnails: NDArray[np.uint8]) -> tuple[Rows, Rows]:
    """The first row of each kind of rows that are equal in everything, ascending; and of each row the place among them."""
    prints = np.empty(len(hashes), np.uint64)
    _print(np.ascontiguousarray(thumbnails), prints)
    order = np.lexsort((prints, hashes, groups))
    new = np.ones(len(order), bool)
    if len(order):
        new[1:] = _differs(hashes, groups, prints, thumbnails, order)
    firsts = order[new]
    kept = np.sort(firsts)
    same_as = np.empty(len(order), np.int64)
    same_as[order] = np.searchsorted(kept, firsts)[np.cumsum(new) - 1]
    return kept, same_as


def find_close_pairs(queries: Hashes, hashes: Hashes, distance: int) -> Iterator[Rows]:
    """All pairs of a query and a row whose hashes differ in at most `distance` bits: blocks (P, 2), each pair once."""
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
    """Where each bucket of a table of so many rows begins, and the last one ends; about as many buckets as rows."""
    bits = min(max(count.bit_length(), _BUCKET_BITS.start), _BUCKET_BITS.stop - 1)
    return np.empty((1 << bits) + 1, np.int32)


@compiled(inline="always")
def _bits(value):
    """How many bits are set."""
    value -= (value >> np.uint64(1)) & np.uint64(0x5555555555555555)
    value = (value & np.uint64(0x3333333333333333)) + ((value >> np.uint64(2)) & np.uint64(0x3333333333333333))
    value = (value + (value >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((value * np.uint64(0x0101010101010101)) >> np.uint64(56))


@compiled(inline="always")
def _bucket(value, group, mask, buckets):
    """Rows of one group that agree in the mask's bits fall together; so may others, which costs a comparison."""
    return np.int64(mixed((value & mask) ^ (np.uint64(group) * np.uint64(0x9E3779B97F4A7C15))) & np.uint64(buckets - 1))


@compiled(nogil=True)
def _put(hashes, groups, mask, starts, rows, ordered):
    """Sort the rows by their buckets: a counting sort, stable."""
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
    """Whether two hashes are equal in all bits of some mask."""
    known = False
    for mask in masks:
        known |= (apart & mask) == 0
    return known


@compiled(inline="always")
def _elsewhere(apart, shared, before):
    """Whether a pair is another search's: it disagrees in what is shared here, or agrees in what is shared there."""
    return (apart & shared) != 0 or _agree(apart, before)


@compiled(nogil=True)
def _mark(starts, rows, ordered, groups, distance, shared, before, found):
    """Mark the rows of each bucket that are near another."""
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
                if one != two and _alike(thumbnails, first[rows[i]], first[rows[j]], tolerance):
                    parent[max(one, two)] = min(one, two)


@compiled(nogil=True)
def _alike(thumbnails, one, two, tolerance):
    for k in range(thumbnails.shape[1]):
        if abs(np.int64(thumbnails[one, k]) - np.int64(thumbnails[two, k])) > tolerance:
            return False
    return True


@compiled(nogil=True)
def _flatten(parent):
    for row in range(len(parent)):
        parent[row] = parent[parent[row]]  # a root is never behind its rows


@compiled(nogil=True)
def _print(thumbnails, prints):
    for i in range(len(thumbnails)):
        value = np.uint64(0)
        for k in range(thumbnails.shape[1]):
            value = (value ^ np.uint64(thumbnails[i, k])) * np.uint64(0x100000001B3)
        prints[i] = value


@compiled(nogil=True)
def _differs(hashes, groups, prints, thumbnails, order):
    """Whether each row of an order but the first differs from the one before."""
    result = np.zeros(len(order) - 1, np.bool_)
    for at in range(1, len(order)):
        i, j = order[at - 1], order[at]
        equal = hashes[i] == hashes[j] and groups[i] == groups[j] and prints[i] == prints[j]
        result[at - 1] = not (equal and _alike(thumbnails, i, j, 0))
    return result


@compiled(nogil=True)
def _match(queries, at, masks, starts, rows, ordered, distance, pairs):
    """Fill `pairs` from query `at` on; how many there are, and the query to go on with. The last mask is the table's.

    A pair that agrees in the bits of a table before was found there.
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
