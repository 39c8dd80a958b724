"""Search the rows of snapshots for targets, and find the takedown requests that a dataset applies.

An index of a snapshot's kept rows (`pairmill.row_indexes`) states which parts may have a target. No digest covers it. A
snapshot without one is searched by reading all of its parts.

Of the takedown requests of a store, only those that remove a pair of a dataset change its key:

    takedowns/datasets/<digest>.json    of a dataset without requests: those that its versions apply, and those that match
                                        no row of it

A dataset is the versions of `pack` that differ only in their requests; the digest is the key that it has without any. The
newest version that is complete counts, and each request that is neither applied nor known to match nothing is searched in
its index. Without a complete version, all requests of the store are applied. The records only save searches: without them,
and after any kill, no pair that a request names is in a version that a run uses.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from dataops import plugins
from dataops.errors import CorruptPart, StorageError
from dataops.parquet import open_parquet
from dataops.snapshot import (
    READS_AT_ONCE,
    Draft,
    Input,
    Manifest,
    Part,
    load_manifest,
    snapshot_key,
)
from dataops.storage.base import open_ranges
from dataops.store import Store
from dataops.trace.requests import FOLDER, STAGE, list_requests, load_targets
from dataops.trace.targets import COLUMNS, Target, matching_rows, phash_distances
from tasks.engine.context import Context

VERSIONS = 8
"""Versions of a dataset that are remembered."""

KeyOf = Callable[[list[Input]], str]


# Indexes -----------------------------------------------------------------------------------------------------------

INDEXES = "row_indexes"


class RowIndex(NamedTuple):
    """A registered index of rows."""

    write: Callable[[Draft, Sequence[Part], Context], list[Part]]
    """Writes it for some written parts, and returns its parts, whose names begin with INDEX; none if there are no rows."""
    select: Callable[[Store, Manifest, Sequence[Part], Sequence[Target]], list[Part]]
    """Returns those of a snapshot's kept parts that may have a row that matches: all of them if it has no index."""


def write_index(draft: Draft, parts: Sequence[Part], context: Context) -> list[Part]:
    """Write the indexes of some written parts, and return their parts."""
    return [part for index in plugins.load(INDEXES).values() for part in index.write(draft, parts, context)]


def select_parts(store: Store, manifest: Manifest, parts: Sequence[Part], targets: Sequence[Target]) -> list[Part]:
    """Return those of a snapshot's kept parts that may have a row that matches."""
    for index in plugins.load(INDEXES).values():
        parts = index.select(store, manifest, parts, targets)
    return list(parts)


# Rows --------------------------------------------------------------------------------------------------------------


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

    def read_evidence(self, download: Manifest, uid: str, hit: Hit | None = None) -> dict[str, Any] | None:
        """Return the evidence row of the last round that fetched a pair: each round has its own part.

        Args:
            hit: the pair's row, if it is known.
        """
        found = [hit] if hit else self.find(Rows(download, "part-"), [Target("uid", uid)])
        for row in found[:1]:
            number = re.sub(r"-r\d+$", "", row.part.name.removesuffix(".parquet")).partition("-")[2]
            for part in download.named(f"evidence-{number}", ".parquet"):
                uids = read_columns(self.store, path := download.path(part.name), ["uid"])["uid"].to_pylist()
                if uid in uids:
                    return next(fields for _, fields in read_rows(self.store, path, [uids.index(uid)]))
        return None


@contextmanager
def _open_part(store: Store, name: str, size: int | None = None) -> Iterator[pq.ParquetFile]:
    """Open a part; its size is requested if it is not known."""
    if size is None and (size := store.size(name)) is None:
        raise CorruptPart(f"{store.uri}/{name} {_MISSING}")
    try:
        with open_ranges(store, name, size) as source, open_parquet(source, f"{store.uri}/{name}") as file:
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


# Takedown requests -------------------------------------------------------------------------------------------------


class Applied(BaseModel):
    """takedowns/datasets/<digest>.json; requests are named by their digests."""

    model_config = ConfigDict(extra="ignore")

    versions: list[list[str]] = []
    """Requests that versions apply, the oldest version first."""
    unmatched: list[str] = []
    """Requests that match no row of the newest version."""


def list_applied(store: Store, key_of: KeyOf, requests: Sequence[Input] | None = None) -> list[Input]:
    """Return the requests that the next snapshot of a dataset applies, sorted, as inputs of its key.

    Args:
        requests: those of the store, if they are known.
    """
    requests = list_requests(store) if requests is None else [*requests]
    if not requests:
        return []
    known = load_applied(store, key_of([]))
    for version in [*reversed(known.versions), []]:
        applied = [request for request in requests if request.key in version]
        if len(applied) != len(version) or not Draft(store, "pack", key := key_of(applied)).is_complete():
            continue
        with suppress(CorruptPart):  # its rows are not known: all requests are applied
            if not (rest := list_open(known, applied, requests)):
                return applied
            if (manifest := load_manifest(store, "pack", key)) is not None:
                matching = find_matching(store, manifest, rest)
                return [request for request in requests if request in applied or request in matching]
    return requests


def list_open(known: Applied, applied: Iterable[Input], requests: Iterable[Input]) -> list[Input]:
    """Return the requests that a version does not apply, and of which it is not known that they match nothing."""
    done = {*known.unmatched, *(request.key for request in applied)}
    return [request for request in requests if request.key not in done]


def find_matching(store: Store, dataset: Manifest, requests: Sequence[Input]) -> list[Input]:
    """Return the requests that match a row of a dataset. Raises: CorruptPart if a request or the dataset is damaged."""

    def has_match(some: Sequence[Input]) -> bool:
        return bool(Search(store).find(Rows(dataset, "part-"), load_targets(store, some)))

    if not has_match(requests):
        return []
    return [one for one in requests if has_match([one])] if len(requests) > 1 else [*requests]


def find_unapplied(store: Store, dataset: Manifest) -> list[Input]:
    """Return the requests of the store that a dataset does not apply, although they match a row of it."""
    applied = [one for one in dataset.inputs if one.stage == STAGE]
    requests = [one for one in list_requests(store) if one not in applied]
    rest = list_open(load_applied(store, name_dataset(dataset)), applied, requests) if requests else []
    return find_matching(store, dataset, rest) if rest else []


def name_dataset(version: Manifest) -> str:
    """Return the key that a version has without requests."""
    inputs = [one for one in version.inputs if one.stage != STAGE]
    return snapshot_key(version.stage, version.stage_version, version.config, version.seed, inputs)


def load_applied(store: Store, dataset: str) -> Applied:
    """Return what is known of a dataset; nothing, if the record is missing or damaged."""
    try:
        return Applied.model_validate_json(store.find(_name(dataset)) or b"{}")
    except ValidationError:
        return Applied()


def save_applied(
    store: Store, dataset: str, known: Applied, applied: Iterable[Input], unmatched: Iterable[Input] = ()
) -> None:
    """Add what a version applies, before it is complete, and requests that match no row of it, to what is known."""
    version = sorted(one.key for one in applied)
    versions = sorted([one for one in known.versions if one != version] + [version], key=len)[-VERSIONS:]
    after = Applied(versions=versions, unmatched=sorted({*known.unmatched, *(one.key for one in unmatched)}))
    if after != known:
        store.put(_name(dataset), after.model_dump_json().encode())


def _name(dataset: str) -> str:
    return f"{FOLDER}/datasets/{dataset}.json"
