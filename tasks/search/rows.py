"""Search the rows of snapshots for targets, by reading the columns that are compared."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from dataops.errors import CorruptPart, StorageError
from dataops.parquet import open_parquet
from dataops.snapshot import READS_AT_ONCE, Manifest, Part
from dataops.storage.base import RangeFile
from dataops.store import Store
from dataops.trace.targets import COLUMNS, Target, matching_rows, phash_distances
from tasks.search.row_index import select_parts


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
        """Return each row that matches a target once, by phash distance, then in the order of the parts.

        Only parts in which the index of the snapshot finds a target are read.
        """
        parts, hits = rows.parts, list[Hit]()
        numbers = {part.name: number for number, part in enumerate(parts)}
        chosen = select_parts(self.store, rows.manifest, parts, targets) if rows.prefix == "part-" else parts

        def read(part: Part) -> pa.Table:
            return read_columns(self.store, rows.manifest.path(part.name), COLUMNS, part.bytes)

        with ThreadPoolExecutor(READS_AT_ONCE) as pool:
            for part, table in zip(chosen, pool.map(read, chosen), strict=True):
                matches = matching_rows(table, targets).nonzero()[0]
                apart = phash_distances(table.take(pa.array(matches)), targets)
                hits += map(partial(Hit, rows, numbers[part.name]), matches.tolist(), apart)
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


@contextmanager
def _open_part(store: Store, name: str, size: int | None = None) -> Iterator[pq.ParquetFile]:
    """Open a part; its size is requested if it is not known."""
    if size is None and (size := store.size(name)) is None:
        raise CorruptPart(f"{store.uri}/{name} {_MISSING}")
    try:
        with open_parquet(RangeFile(store, name, size), f"{store.uri}/{name}") as file:
            yield file
    except StorageError as error:
        if store.size(name) is None:
            raise CorruptPart(f"{store.uri}/{name} {_MISSING}") from error
        raise


_MISSING = "is missing, but its manifest names it; `run --verify` remakes it"


def read_columns(store: Store, name: str, columns: Sequence[str], size: int | None = None) -> pa.Table:
    """Read those of the columns that a part has."""
    with _open_part(store, name, size) as file:
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
