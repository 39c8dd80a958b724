"""The first steps of the pack stage: where each picture lies, which shard it goes to, and the rows by that shard.

Held in memory for all rows at once are 24 bytes of each; the rest is done a part at a time.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from dataops.errors import CorruptPart
from dataops.shards import places
from dataops.snapshot import Draft, Record, read_table
from tasks.ranges import put_pieces, split


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
    shards: int = 0
    """Training shards in all, once they are cut."""

    @property
    def id(self) -> str:
        return f"{self.step}-{self.number:05d}"


def scattered(number: int) -> str:
    """Scratch name of the rows of a part by training shard."""
    return f"rows-{number:05d}.arrow"


def _scratch(what: str, number: int) -> str:
    return f"_work/{what}-{number:05d}.parquet"


def locate(draft: Draft, part: CuratedPart) -> Record:
    """Write down where the picture of each row lies, and by what the rows are put in order.

    Raises: CorruptPart that names the picture that is not there.
    """
    rows = read_table(draft.store, part.rows, ["uid", "shard", "key"])
    spans = np.zeros((rows.num_rows, 2), np.int64)
    by_shard: dict[str, list[int]] = defaultdict(list)
    for row, raw in enumerate(rows["shard"].to_pylist()):
        by_shard[raw].append(row)
    keys = rows["key"].to_pylist()
    for raw, chosen in by_shard.items():
        name = f"{part.raw_folder}/{raw}"
        with draft.store.open(name) as file:
            found = {m.key: (m.offset, m.size) for m in places(file, name) if m.extension == part.image_extension}
        for row in chosen:
            if keys[row] not in found:
                msg = f"{name}: no {keys[row]}.{part.image_extension}, which a row of curate names"
                raise CorruptPart(msg)
            spans[row] = found[keys[row]]
    rank, low = shuffled(rows["uid"].to_pylist(), part.seed)
    located = pa.table({"rank": rank, "low": low, "offset": spans[:, 0], "size": spans[:, 1]})
    return Record(task=part.id, parts=[draft.put_table(_scratch("located", part.number), located)])


def shuffled(uids: Sequence[str], seed: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """What rows are sorted by: a hash of seed and uid, and, where two share it, the rest of the uid.

    Source: the mixing function of SplitMix64, a bijection (Steele, Lea and Flood 2014, "Fast splittable pseudorandom
    number generators", figure 16).
    """
    spelt = bytes.fromhex("".join(uids))  # dataops.hashes would load numba, which takes longer than this
    halves = np.frombuffer(spelt, ">u8").reshape(-1, 2).astype(np.uint64)
    salt = int.from_bytes(hashlib.sha256(f"pack {seed}".encode()).digest()[:8], "big")
    mixed = halves[:, 0] ^ np.uint64(salt)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31)), halves[:, 1].copy()


def cut(draft: Draft, parts: Sequence[CuratedPart], shard_size: int, shard_bytes: int) -> int:
    """Put all rows in order, and write down each one's shard and place there; the number of shards."""
    columns = ["rank", "low", "size"]
    tables = [read_table(draft.store, draft.path(_scratch("located", part.number)), columns) for part in parts]
    rank, low, size = (np.concatenate([table[name].to_numpy() for table in tables]) for name in columns)
    order = np.lexsort((low, rank))
    starts = shard_starts(size[order], shard_size, shard_bytes)
    shards = np.searchsorted(starts, np.arange(len(order)), side="right") - 1
    shard, place = np.empty(len(order), np.int32), np.empty(len(order), np.int32)
    shard[order], place[order] = shards, np.arange(len(order)) - starts[shards]
    start = 0
    for part, table in zip(parts, tables, strict=True):
        mine = slice(start, start + table.num_rows)
        draft.put_table(_scratch("cut", part.number), pa.table({"target": shard[mine], "place": place[mine]}))
        start += table.num_rows
    return len(starts)


def shard_starts(sizes: NDArray[np.int64], shard_size: int, shard_bytes: int) -> NDArray[np.int64]:
    """Where each shard begins: it ends after `shard_size` samples, or before it would have more than `shard_bytes`."""
    ends = np.cumsum(sizes)
    starts: list[int] = []
    start, before = 0, 0
    while start < len(sizes):
        starts.append(start)
        fits = int(np.searchsorted(ends, before + shard_bytes, side="right"))
        start = max(min(start + shard_size, fits), start + 1)
        before = int(ends[start - 1])
    return np.array(starts, np.int64)


def scatter(draft: Draft, part: CuratedPart) -> Record:
    """Write the rows of a part by training shard, with where each one's picture lies in its raw shard, and its place."""
    rows = read_table(draft.store, part.rows)
    for what, columns in (("located", ["offset", "size"]), ("cut", ["target", "place"])):
        more = read_table(draft.store, draft.path(_scratch(what, part.number)), columns)
        for name in columns:
            rows = rows.append_column(f"_{name}", more[name])
    frame = pl.DataFrame(pl.from_arrow(rows))
    pieces = split(frame.drop("_target"), frame["_target"], part.shards)
    put_pieces(draft, scattered(part.number), pieces)
    return Record(task=part.id)
