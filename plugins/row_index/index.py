"""The index of a snapshot's kept rows, which states which parts have a uid, URL, domain or image.

    index-00000.pq ...                hashes of values, sorted, each with a part that has it; a file per range of hashes
    index-images-00000.pq ...         the perceptual hash of each image, with its part
    index-parts.pq                    the parts that are indexed

A part is named by the first 64 bits of its sha256. So a part that was rewritten counts as not indexed, and is read; parts
that a later version shares are found in the index of the earlier one. What the index finds is a superset, which the rows
themselves confirm: two values may have one hash, and a row may have been removed.
"""

import logging
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from dataops.digest import text_sha256
from dataops.errors import CorruptPart, StorageError
from dataops.kernels.hashes import hash128
from dataops.parquet import ROW_GROUP as ROWS
from dataops.parquet import encode_table, open_parquet
from dataops.schema import CAPTIONS
from dataops.snapshot import INDEX, Draft, Manifest, Part, Record, fetch_table
from dataops.storage.base import open_ranges
from dataops.store import Store
from dataops.trace.targets import COLUMNS, Target, list_captions, list_domains
from tasks.engine.context import Context
from tasks.engine.exchange import Exchange, Step, group_units, number_partitions, run_steps
from tasks.search import RowIndex

logger = logging.getLogger(__name__)

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
    step.job.write(draft, step.number, pl.concat(entries), "hash")
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
    """Return those of a snapshot's kept parts that may have a row that matches.

    They are all of them if the snapshot has no index, or a damaged one: a takedown waits for no repair.
    """
    listed = {part.name: part for part in manifest.parts if part.name.startswith(INDEX)}
    if _PARTS not in listed:
        return list(parts)
    try:
        if sha256(_encode_names(parts)).hexdigest() == listed[_PARTS].sha256:  # the snapshot is as it was indexed
            indexed = frozenset(map(_short_digest, parts))
        else:
            indexed = _load_parts(store, manifest.path(_PARTS), listed[_PARTS].sha256)
        found = _find(store, manifest, list(listed.values()), targets, indexed)
    except (CorruptPart, StorageError) as damage:
        logger.warning("%s; all parts are read instead. `pairmill run --verify` with its config remakes it", damage)
        return list(parts)
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
    values = [value for target in targets if target.kind != "phash" for value in target.spellings]
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
            if limits is None:  # the group has no rows, as of a snapshot that keeps none
                continue
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
        raise CorruptPart(f"{where} is the index of other rows than those of its snapshot")


@lru_cache(maxsize=64)
def _load_parts(store: Store, name: str, sha256: str) -> frozenset[int]:
    return frozenset(fetch_table(store, name)["part_sha"].to_pylist())


ROW_INDEX = RowIndex(write_index, select_parts)
