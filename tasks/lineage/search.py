"""Search the rows of snapshots for targets, by reading the columns that are compared."""

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from dataops.errors import CorruptPart
from dataops.parquet import open_parquet
from dataops.snapshot import Manifest, Part
from dataops.store import Store
from dataops.trace.targets import COLUMNS, Target, matching_rows, phash_distances

AHEAD = 1 << 16
"""Bytes that a small read fetches: a Parquet reader reads the footer's length, the footer, then neighbouring columns."""


class Rows(NamedTuple):
    """The kept (`part-`) or dropped (`dropped-`) rows of a snapshot."""

    manifest: Manifest
    prefix: str

    @property
    def parts(self) -> list[Part]:
        """The parts, sorted by name."""
        return self.manifest.named(self.prefix, ".parquet")


class Hit(NamedTuple):
    """A row that matches a target."""

    rows: Rows
    number: int
    """Number of its part among those of the rows."""
    row: int
    apart: int = 0
    """Hamming distance of its phash from that of the target, in bits; 0 where another target matches."""

    @property
    def part(self) -> Part:
        """The part that holds it."""
        return self.rows.parts[self.number]


class Search(NamedTuple):
    """Searches the rows of a store."""

    store: Store

    def find(self, rows: Rows, targets: Sequence[Target]) -> list[Hit]:
        """Return each row that matches a target once, by phash distance, then in the order of the parts."""
        hits: list[Hit] = []
        for number, part in enumerate(rows.parts):
            table = read_columns(self.store, rows.manifest.path(part.name), COLUMNS)
            matches = matching_rows(table, targets).nonzero()[0]
            apart = phash_distances(table.take(pa.array(matches)), targets)
            hits += map(partial(Hit, rows, number), matches.tolist(), apart)
        return sorted(hits, key=lambda hit: (hit.apart, hit.number, hit.row))

    def rows(self, hits: Iterable[Hit]) -> list[dict[str, Any]]:
        """Return the row of each hit, in the order of the hits."""
        hits = list(hits)
        by_part: dict[str, list[int]] = {}
        for hit in hits:
            by_part.setdefault(hit.rows.manifest.path(hit.part.name), []).append(hit.row)
        found: dict[tuple[str, int], dict[str, Any]] = {}
        for path, numbers in by_part.items():
            found |= {(path, number): row for number, row in read_rows(self.store, path, numbers)}
        return [found[hit.rows.manifest.path(hit.part.name), hit.row] for hit in hits]


def _open_part(store: Store, name: str) -> AbstractContextManager[pq.ParquetFile]:
    size = store.size(name)
    if size is None:
        raise CorruptPart(f"{store.uri}/{name} is missing, but its manifest names it; `run --verify` remakes it")
    return open_parquet(RangeFile(store, name, size), f"{store.uri}/{name}")


def read_columns(store: Store, name: str, columns: Sequence[str]) -> pa.Table:
    """Read those of the columns that a part has."""
    with _open_part(store, name) as file:
        return file.read(columns=list(columns), use_threads=False)


def read_rows(store: Store, name: str, numbers: Iterable[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield rows of a part by their numbers; only the row groups that hold one are read."""
    start, remaining = 0, sorted(set(numbers))
    with _open_part(store, name) as file:
        for group in range(file.metadata.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            in_group = [row for row in remaining if start <= row < end]
            if in_group:
                table = file.read_row_group(group, use_threads=False)
                yield from zip(in_group, table.take([row - start for row in in_group]).to_pylist(), strict=True)
            start = end


class RangeFile(io.RawIOBase):
    """Seekable, read-only file over `Store.read_ranges`, which keeps the last range in memory."""

    def __init__(self, store: Store, name: str, size: int):
        super().__init__()
        self._store, self._name, self._size = store, name, size
        self._at, self._start, self._piece = 0, 0, b""

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position of the next read."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position of the next read."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, or all that remain if no size is given."""
        left = max(self._size - self._at, 0)
        size = left if size < 0 else min(size, left)
        if not self._start <= self._at <= self._at + size <= self._start + len(self._piece):
            start = self._at if size >= AHEAD else max(min(self._at, self._size - AHEAD), 0)
            length = min(max(size + self._at - start, AHEAD), self._size - start)
            self._piece = next(iter(self._store.read_ranges(self._name, [(start, length)])))
            self._start = start
        begin = self._at - self._start
        self._at += size
        return self._piece[begin : begin + size]
