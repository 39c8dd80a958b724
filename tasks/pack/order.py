"""The first steps of the pack stage: where each picture lies, which shard it goes to, and the rows by that shard.

No step holds all rows: they are put in order a range of their hashes at a time, each of which is wholly before the next.
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
from tasks.engine.partition_tables import partition_by_index, read_partition, read_partitions, write_partitions

PARTITION_ROWS = 1 << 21
"""Rows of a range of hashes, at most: about 150 bytes of each are held while they are put in order."""


@dataclass(frozen=True)
class CuratedPart:
    """One task of locate or scatter: a part of the rows that curation kept."""

    step: str
    number: int
    rows: str
    """Name in the store."""
    raw_folder: str
    image_extension: str
    seed: int
    bits: int = 0
    """The rows' hashes are looked at in 2^bits ranges."""
    shards: int = 0
    """Training shards in all, once they are cut."""

    @property
    def id(self) -> str:
        return f"{self.step}-{self.number:05d}"


def rows_table(number: int) -> str:
    """Scratch name of the rows of a part by training shard."""
    return f"rows-{number:05d}.table"


def _located(number: int) -> str:
    """Scratch name of where the pictures of a part lie, by range of hashes."""
    return f"located-{number:05d}.table"


def _cut(number: int) -> str:
    """Scratch name of the places of the rows of a range of hashes, by part."""
    return f"assign_shards-{number:05d}.table"


def partition_bits(rows: int) -> int:
    """How many bits of their hashes rows are told apart by, so that a range has RANGE_ROWS or so of them."""
    return max(0, -(-rows // PARTITION_ROWS) - 1).bit_length()


def _ranges(rank: pl.Series, bits: int) -> pl.Series:
    """The range that each hash lies in: its first bits."""
    return pl.Series(rank.to_numpy() >> np.uint64(1) >> np.uint64(63 - bits))


def locate_images(draft: Draft, part: CuratedPart) -> Record:
    """Write down where the picture of each row lies, and by what the rows are put in order.

    Raises: CorruptPart that names the picture that is not there.
    """
    rows = read_table(draft.store, part.rows, ["uid", "shard", "key"])
    spans = np.zeros((rows.num_rows, 2), np.int64)
    keys, by_shard = rows["key"].to_pylist(), defaultdict[str, list[int]](list)
    for row, raw in enumerate(rows["shard"].to_pylist()):
        by_shard[raw].append(row)
    for raw, chosen in by_shard.items():
        spans[chosen] = _spans(draft.store, f"{part.raw_folder}/{raw}", [keys[row] for row in chosen], part)
    rank, low = shuffle_keys(rows["uid"].to_pylist(), part.seed)
    found = {"rank": rank, "low": low, "offset": spans[:, 0], "size": spans[:, 1]}
    frame = pl.DataFrame(found).with_row_index("row")
    write_partitions(
        draft, _located(part.number), *partition_by_index(frame, _ranges(frame["rank"], part.bits), 1 << part.bits)
    )
    return Record(task=part.id)


def _spans(store: Store, name: str, keys: Sequence[str], part: CuratedPart) -> NDArray[np.int64]:
    """Offset and bytes of the picture of each key in a raw shard, as (keys, 2)."""
    wanted = [f"{key}.{part.image_extension}" for key in keys]
    with store.open(name) as file:
        found = find_spans(wanted, file, name)
    if missing := [picture for picture in wanted if picture not in found]:
        raise CorruptPart(f"{name}: no {missing[0]}, which a row of curate names")
    return np.array([found[picture] for picture in wanted], np.int64)


def shuffle_keys(uids: Sequence[str], seed: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """What rows are sorted by: a hash of seed and uid, and, where two share it, the rest of the uid.

    Source: the mixing function of SplitMix64, a bijection (Steele, Lea and Flood 2014, "Fast splittable pseudorandom
    number generators", figure 16).
    """
    spelt = bytes.fromhex("".join(uids))  # dataops.kernels.hashes would load numba, which takes longer than this
    halves = np.frombuffer(spelt, ">u8").reshape(-1, 2).astype(np.uint64)
    salt = int.from_bytes(hashlib.sha256(f"pack {seed}".encode()).digest()[:8], "big")
    mixed = halves[:, 0] ^ np.uint64(salt)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31)), halves[:, 1].copy()


def assign_shards(draft: Draft, parts: Sequence[CuratedPart], shard_size: int, shard_bytes: int) -> int:
    """Put all rows in order, and write down each one's shard and place there; the number of shards."""
    names, shards, rows, held = [_located(part.number) for part in parts], 0, 0, 0
    for number in range(1 << parts[0].bits):
        frame = read_partition(draft, names, number).select("part", "rank", "low", "size")
        sizes = frame["size"].gather(order := np.lexsort((frame["low"], frame["rank"]))).to_numpy()
        starts = shard_starts(sizes, shard_size, shard_bytes, rows, held)
        shard = np.searchsorted(starts, np.arange(len(order)), side="right")
        found = np.empty((2, len(order)), np.int32)
        found[:, order] = shards - 1 + shard, np.arange(len(order)) - np.concatenate([[-rows], starts])[shard]
        places = pl.DataFrame({"target": found[0], "place": found[1]})
        write_partitions(draft, _cut(number), *partition_by_index(places, frame["part"], len(parts)))
        shards += len(starts)
        begun = int(starts[-1]) if len(starts) else 0
        rows, held = (0, 0) if len(starts) else (rows, held)
        rows, held = rows + len(order) - begun, held + int(sizes[begun:].sum())
    return shards


def shard_starts(
    sizes: NDArray[np.int64], shard_size: int, shard_bytes: int, rows: int = 0, held: int = 0
) -> NDArray[np.int64]:
    """Where each shard begins: it ends after `shard_size` samples, or before it would have more than `shard_bytes`.

    Args:
        rows: of a shard that was begun before these, which goes on and has no beginning here; 0: there is none.
        held: the bytes of those.
    """
    ends = np.cumsum(sizes)
    starts: list[int] = []
    start, before = 0, -held
    while start < len(sizes):
        least = 0 if rows else 1
        if not rows:
            starts.append(start)
        fits = int(np.searchsorted(ends, before + shard_bytes, side="right"))
        start = max(min(start + shard_size - rows, fits), start + least)
        before, rows = int(ends[start - 1]) if start else 0, 0
    return np.array(starts, np.int64)


def write_rows_by_shard(draft: Draft, part: CuratedPart) -> Record:
    """Write the rows of a part by training shard, with where each one's picture lies in its raw shard, and its place."""
    rows = pl.DataFrame(pl.from_arrow(read_table(draft.store, part.rows)))
    located = read_partitions(draft, _located(part.number), 1 << part.bits)
    places = read_partition(draft, [_cut(number) for number in range(1 << part.bits)], part.number)
    more = located.select("row", _offset="offset", _size="size").hstack(places.select(_target="target", _place="place"))
    frame = rows.hstack(more.sort("row").drop("row"))
    write_partitions(
        draft, rows_table(part.number), *partition_by_index(frame.drop("_target"), frame["_target"], part.shards)
    )
    return Record(task=part.id)
