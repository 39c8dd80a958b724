"""Search the rows of snapshots for targets, by an index, and find the takedown requests that a dataset applies.

The index of a snapshot's kept rows states which parts have a uid, URL, domain or image:

    index-00000.pq ...                hashes of values, sorted, each with a part that has it; a file per range of hashes
    index-images-00000.pq ...         the perceptual hash of each image, with its part
    index-parts.pq                    the parts that are indexed

A part is named by the first 64 bits of its sha256. So a part that was rewritten counts as not indexed, and is read; parts
that a later version shares are found in the index of the earlier one. What the index finds is a superset, which the rows
themselves confirm: two values may have one hash, and a row may have been removed.

No digest covers an index. A snapshot without one is searched by reading all of its parts.

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
from functools import lru_cache, partial
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from dataops.digest import text_sha256
from dataops.errors import CorruptPart, StorageError
from dataops.kernels.hashes import hash128
from dataops.parquet import ROW_GROUP as ROWS
from dataops.parquet import encode_table, open_parquet
from dataops.schema import CAPTIONS
from dataops.snapshot import (
    INDEX,
    READS_AT_ONCE,
    Draft,
    Input,
    Manifest,
    Part,
    Record,
    fetch_table,
    load_manifest,
    snapshot_key,
)
from dataops.storage.base import open_ranges
from dataops.store import Store
from dataops.trace.requests import FOLDER, STAGE, list_requests, load_targets
from dataops.trace.targets import COLUMNS, Target, list_captions, list_domains, matching_rows, phash_distances
from tasks.engine.context import Context
from tasks.engine.exchange import Exchange, Step, group_units, number_partitions, run_steps

TASK_ROWS = 1 << 20
"""Rows of a task that hashes values."""
ENTRIES = 6
"""Values of a row, about, for the size of the exchange."""
ENTRY_BYTES = 16
FILE_ENTRIES = 1 << 23
TASK_BYTES = 1 << 29
"""Memory of a task that sorts hashes."""
ROW_GROUP = 1 << 12
"""Entries of a row group: both columns are read by one request of 64 KiB."""

_PARTS, _IMAGES = f"{INDEX}parts.pq", f"{INDEX}images-"

VERSIONS = 8
"""Versions of a dataset that are remembered."""

KeyOf = Callable[[list[Input]], str]


# The index ---------------------------------------------------------------------------------------------------------


def write_index(
    draft: Draft,
    parts: Sequence[Part],
    context: Context,
    task_rows: int = TASK_ROWS,
    file_entries: int = FILE_ENTRIES,
) -> list[Part]:
    """Write the index of some written parts, and return its parts; none if there is nothing to index."""
    if not parts:
        return []
    rows = sum(part.rows for part in parts)
    groups = group_units(parts, [part.rows for part in parts], task_rows)
    files = max(-(-rows * ENTRIES // file_entries), 1)
    content = text_sha256(" ".join(part.sha256 for part in parts))  # an attempt that failed may have had other parts
    exchange = Exchange(f"index-{content[:16]}", len(groups), files, rows * ENTRIES * ENTRY_BYTES, TASK_BYTES)
    hashing = [Step(hash_rows, number, exchange, group) for number, group in enumerate(groups)]
    written = [part for record in run_steps(hashing, rows, draft, context) for part in record.parts]
    run_steps(exchange.merge_steps(), rows, draft, context)
    sorting = [Step(sort_hashes, number, exchange) for number in range(files)]
    written += [part for record in run_steps(sorting, rows, draft, context) for part in record.parts]
    return [*written, draft.put_bytes(_PARTS, _encode_names(parts), len(parts))]


def hash_rows(draft: Draft, step: Step[Exchange]) -> Record:
    """Hash the values of the rows of some parts."""
    entries, images = list[pl.DataFrame](), list[pl.DataFrame]()
    for part in step.inputs:
        rows = fetch_table(draft.store, f"{draft.folder_of(part)}/{part.name}", list(COLUMNS))
        entries.append(pl.DataFrame({"hash": hash_values(rows)}).with_columns(_name_part(part)))
        if "phash" in rows.column_names:
            hashes = pl.DataFrame({"phash": pl.Series(values=rows["phash"].to_pylist(), dtype=pl.String)})
            whole = hashes.filter(pl.col("phash").str.len_bytes() == 16)
            images.append(whole.select(pl.col("phash").str.to_integer(base=16, dtype=pl.UInt64), _name_part(part)))
    step.job.write_by_hash(draft, step.number, pl.concat(entries), "hash")
    parts = [_put(draft, f"{_IMAGES}{step.number:05d}.pq", pl.concat(images))] if images else []
    return Record(task=step.id, parts=parts)


def sort_hashes(draft: Draft, step: Step[Exchange]) -> Record:
    """Write the file of one range of hashes."""
    entries = step.job.read(draft, step.number).select("hash", "part_sha").unique().sort("hash", "part_sha")
    return Record(task=step.id, parts=[_put(draft, f"{INDEX}{step.number:05d}.pq", entries)])


def _put(draft: Draft, name: str, rows: pl.DataFrame) -> Part:
    return draft.put_bytes(name, encode_table(rows.to_arrow(), ROW_GROUP).to_pybytes(), rows.height)


def _encode_names(parts: Sequence[Part]) -> bytes:
    """Return the table of the parts that are indexed."""
    names = pa.array(sorted(map(_short_digest, parts)), pa.uint64())
    return encode_table(pa.table({"part_sha": names}), ROWS).to_pybytes()


def _name_part(part: Part) -> pl.Expr:
    return pl.lit(_short_digest(part), pl.UInt64).alias("part_sha")


def _short_digest(part: Part) -> int:
    return int(part.sha256[:16], 16)


def hash_values(rows: pa.Table) -> NDArray[np.uint64]:
    """Return the hashes, each once, of all values by which a target finds one of the rows, without perceptual hashes."""
    tables = [rows, *([list_captions(rows)[0]] if CAPTIONS.name in rows.column_names else [])]
    urls, texts = list[pl.Series](), list[pl.Series]()
    for table in tables:
        for column in ("uid", "sha256", "url", "page_url"):
            if column in table.column_names:
                values = pl.Series(pl.from_arrow(table[column].cast(pa.string()))).drop_nulls()
                (urls if column.endswith("url") else texts).append(values)
    if urls:
        hosts = pl.concat(urls).str.extract(r"^https?://([^/?#:]+)").drop_nulls().unique().to_list()
        domains = {domain for host in hosts for domain in list_domains(host)}
        texts += [*urls, pl.Series(sorted(domains), dtype=pl.String)]
    return np.unique(_hash(pl.concat(texts).unique().to_arrow())) if texts else np.zeros(0, np.uint64)


def _hash(texts: pa.Array) -> NDArray[np.uint64]:
    return np.ascontiguousarray(hash128(texts.cast(pa.string()))[:, 0])


def select_parts(store: Store, manifest: Manifest, parts: Sequence[Part], targets: Sequence[Target]) -> list[Part]:
    """Return those of a snapshot's kept parts that may have a row that matches: all of them if it has no index.

    Raises: CorruptPart if the index is damaged.
    """
    listed = {part.name: part for part in manifest.parts if part.name.startswith(INDEX)}
    if _PARTS not in listed:
        return list(parts)
    if sha256(_encode_names(parts)).hexdigest() == listed[_PARTS].sha256:  # the snapshot is as it was indexed
        indexed = frozenset(map(_short_digest, parts))
    else:
        indexed = _load_parts(store, manifest.path(_PARTS), listed[_PARTS].sha256)
    found = _find(store, manifest, list(listed.values()), targets, indexed)
    return [part for part in parts if (name := _short_digest(part)) in found or name not in indexed]


def _find(
    store: Store, manifest: Manifest, index: Sequence[Part], targets: Sequence[Target], indexed: frozenset[int]
) -> set[int]:
    """Return the parts that the index has for the targets.

    Raises: CorruptPart if it is not the index of the parts `indexed`: it would miss rows.
    """
    hashes = [int(target.value, 16) for target in targets if target.kind == "phash"]
    distances = [target.bits for target in targets if target.kind == "phash"]
    found = set[int]()
    for part in index:
        if hashes and part.name.startswith(_IMAGES):
            images = fetch_table(store, manifest.path(part.name))
            _check_index(f"{store.uri}/{manifest.path(part.name)}", part, images.num_rows, images["part_sha"], indexed)
            numbers = images["phash"].to_numpy()
            for value, bits in zip(hashes, distances, strict=True):
                near = np.bitwise_count(numbers ^ np.uint64(value)) <= bits
                found.update(images["part_sha"].filter(pa.array(near)).to_pylist())
    files = sorted((part for part in index if part.name[len(INDEX)].isdigit()), key=lambda part: part.name)
    values = [target.value for target in targets if target.kind != "phash"]
    sought = np.unique(_hash(pa.array(values, pa.string())))
    numbers = number_partitions(pl.Series(sought, dtype=pl.UInt64), len(files))
    for number in np.unique(numbers).tolist():
        part = files[number]
        found |= _look_up(store, manifest.path(part.name), part, tuple(sought[numbers == number].tolist()), indexed)
    return found


@lru_cache(maxsize=64)
def _look_up(store: Store, name: str, part: Part, sought: tuple[int, ...], indexed: frozenset[int]) -> frozenset[int]:
    """Return the parts that a file of the index has for some sorted hashes; only their row groups are read."""
    found, hashes = set[int](), np.array(sought, np.uint64)
    with open_ranges(store, name, part.bytes) as source, open_parquet(source, f"{store.uri}/{name}") as file:
        for group in range(file.metadata.num_row_groups):
            limits = file.metadata.row_group(group).column(0).statistics
            first = np.searchsorted(hashes, np.uint64(limits.min))
            if first < len(hashes) and hashes[first] <= np.uint64(limits.max):
                rows = file.read_row_group(group, use_threads=False)
                _check_index(f"{store.uri}/{name}", part, file.metadata.num_rows, rows["part_sha"], indexed)
                is_sought = np.isin(rows["hash"].to_numpy(), hashes, kind="sort")
                found.update(rows["part_sha"].filter(pa.array(is_sought)).to_pylist())
    return frozenset(found)


def _check_index(where: str, part: Part, rows: int, named: Any, indexed: frozenset[int]) -> None:
    """Raise CorruptPart unless a file of an index has the rows that it should, of parts of its snapshot only.

    Args:
        named: the parts in some of its rows, as an array of Arrow.
    """
    if rows != part.rows or not indexed.issuperset(named.unique().to_pylist()):
        raise CorruptPart(f"{where} is the index of other rows than those of its snapshot; `run --verify` remakes it")


@lru_cache(maxsize=64)
def _load_parts(store: Store, name: str, sha256: str) -> frozenset[int]:
    return frozenset(fetch_table(store, name)["part_sha"].to_pylist())


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
