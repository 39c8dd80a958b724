"""Decides which candidates of MinHash are near-duplicates, and which of them are dropped.

A row is dropped if a kept row of a better rank has a near-duplicate of its caption. This is the greedy choice in the
order of ranks, or the lexicographically first maximal independent set. So every dropped caption has a kept
near-duplicate; clusters by connected components would also drop captions that are only linked by a chain (a is like b,
b like c, but c not like a). The result depends on pairs and ranks only, not on the order or the partitions of rows.
"""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dataops.kernels.characters import characters
from dataops.kernels.compiled import compiled
from dataops.kernels.hashes import text_buffers
from dataops.text.duplicates import RANK_BITS, RANK_BITS_OF_SOURCES
from plugins.textdedup.shingles import MAX_CHARACTERS, write_normal_form, write_shingles

MAX_LEADERS = 64
"""Maximum number of captions of a bucket that the others are compared with, so that the time for a bucket of a million
captions of one template is linear."""

MEMBERS = {"bucket": pl.UInt64, "id": pl.UInt64, "rank": pl.UInt64, "origin": pl.UInt64, "caption": pl.String}
"""Columns of rows in buckets. A bucket is the hash of one band of a signature; each caption has a word."""
PAIRS = {
    **{f"better{what}": pl.UInt64 for what in ("", "_rank", "_origin")},
    **{f"worse{what}": pl.UInt64 for what in ("", "_rank")},
}
"""Columns of pairs of near-duplicates, with the ids of the rows."""


def compute_ranks(keys: pl.DataFrame, *, several_sources: bool = False) -> pl.Series:
    """Return the rank of rows among all rows (UInt64), the best lowest, in the order of dataops.text.duplicates.

    Its bits are those of the key `rank` (10 bits, or 16 if there are several sources), and then the first bits of the uid.
    Equal ranks are decided by `origin`.

    Args:
        keys: columns of dataops.text.duplicates.KEYS.
        several_sources: whether the keys were computed for several sources.
    """
    bits = RANK_BITS_OF_SOURCES if several_sources else RANK_BITS
    return keys.select(pl.col("rank").cast(pl.UInt64) * (1 << (64 - bits)) + pl.col("uid") // (1 << bits)).to_series()


def find_near_pairs(members: pl.DataFrame, threshold: float) -> pl.DataFrame:
    """Find pairs (columns of PAIRS) whose sets of shingles have at least the threshold as Jaccard similarity.

    In each bucket, the rows are compared in their order with the leaders of the bucket. A row makes a pair with the
    first leader that is a near-duplicate; without one, it becomes a leader, up to MAX_LEADERS.

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


def find_dropped(pairs: pl.DataFrame, dropped: pl.Series) -> pl.DataFrame:
    """Find the rows that are dropped, each once (columns worse, worse_rank).

    Args:
        pairs: columns of PAIRS; all pairs of each better row.
        dropped: ids of rows that were dropped by pairs with other better rows.
    """
    pairs = pairs.sort("better_rank", "better_origin", "better")
    both = np.concatenate([pairs["better"].to_numpy(), pairs["worse"].to_numpy()])
    ids, numbers = np.unique(both, return_inverse=True)
    is_dropped = np.isin(ids, dropped.to_numpy())
    better, worse = numbers[: pairs.height], numbers[pairs.height :]
    drops = np.zeros(pairs.height, bool)
    _mark_dropped(better, worse, is_dropped, drops)
    return pairs.filter(pl.Series(drops)).select("worse", "worse_rank").unique().sort("worse")


def bound_ranks(samples: pl.Series, count: int) -> NDArray[np.uint64]:
    """Return the first rank of each of `count` partitions but the first; each has about the same number of samples."""
    ordered = np.sort(samples.to_numpy())
    return ordered[len(ordered) * np.arange(1, count) // count] if len(ordered) else ordered


def sample_ranks(ranks: pl.Series, step: int) -> NDArray[np.uint64]:
    """Return every `step`-th of the sorted ranks, as samples for bound_ranks."""
    return np.sort(ranks.to_numpy())[::step]


@compiled()
def _mark_dropped(better, worse, is_dropped, drops):
    """Mark the dropped rows and the pairs that drop them; pairs in which a row is the worse one precede its others."""
    for i in range(len(better)):
        if not is_dropped[better[i]]:
            is_dropped[worse[i]] = drops[i] = True


@compiled()
def _are_near(some, others, threshold):
    """Return whether two sorted sets have at least the threshold as Jaccard similarity."""
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
