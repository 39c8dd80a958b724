"""Erase URLs, captions and previews of removed pairs from the rows of snapshots that stay.

Rows that belong to a sample of a shard are left alone: those of `pack`, and the kept ones of `download`. They go with their
samples (plugins/erasure/raw_images.py), and a later call finds by them what an earlier one could not delete.

A row keeps its uid, its origin in the source file and its drop reason, so all counts stay true. The snapshot keeps its key
and its content digest: the digest is the identity by which keys of later stages name the rows as they were made, and a new
one would make the next run download everything again. `facts["erased"]` counts the rows, and the sha256 of each part is
that of its present bytes.

New parts are written before the manifest is replaced, and old ones deleted after it. A killed call leaves objects that no
manifest names, which the next call deletes (plugins/erasure/leftovers.py).
"""

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import ValidationError

from dataops.errors import PairmillError, StorageError
from dataops.schema import PERSONAL, find_added_columns
from dataops.snapshot import Draft, Manifest, Part, SnapshotName, read_table
from dataops.stages import PAIR_STAGES
from dataops.store import Store
from plugins.erasure.batches import Objects, Place, Sought, find_place, map_objects
from plugins.erasure.erase_records import erase_records
from plugins.erasure.record_search import UrlSearch
from plugins.erasure.traces import is_in, read_readable
from tasks.engine.context import Context
from tasks.engine.lease import hold_lease
from tasks.extract.source_index import SOURCE_INDEX, IndexEntry
from tasks.lineage.graph import KEPT, Lineage
from tasks.takedown.holders import Erased, Scope, Traces

logger = logging.getLogger(__name__)

REQUESTS = frozenset({"url", "detail", "referrer", "sha256"})
"""Columns to erase of a table without uids: the requests of a crawl, to images too if a page links or redirects to them."""
NEVER_NULL = ("url", "caption")
"""Columns that are empty in an erased row; all others are null."""
_REVISION = re.compile(r"-r(\d+)")


def erase_rows(
    lineage: Lineage,
    context: Context,
    traces: Traces,
    place: Place | None = None,
    clean: Collection[str] = (),
) -> tuple[dict[str, int], dict[str, str]]:
    """Erase the rows of removed pairs, and those of requests of their images, from all complete snapshots.

    Args:
        traces: uids and URLs of the pairs.
        clean: names of objects that have no such row.

    Returns: the number of erased rows by snapshot; and why the rows of a snapshot stay, by snapshot.
    """
    erased: dict[str, int] = {}
    refused: dict[str, str] = {}
    tables = {
        m.path(part.name): (name, part) for name, m in sorted(lineage.manifests.items()) for part in _list_tables(m)
    }
    found: dict[SnapshotName, list[Part]] = {}
    sizes = [(path, part.bytes) for path, (_, part) in tables.items() if path not in clean]
    sought = Sought(Traces(uids=traces.uids, urls=traces.urls))
    for name, part in (
        tables[path] for some in map_objects(_find_tables, sizes, sought, context, place) for path in some
    ):
        found.setdefault(name, []).append(part)
    for name, parts in found.items():
        try:
            erased[str(name)] = _erase_in(context, lineage.manifests[name], parts, traces)
        except PairmillError as error:  # a run makes it now, or the store failed
            refused[str(name)] = str(error)
    return erased, refused


def _list_tables(manifest: Manifest) -> list[Part]:
    """Return the parts whose rows may be erased."""
    if manifest.stage not in PAIR_STAGES or manifest.stage == "pack":
        return []
    samples = KEPT if manifest.stage == "download" else None
    return [part for part in manifest.named("", ".parquet") if samples is None or not part.name.startswith(samples)]


def _find_tables(store: Store, sought: Sought, objects: Objects) -> list[str]:
    """Return the names of the tables with a row to erase."""
    columns = ["uid", *find_personal_columns(), *REQUESTS]
    return [
        name
        for name, size in objects
        if any(_rows_to_erase(table, sought.traces).any() for table in read_readable(store, name, size, columns))
    ]


def _rows_to_erase(table: pa.Table, traces: Traces) -> NDArray[np.bool_]:
    """Return whether each row is of one of the pairs, or of a request of its image, and not yet erased (N,)."""
    there = _list_personal(table)
    if "uid" not in table.column_names:
        urls = UrlSearch(traces.urls)
        found = [np.array([urls.is_in(text or "") for text in table[name].to_pylist()], bool) for name in there]
        return np.logical_or.reduce([np.zeros(table.num_rows, bool), *found])
    mask = is_in(table["uid"], traces.uids)
    for row in mask.nonzero()[0]:
        mask[row] = any(table[name][int(row)].as_py() not in (None, "") for name in there)
    return mask


def _erase_in(context: Context, manifest: Manifest, parts: list[Part], traces: Traces) -> int:
    draft = Draft(context.store, manifest.stage, manifest.key)
    with hold_lease(draft, context, wait=False, remake=True) as held:
        assert held is not None
        replaced, rows = blank_parts(held.draft, manifest, parts, traces)
        facts = {**manifest.facts, "erased": int(manifest.facts.get("erased", 0)) + rows}
        after = manifest.model_copy(
            update={"parts": [replaced.get(part.name, part) for part in manifest.parts], "facts": facts}
        )
        held.draft.replace(after)
        if manifest.stage == "extract":
            for name in draft.store.names(SOURCE_INDEX):
                _replace_indexed_parts(draft.store, name, manifest.key, replaced)
        draft.store.delete([draft.path(name) for name in replaced])
    return rows


def blank_parts(draft: Draft, manifest: Manifest, parts: Sequence[Part], traces: Traces) -> tuple[dict[str, Part], int]:
    """Write parts anew with blank rows of removed pairs; return them by their old names, and the number of rows."""
    taken, rows, replaced = {part.name for part in manifest.parts}, 0, dict[str, Part]()
    for part in parts:
        table = read_table(draft.store, manifest.path(part.name))
        mask = _rows_to_erase(table, traces)
        if not mask.any():
            continue
        rows += int(mask.sum())
        name = _next_name(part.name, taken)
        taken.add(name)
        new = draft.put_table(name, _blank(table, mask))
        replaced[part.name] = new.model_copy(update={"uid_sum": part.uid_sum, "rows": part.rows})
    return replaced, rows


def _blank(table: pa.Table, mask: NDArray[np.bool_]) -> pa.Table:
    for name in _list_personal(table):
        field, value = table.schema.field(name), "" if name in NEVER_NULL else None
        values = [value if is_erased else one for one, is_erased in zip(table[name].to_pylist(), mask, strict=True)]
        table = table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))
    return table


def _list_personal(table: pa.Table) -> list[str]:
    personal = find_personal_columns() if "uid" in table.column_names else REQUESTS
    return [name for name in table.column_names if name in personal]


def _next_name(name: str, taken: set[str]) -> str:
    """Return part-00003-r1.parquet for part-00003.parquet, and then -r2, or the next one that is not taken."""
    stem = name.removesuffix(".parquet")
    found = _REVISION.search(stem)
    number = int(found[1]) if found else 0
    while True:
        number += 1
        new = f"{stem[: found.start()]}-r{number}{stem[found.end() :]}" if found else f"{stem}-r{number}"
        if f"{new}.parquet" not in taken:
            return f"{new}.parquet"


def find_personal_columns() -> frozenset[str]:
    """Return the names of the columns that a takedown erases, also of those that the steps of curate add."""
    return PERSONAL | {column.name for column in find_added_columns().values() if column.is_personal}


def _replace_indexed_parts(store: Store, entry: str, key: str, parts: Mapping[str, Part]) -> None:
    """Name the parts that replace others of a snapshot, in an entry that names the snapshot.

    Args:
        parts: new part by the name of the old one.
    """
    try:
        found = IndexEntry.model_validate_json(store.read(entry))
    except (ValidationError, StorageError):
        return
    now = [parts.get(part.name, part) for part in found.record.parts]
    if found.key == key and now != found.record.parts:
        record = found.record.model_copy(update={"parts": now})
        store.put(entry, found.model_copy(update={"record": record}).model_dump_json().encode())


@dataclass(frozen=True)
class Rows:
    """The rows of snapshots that stay, and the pages of a crawl from which they were read."""

    order: int = 10

    def erase(self, traces: Traces, scope: Scope) -> Erased:
        """Blank the columns that hold personal text, and records of pages."""
        context, place, lineage = scope.context, find_place(scope), Lineage(scope.context.store)
        rows, refused = erase_rows(lineage, context, traces, place, scope.clean)
        archives, not_erased = erase_records(lineage, context, traces, place)
        return Erased(rows=rows, objects=archives, refused=refused | not_erased)

    def find(self, traces: Traces, scope: Scope) -> None:
        """Return None: the search of the store reads the rows."""


ROWS = Rows()
