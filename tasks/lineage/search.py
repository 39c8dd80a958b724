"""Search the rows of snapshots for targets, by an index beside each manifest or by reading the columns.

The index (dataops/trace/index.py) of a snapshot's kept or dropped rows is built at the first search. It is in the folder of
the snapshot, so that it is deleted with it::

    <stage>/<key>/trace/part.json                     written last: the parts that it was built from
    <stage>/<key>/trace/part-url-000.parquet ...      one file for each kind and each SEGMENT rows

No digest covers it: it can be rebuilt at any time, and it holds nothing that the rows lack.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from dataops.errors import CorruptPart, StorageError
from dataops.parquet import open_parquet
from dataops.snapshot import Manifest, Part
from dataops.storage.range_file import RangeFile
from dataops.store import Store
from dataops.trace import index as trace_index
from dataops.trace.index import IndexFile, RowPosition
from dataops.trace.targets import Target, matching_rows
from tasks.engine.scratch_folders import scratch_folder

logger = logging.getLogger(__name__)

SEGMENT = 2_000_000
"""Number of rows sorted at a time, which bounds memory. A search reads each segment."""


class Rows(NamedTuple):
    """The kept (`part-`) or dropped (`dropped-`) rows of a snapshot."""

    manifest: Manifest
    prefix: str

    @property
    def parts(self) -> list[Part]:
        """The parts, in the order in which an index numbers them."""
        return self.manifest.named(self.prefix, ".parquet")

    @property
    def total(self) -> int:
        """Number of rows."""
        return sum(part.rows for part in self.parts)

    def __str__(self) -> str:
        kind = "kept" if self.prefix == "part-" else "dropped"
        return f"{self.manifest.stage}/{self.manifest.key} ({self.total:,} {kind} rows)"


class Hit(NamedTuple):
    """A row that matches a target."""

    rows: Rows
    position: RowPosition
    apart: int = 0
    """Hamming distance of its phash from that of the target, in bits."""

    @property
    def part(self) -> Part:
        """The part that holds it."""
        return self.rows.parts[self.position.part]


class Header(BaseModel):
    """The fields of trace/part.json: the parts that an index was built from, and its files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int
    parts: dict[str, str]
    """sha256 of each part."""
    segments: int
    sizes: dict[str, int]
    """Size of each index file, in bytes."""


@dataclass
class Search:
    """Searches the rows of a store.

    Args:
        make: build missing indexes; if False, read the columns instead.
    """

    store: Store
    make: bool = True

    def find(self, rows: Rows, targets: Sequence[Target]) -> list[Hit]:
        """Return each row that matches a target once, by phash distance, then in the order of the parts."""
        header = self._find_index(rows) if rows.total else None
        if header is None:
            return self._scan(rows, targets) if rows.total else []
        found: dict[RowPosition, int] = {}
        for target in targets:
            for position, apart in self._search_index(rows, header, target):
                found[position] = min(apart, found.get(position, 64))
        hits = [Hit(rows, position, apart) for position, apart in found.items()]
        return sorted(hits, key=lambda hit: (hit.apart, hit.position))

    def _search_index(self, rows: Rows, header: Header, target: Target) -> Iterator[tuple[RowPosition, int]]:
        kinds = {"url": ("url", "page_url"), "domain": ("host",)}.get(target.kind, (target.kind,))
        for kind in kinds:
            for segment in range(header.segments):
                name = f"{_stem(rows)}-{kind}-{segment:03d}.parquet"
                path = rows.manifest.path(name)
                file = IndexFile(RangeFile(self.store, path, header.sizes[name]))  # pyright: ignore[reportArgumentType]
                yield from _search_file(file, target)

    def _find_index(self, rows: Rows) -> Header | None:
        """Return the header of the index, built if it is missing or was built from other parts; None if there is none."""
        current = {part.name: part.sha256 for part in rows.parts}
        name = rows.manifest.path(f"{_stem(rows)}.json")
        if self.store.size(name) is not None:
            try:
                header = Header.model_validate_json(self.store.read(name))
            except ValidationError:
                header = None
            if header is not None and (header.format, header.parts) == (trace_index.FORMAT, current):
                sizes = {name: self.store.size(rows.manifest.path(name)) for name in header.sizes}
                if sizes == header.sizes:  # else a killed deletion left it without some of its files
                    return header
        if not self.make:
            logger.info("%s has no index: reading its columns", rows)
            return None
        try:
            return build_index(self.store, rows)
        except StorageError as error:
            logger.warning("cannot write an index of %s, reading its columns instead: %s", rows, error)
            return None

    def _scan(self, rows: Rows, targets: Sequence[Target]) -> list[Hit]:
        hits: list[Hit] = []
        for number, part in enumerate(rows.parts):
            table = read_columns(self.store, rows.manifest.path(part.name), trace_index.COLUMNS)
            hits += [Hit(rows, RowPosition(number, int(row))) for row in matching_rows(table, targets).nonzero()[0]]
        return hits

    def rows(self, hits: Iterable[Hit]) -> list[dict[str, Any]]:
        """Return the row of each hit, in the order of the hits."""
        hits = list(hits)
        by_part: dict[str, list[int]] = {}
        for hit in hits:
            by_part.setdefault(hit.rows.manifest.path(hit.part.name), []).append(hit.position.row)
        found: dict[tuple[str, int], dict[str, Any]] = {}
        for path, numbers in by_part.items():
            found |= {(path, number): row for number, row in read_rows(self.store, path, numbers)}
        return [found[hit.rows.manifest.path(hit.part.name), hit.position.row] for hit in hits]


def _stem(rows: Rows) -> str:
    return f"trace/{rows.prefix.rstrip('-')}"


def _search_file(file: IndexFile, target: Target) -> Iterator[tuple[RowPosition, int]]:
    if target.kind == "phash" and target.bits:
        yield from file.find_near(trace_index.parse_hex(target.value), target.bits)
    elif target.kind == "domain":
        yield from ((position, 0) for position in file.find_below(trace_index.reverse_host(target.value)))
    elif target.kind == "url":
        yield from ((position, 0) for position in file.find_equal(trace_index.hash_url(target.value)))
    else:
        yield from ((position, 0) for position in file.find_equal(trace_index.parse_hex(target.value)))


def build_index(store: Store, rows: Rows) -> Header:
    """Build the index of some rows. Two processes that build it at once write the same bytes."""
    logger.info("building an index of %s", rows)
    sizes: dict[str, int] = {}
    segments, pending_rows, pending = 0, 0, list[dict[str, pa.Table]]()
    parts = rows.parts
    for number, part in enumerate(parts):
        table = read_columns(store, rows.manifest.path(part.name), trace_index.COLUMNS)
        pending.append(trace_index.build_entries(number, table))
        pending_rows += part.rows
        if pending_rows >= SEGMENT or number == len(parts) - 1:
            sizes |= _put_segment(store, rows, segments, pending)
            segments, pending_rows, pending = segments + 1, 0, []
    checksums = {part.name: part.sha256 for part in parts}
    header = Header(format=trace_index.FORMAT, parts=checksums, segments=segments, sizes=sizes)
    store.put(rows.manifest.path(f"{_stem(rows)}.json"), header.model_dump_json().encode())
    return header


def _put_segment(store: Store, rows: Rows, segment: int, pending: Sequence[dict[str, pa.Table]]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    with scratch_folder("trace") as folder:
        for kind in trace_index.KINDS:
            name, path = f"{_stem(rows)}-{kind}-{segment:03d}.parquet", folder / kind
            with path.open("wb") as file:
                trace_index.write_index([entries[kind] for entries in pending], file)
            store.put(rows.manifest.path(name), path)
            sizes[name] = path.stat().st_size
    return sizes


def _open_part(store: Store, name: str) -> AbstractContextManager[pq.ParquetFile]:
    size = store.size(name)
    if size is None:
        raise CorruptPart(f"{store.uri}/{name} is missing, but its manifest names it; `run --verify` remakes it")
    return open_parquet(RangeFile(store, name, size), f"{store.uri}/{name}")


def read_columns(store: Store, name: str, columns: Sequence[str]) -> pa.Table:
    """Read those of the columns that a part has."""
    with _open_part(store, name) as file:
        return file.read(columns=list(columns))


def read_rows(store: Store, name: str, numbers: Iterable[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield rows of a part by their numbers; only the row groups that hold one are read."""
    start, remaining = 0, sorted(set(numbers))
    with _open_part(store, name) as file:
        for group in range(file.metadata.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            in_group = [row for row in remaining if start <= row < end]
            if in_group:
                table = file.read_row_group(group)
                yield from zip(in_group, table.take([row - start for row in in_group]).to_pylist(), strict=True)
            start = end
