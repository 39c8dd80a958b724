"""Put the rows in their order and assign them to training shards: the first steps of the pack stage.

No step holds all rows. They are sorted one partition at a time: a partition holds a range of their hashes, so
all of its rows come before those of the next.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dataops.errors import CorruptPart
from dataops.shards.tar import find_spans
from dataops.snapshot import Draft, Record, read_table
from dataops.store import Store
from tasks.engine.exchange import Exchange, Step, number_partitions

PARTITION_ROWS = 1 << 21
"""Rows of a partition, about; each takes about 150 bytes of memory while they are sorted."""
MEMORY_BYTES = 1 << 30
"""Memory of a merge task."""
ROW_BYTES = 500
"""Expected size of a row with its caption, in bytes."""


@dataclass(frozen=True)
class PackJob:
    """What all tasks of a pack share."""

    rows: int
    parts: int
    """Number of parts of the rows that curate kept."""
    raw_folder: str
    image_extension: str
    seed: int
    shards: int = 0
    """Number of training shards, once it is known."""

    @property
    def layout(self) -> str:
        """Return the number of parts."""
        return f"{self.parts}"

    @property
    def partitions(self) -> int:
        """Return the number of partitions in which the rows are sorted."""
        return max(-(-self.rows // PARTITION_ROWS), 1)

    @property
    def spans(self) -> Exchange:
        """Return the exchange of the images' spans, from the parts to the partitions."""
        return Exchange("spans", self.parts, self.partitions, 40 * self.rows, MEMORY_BYTES)

    @property
    def positions(self) -> Exchange:
        """Return the exchange of the rows' positions, from the partitions to the parts."""
        return Exchange("positions", self.partitions, self.parts, 8 * self.rows, MEMORY_BYTES)

    @property
    def packed_rows(self) -> Exchange:
        """Return the exchange of the rows, from the parts to the training shards."""
        return Exchange("rows", self.parts, self.shards, ROW_BYTES * self.rows, MEMORY_BYTES)


PackStep = Step[PackJob]
"""A step on one part of the rows that curate kept; `inputs` is the name of the part in the store."""


def locate_images(draft: Draft, step: PackStep) -> Record:
    """Write the span of each row's image in its raw shard, and the hash that the rows are sorted by.

    Raises: CorruptPart, which names an image that is missing.
    """
    job, rows = step.job, read_table(draft.store, step.inputs[0], ["uid", "shard", "key"])
    spans = np.zeros((rows.num_rows, 2), np.int64)
    keys, by_shard = rows["key"].to_pylist(), defaultdict[str, list[int]](list)
    for row, shard in enumerate(rows["shard"].to_pylist()):
        by_shard[shard].append(row)
    for shard, chosen in by_shard.items():
        members = [f"{keys[row]}.{job.image_extension}" for row in chosen]
        spans[chosen] = _read_spans(draft.store, f"{job.raw_folder}/{shard}", members)
    rank, low = shuffle_keys(rows["uid"].to_pylist(), job.seed)
    columns = {"rank": rank, "low": low, "offset": spans[:, 0], "size": spans[:, 1]}
    frame = pl.DataFrame(columns).with_row_index("row")
    job.spans.write(draft, step.number, frame, number_partitions(frame["rank"], job.partitions))
    return Record(task=step.id)


def _read_spans(store: Store, name: str, members: Sequence[str]) -> NDArray[np.int64]:
    """Return offset and size in bytes of each member of a raw shard, as (members, 2)."""
    with store.open(name) as file:
        found = find_spans(members, file, name)
    if missing := [member for member in members if member not in found]:
        raise CorruptPart(f"{name}: no {missing[0]}, which a row of curate names")
    return np.array([found[member] for member in members], np.int64)


def shuffle_keys(uids: Sequence[str], seed: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return the keys that rows are sorted by: a hash of seed and uid, and, where two are equal, the rest of the uid.

    Source: the mixing function of SplitMix64, a bijection (Steele, Lea and Flood 2014, "Fast splittable pseudorandom
    number generators", figure 16).
    """
    digits = bytes.fromhex("".join(uids))  # dataops.kernels.hashes would load numba, which takes longer than this
    halves = np.frombuffer(digits, ">u8").reshape(-1, 2).astype(np.uint64)
    salt = int.from_bytes(hashlib.sha256(f"pack {seed}".encode()).digest()[:8], "big")
    mixed = halves[:, 0] ^ np.uint64(salt)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31)), halves[:, 1].copy()


def assign_shards(draft: Draft, job: PackJob, shard_size: int, shard_bytes: int) -> int:
    """Sort all rows, write the shard of each and its position there, and return the number of shards."""
    shards, open_rows, open_bytes = 0, 0, 0
    for number in range(job.partitions):
        frame = job.spans.read(draft, number).select("part", "rank", "low", "size")
        sizes = frame["size"].gather(order := np.lexsort((frame["low"], frame["rank"]))).to_numpy()
        starts = shard_starts(sizes, shard_size, shard_bytes, open_rows, open_bytes)
        shard = np.searchsorted(starts, np.arange(len(order)), side="right")
        found = np.empty((2, len(order)), np.int32)
        found[:, order] = shards - 1 + shard, np.arange(len(order)) - np.concatenate([[-open_rows], starts])[shard]
        positions = pl.DataFrame({"target": found[0], "position": found[1]})
        job.positions.write(draft, number, positions, frame["part"])
        shards += len(starts)
        last = int(starts[-1]) if len(starts) else 0
        open_rows, open_bytes = (0, 0) if len(starts) else (open_rows, open_bytes)
        open_rows, open_bytes = open_rows + len(order) - last, open_bytes + int(sizes[last:].sum())
    return shards


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


def write_rows_by_shard(draft: Draft, step: PackStep) -> Record:
    """Write the rows of a part by training shard, with the span of each image and the position of each row."""
    rows = pl.DataFrame(pl.from_arrow(read_table(draft.store, step.inputs[0])))
    spans = step.job.spans.read_written(draft, step.number)
    positions = step.job.positions.read(draft, step.number)
    columns = positions.select(_target="target", _position="position")
    columns = spans.select("row", _offset="offset", _size="size").hstack(columns).sort("row").drop("row")
    frame = rows.hstack(columns)
    step.job.packed_rows.write(draft, step.number, frame.drop("_target"), frame["_target"])
    return Record(task=step.id)
