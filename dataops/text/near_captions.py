"""Decides which of the captions that MinHash brings together are near-duplicates, and which of them stay.

A row leaves where a row that stays and ranks before it (`rank`) has a near-duplicate of its caption: the greedy choice in
the order of rank, or lexicographically first maximal independent set. So every caption that leaves has a near-duplicate
that stays, and chains (a is like b, b like c, c not like a) take no caption away that is like none that stays, as clusters
by connected components would. It depends on pairs and ranks alone, not on the order or partitioning of rows.
"""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dataops.kernels.characters import characters
from dataops.kernels.compiled import compiled
from dataops.kernels.hashes import text_buffers
from dataops.text.shingles import MAX_CHARACTERS, write_normal_form, write_shingles

MAX_LEADERS = 64
"""Captions of a bucket that the others are compared with: what keeps a bucket of a million captions made by one template
linear."""

MEMBERS = {"bucket": pl.UInt64, "id": pl.UInt64, "rank": pl.UInt64, "origin": pl.UInt64, "caption": pl.String}
"""A row, whose caption has a word, in a bucket: that is, with the hash of one band of its signature."""
PAIRS = {
    **{f"better{what}": pl.UInt64 for what in ("", "_rank", "_origin")},
    **{f"worse{what}": pl.UInt64 for what in ("", "_rank")},
}
"""Two near-duplicates, by their ids."""


def compute_ranks(keys: pl.DataFrame) -> pl.Series:
    """The place of rows among others as one number (UInt64), the best first: as dataops.text.duplicates ranks captions.

    That is dataops.text.duplicates.ranks (10 bits), then the uid, of which the first 54 bits have room. Where even they are
    equal, `origin` decides.

    Args:
        keys: columns of dataops.text.duplicates.KEYS.
    """
    return keys.select(pl.col("rank").cast(pl.UInt64) * (1 << 54) + pl.col("uid") // (1 << 10)).to_series()


def find_near_pairs(members: pl.DataFrame, threshold: float) -> pl.DataFrame:
    """Pairs (columns of PAIRS) whose captions' sets of shingles have a Jaccard similarity of the threshold at least.

    In each bucket the rows are taken in their order. One that is near one of the bucket's leaders makes a pair with the
    first such; another becomes a leader itself, while there are fewer than MOST_LEADERS.

    Args:
        members: columns of MEMBERS.
    """
    members = members.sort("bucket", "rank", "origin", "id")
    buckets = members["bucket"].to_numpy()
    starts = np.concatenate([[0], np.flatnonzero(np.diff(buckets)) + 1, [len(buckets)]])
    data, offsets = text_buffers(members["caption"].to_arrow())
    leaders = np.full(members.height, -1, np.int64)
    _find_leaders(data, offsets, *characters(), starts, threshold, leaders)
    worse = np.flatnonzero(leaders >= 0)
    rows = members.drop("bucket", "caption")
    better, left = rows[leaders[worse]], rows[worse]
    return pl.DataFrame(
        {
            "better": better["id"],
            "better_rank": better["rank"],
            "better_origin": better["origin"],
            "worse": left["id"],
            "worse_rank": left["rank"],
        },
        schema=PAIRS,
    ).unique()


def find_dropped(pairs: pl.DataFrame, gone: pl.Series) -> pl.DataFrame:
    """The rows that leave, each once (columns worse, worse_rank).

    Args:
        pairs: columns of PAIRS: all those of each better row that there is.
        gone: ids of rows that left by pairs with better rows that are not there.
    """
    pairs = pairs.sort("better_rank", "better_origin", "better")
    both = np.concatenate([pairs["better"].to_numpy(), pairs["worse"].to_numpy()])
    ids, numbers = np.unique(both, return_inverse=True)
    left = np.isin(ids, gone.to_numpy())
    better, worse = numbers[: pairs.height], numbers[pairs.height :]
    leaves = np.zeros(pairs.height, bool)
    _mark_dropped(better, worse, left, leaves)
    return pairs.filter(pl.Series(leaves)).select("worse", "worse_rank").unique().sort("worse")


def partition_ranks(ranks: pl.Series, samples: pl.Series, ranges: int) -> pl.Series:
    """The number (UInt32) of the range of ranks that each rank lies in: about equally many of the samples lie in each."""
    sorted_ = np.sort(samples.to_numpy())
    bounds = sorted_[len(sorted_) * np.arange(1, ranges) // ranges] if len(sorted_) else sorted_
    return pl.Series(np.searchsorted(bounds, ranks.to_numpy(), side="right").astype(np.uint32))


def sample_ranks(ranks: pl.Series, step: int) -> NDArray[np.uint64]:
    """One of so many of the sorted ranks, as samples for by_rank."""
    return np.sort(ranks.to_numpy())[::step]


@compiled()
def _mark_dropped(better, worse, gone, leaves):
    """By the time that a row's pairs as the better one come, all its pairs as the worse one have been."""
    for i in range(len(better)):
        if not gone[better[i]]:
            gone[worse[i]] = leaves[i] = True


@compiled()
def _are_near(some, others, threshold):
    """Whether two sorted sets have a Jaccard similarity of a threshold at least."""
    if min(len(some), len(others)) < threshold * max(len(some), len(others)):
        return False
    i = j = common = 0
    while i < len(some) and j < len(others):
        if some[i] == others[j]:
            common, i, j = common + 1, i + 1, j + 1
        elif some[i] < others[j]:
            i += 1
        else:
            j += 1
    return common >= threshold * (len(some) + len(others) - common)


@compiled(nogil=True)
def _find_leaders(data, offsets, kinds, folds, several, starts, threshold, leaders):
    codes, own = np.empty(MAX_CHARACTERS, np.uint32), np.empty(MAX_CHARACTERS, np.uint64)
    sets = np.empty((MAX_LEADERS, MAX_CHARACTERS), np.uint64)
    sizes, places = np.zeros(MAX_LEADERS, np.int64), np.zeros(MAX_LEADERS, np.int64)
    for bucket in range(len(starts) - 1):
        count = 0
        for i in range(starts[bucket], starts[bucket + 1]):
            size = write_shingles(
                codes, write_normal_form(data, offsets[i], offsets[i + 1], kinds, folds, several, codes), own
            )
            for leader in range(count):
                if _are_near(sets[leader, : sizes[leader]], own[:size], threshold):
                    leaders[i] = places[leader]
                    break
            if leaders[i] < 0 and count < MAX_LEADERS:
                sets[count, :size] = own[:size]
                sizes[count], places[count] = size, i
                count += 1
