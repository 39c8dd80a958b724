"""Cuts the rows of a snapshot's parts, taken in order, into shards of equal size."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from dataops.snapshot import Manifest, read_table
from dataops.store import Store


@dataclass(frozen=True)
class RowSpan:
    """Rows start..stop of one Parquet object."""

    name: str
    start: int
    stop: int


def cut_parts(manifest: Manifest, size: int, prefix: str = "part-") -> list[tuple[RowSpan, ...]]:
    """The parts `<prefix>*.parquet` as shards of `size` rows; the last may be smaller."""
    return cut_objects([(manifest.path(p.name), p.rows) for p in manifest.named(prefix, ".parquet")], size)


def cut_objects(objects: Iterable[tuple[str, int]], size: int) -> list[tuple[RowSpan, ...]]:
    """Parquet objects of the store, each with its number of rows, as shards of `size` rows."""
    shards: list[tuple[RowSpan, ...]] = []
    current: list[RowSpan] = []
    room = size
    for name, rows in objects:
        start = 0
        while start < rows:
            stop = min(rows, start + room)
            current.append(RowSpan(name, start, stop))
            room -= stop - start
            start = stop
            if not room:
                shards.append(tuple(current))
                current, room = [], size
    return [*shards, tuple(current)] if current else shards


def read_spans(store: Store, slices: Sequence[RowSpan], columns: list[str] | None = None) -> pa.Table:
    """The rows of one shard, in order."""
    tables = [read_table(store, s.name, columns).slice(s.start, s.stop - s.start) for s in slices]
    return pa.concat_tables(tables).combine_chunks()
