"""Cuts the rows of Parquet objects, in order, into shards of equal size."""

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
    """Cut the parts `<prefix>*.parquet` into shards of `size` rows; the last one may be smaller."""
    return cut_objects([(manifest.path(p.name), p.rows) for p in manifest.named(prefix, ".parquet")], size)


def cut_objects(objects: Iterable[tuple[str, int]], size: int) -> list[tuple[RowSpan, ...]]:
    """Cut Parquet objects (name, number of rows) into shards of `size` rows; the last one may be smaller."""
    shards: list[tuple[RowSpan, ...]] = []
    current: list[RowSpan] = []
    free = size
    for name, rows in objects:
        start = 0
        while start < rows:
            stop = min(rows, start + free)
            current.append(RowSpan(name, start, stop))
            free -= stop - start
            start = stop
            if not free:
                shards.append(tuple(current))
                current, free = [], size
    return [*shards, tuple(current)] if current else shards


def read_spans(store: Store, spans: Sequence[RowSpan], columns: list[str] | None = None) -> pa.Table:
    """Return the rows of one shard, in order."""
    tables = [read_table(store, s.name, columns).slice(s.start, s.stop - s.start) for s in spans]
    return pa.concat_tables(tables).combine_chunks()
