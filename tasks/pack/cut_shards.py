"""Choose where one training shard ends and the next begins, from the keys of all rows in their order.

Only some partitions are in memory at a time, and no position is written: a shard is a range of keys.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dataops.snapshot import Draft
from tasks.pack.sorted_runs import RunSet

KEYS_ROWS = 1 << 21
"""Rows whose keys are in memory at a time, about; each takes about 100 bytes while they are sorted."""


class CutShard(NamedTuple):
    """A training shard: the rows from a key on, up to that of the next shard."""

    rank: int
    low: int
    rows: int
    bytes: int
    """Size of its images."""


def cut_shards(draft: Draft, sets: Sequence[RunSet], shard_size: int, shard_bytes: int) -> list[CutShard]:
    """Write the index of each set of runs, and return the training shards.

    Args:
        sets: one after the other in the order of the hashes.
    """
    shards: list[CutShard] = []
    open_rows = open_bytes = 0
    for keys in _read_keys(draft, sets):
        sizes = keys["size"]
        starts = shard_starts(sizes, shard_size, shard_bytes, open_rows, open_bytes)
        totals = np.concatenate([[0], np.cumsum(sizes)])
        if before := int(starts[0]) if len(starts) else len(keys):  # these rows belong to the open shard
            last = shards[-1]
            shards[-1] = last._replace(rows=last.rows + before, bytes=last.bytes + int(totals[before]))
        for start, end in pairwise([*starts.tolist(), len(keys)]):
            rank, low = keys["rank"][start], keys["low"][start]
            shards.append(CutShard(int(rank), int(low), end - start, int(totals[end] - totals[start])))
        open_rows, open_bytes = shards[-1].rows, shards[-1].bytes
    return shards


def _read_keys(draft: Draft, sets: Sequence[RunSet]) -> Iterator[NDArray[np.void]]:
    """Yield the keys of all rows in their order."""
    for runs in sets:
        rows = runs.write_index(draft)
        before = rows.sum(axis=0)
        first = 0
        while first < runs.partitions:
            end = int(np.searchsorted(before, before[first] + KEYS_ROWS, side="right")) - 1
            end = min(max(end, first + 1), runs.partitions)
            if before[end] > before[first]:
                yield runs.read_keys(draft, rows, first, end)
            first = end


def shard_starts(
    sizes: NDArray[np.int64], shard_size: int, shard_bytes: int, open_rows: int = 0, open_bytes: int = 0
) -> NDArray[np.int64]:
    """Return the first row of each shard. A shard ends after `shard_size` rows, or before it exceeds `shard_bytes`.

    Args:
        sizes: size of each row's image, in bytes.
        open_rows: number of earlier rows of a shard that continues with these rows and so has no first row here, or 0.
        open_bytes: size of their images.
    """
    ends = np.cumsum(sizes)
    starts: list[int] = []
    start, before = 0, -open_bytes
    while start < len(sizes):
        least = 0 if open_rows else 1
        if not open_rows:
            starts.append(start)
        fits = int(np.searchsorted(ends, before + shard_bytes, side="right"))
        start = max(min(start + shard_size - open_rows, fits), start + least)
        before, open_rows = int(ends[start - 1]) if start else 0, 0
    return np.array(starts, np.int64)
