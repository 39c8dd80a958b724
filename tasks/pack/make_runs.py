"""Write the rows that curate kept, and their images, as sorted runs: the first steps of the pack stage.

Each raw shard is read once, from its beginning to its end. Dropped images are not copied.
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dataops.errors import CorruptPart
from dataops.schema import conform
from dataops.shards.tar import find_spans
from dataops.snapshot import Draft, Record, read_table
from dataops.store import Store
from dataops.trace.requests import load_erased
from tasks.pack.sorted_runs import ROW_BYTES, Rows, RunSet, SortLayout, concat_rows, run_schema, write_run

_FULL = 1.25
"""Share of `run_bytes` from which on a run is written. Tasks are cut so that most have about 1."""


@dataclass(frozen=True)
class CuratedParts:
    """A task: some parts of the rows that curate kept, with their images."""

    number: int
    parts: tuple[str, ...]
    """Names in the store."""
    raw_folder: str
    image_extension: str
    seed: int
    layout: SortLayout
    raw_key: str = ""
    """Prefix of the names of the raw shards in the folder, where there are several snapshots of download."""
    rewritten: tuple[str, ...] = ()
    """Names of the raw shards from which takedowns have removed images since, such as 00003-r1.tar for 00003.tar."""

    @property
    def id(self) -> str:
        return f"rows-{self.layout.id}-{self.number:05d}"


@dataclass(frozen=True)
class MergedRuns:
    """A task: one coarse partition of some runs."""

    runs: RunSet
    batch: int
    coarse: int
    layout: SortLayout

    @property
    def id(self) -> str:
        return f"merge-{self.layout.id}-{self.coarse:05d}-{self.batch:05d}"


def write_runs(draft: Draft, task: CuratedParts) -> Record:
    """Write the rows of some parts as runs; most tasks write one. The record has the size of each run in bytes.

    The image of a pair that a takedown has erased is empty: `pack_shards` drops the pair.

    Raises: CorruptPart, which names an image that is missing.
    """
    renamed = {number_of(name): name for name in task.rewritten}
    waiting, writer = _Waiting(), _RunWriter(draft, task)
    for part in task.parts:
        rows = conform(read_table(draft.store, part), task.layout.columns, f"pack {part}")
        rank, low = shuffle_keys(rows["uid"].to_pylist(), task.seed)
        by_shard = defaultdict[str, list[int]](list)
        shards = [f"{task.raw_key}{renamed.get(number_of(one), one)}" for one in rows["shard"].to_pylist()]
        rows = rows.set_column(rows.schema.get_field_index("shard"), "shard", pa.array(shards, pa.string()))
        for row, shard in enumerate(shards):
            by_shard[shard].append(row)
        for shard, chosen in by_shard.items():
            name = f"{task.raw_folder}/{shard}"
            members = [f"{key}.{task.image_extension}" for key in rows["key"].take(pa.array(chosen)).to_pylist()]
            with draft.store.open_once(name) as file:
                spans = _find_images(members, file, name, draft.store)
                sizes = spans[:, 1] if task.layout.has_images else np.zeros(len(spans), np.int64)
                for batch in _cut_batches(spans[:, 0], sizes, task.layout.run_bytes):
                    picked = np.array(chosen)[batch]
                    table = _with_keys(rows.take(pa.array(picked)), rank[picked], low[picked], spans[batch])
                    images = _read_images(file, spans[batch], name) if task.layout.has_images else None
                    waiting.add(Rows(table, images))
                    if waiting.bytes >= _FULL * task.layout.run_bytes:
                        writer.write(waiting.take(task.layout.columns))
    if waiting.rows or not writer.sizes:
        writer.write(waiting.take(task.layout.columns))
    return Record(task=task.id, facts={"runs": writer.sizes})


def run_names(task: str, count: int) -> list[str]:
    """Return the names of the scratch objects with the runs of a task."""
    return [f"{task}-{number:03d}.run" for number in range(count)]


def merge_runs(draft: Draft, task: MergedRuns) -> Record:
    """Write one coarse partition of some runs as one run."""
    rows = concat_rows(task.runs.read(draft, task.coarse, task.coarse + 1), task.layout.columns)
    layout, first = task.layout, task.coarse * task.layout.fine
    [name] = run_names(task.id, 1)
    write_run(draft, name, rows, layout.partitions, range(first, first + layout.fine))
    return Record(task=task.id)


@dataclass
class _Waiting:
    """Rows that are not written yet."""

    rows: list[Rows] = field(default_factory=list)
    bytes: int = 0
    """About their size in memory."""

    def add(self, rows: Rows) -> None:
        self.rows.append(rows)
        self.bytes += rows.table.num_rows * ROW_BYTES + sum(map(len, rows.images or ()))

    def take(self, columns: pa.Schema) -> Rows:
        rows, self.rows, self.bytes = self.rows, [], 0
        return concat_rows(rows, columns)


@dataclass
class _RunWriter:
    draft: Draft
    task: CuratedParts
    sizes: list[int] = field(default_factory=list)
    """Size of the images and rows of each run, in bytes."""

    def write(self, rows: Rows) -> None:
        layout = self.task.layout
        name = run_names(self.task.id, len(self.sizes) + 1)[-1]
        count = layout.coarse if layout.coarse > 1 else layout.fine
        write_run(self.draft, name, rows, count, range(count))
        self.sizes.append(rows.table.num_rows * ROW_BYTES + int(rows.keys["size"].sum()))


def number_of(shard: str) -> str:
    """Return the number of a raw shard, which is its name unless a takedown has rewritten it: 00003-r1.tar."""
    return shard.removesuffix(".tar").partition("-r")[0]


def _find_images(members: Sequence[str], file: BinaryIO, name: str, store: Store) -> NDArray[np.int64]:
    """Return offset and size in bytes of images in a raw shard, as (members, 2); zeros for those that were erased."""
    found = find_spans(members, file, name)
    if missing := [member for member in members if member not in found]:
        erased = {target.value for target in load_erased(store)}
        if kept := [member for member in missing if member.partition(".")[0] not in erased]:
            raise CorruptPart(f"{name}: no {kept[0]}, which a row of curate names")
        found |= dict.fromkeys(missing, (0, 0))
    return np.array([found[member] for member in members], np.int64)


def _cut_batches(offsets: NDArray[np.int64], sizes: NDArray[np.int64], limit: int) -> Iterator[NDArray[np.intp]]:
    """Yield the numbers of images in the order of their offsets, in batches of about `limit` bytes."""
    order = np.argsort(offsets)
    yield from np.split(order, np.flatnonzero(np.diff(np.cumsum(sizes[order]) // limit)) + 1)


def _with_keys(rows: pa.Table, rank: NDArray[np.uint64], low: NDArray[np.uint64], spans: NDArray[np.int64]) -> pa.Table:
    keys = [pa.array(values) for values in (rank, low, spans[:, 1], spans[:, 0])]
    columns = dict(zip((*rows.column_names, "_rank", "_low", "_size", "_offset"), (*rows.columns, *keys), strict=True))
    return pa.table(columns, schema=run_schema(rows.schema))


def _read_images(file: BinaryIO, spans: NDArray[np.int64], name: str) -> list[memoryview]:
    memory = memoryview(np.empty(int(spans[:, 1].sum()), np.uint8).data)
    images, at = list[memoryview](), 0
    for offset, size in spans.tolist():
        images.append(memory[at : at + size])
        at += size
        if size and os.preadv(file.fileno(), [images[-1]], offset) != size:
            raise CorruptPart(f"{name} ends before byte {offset + size:,}")
    return images


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
