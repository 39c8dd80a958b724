"""Find and delete images of removed pairs in objects that no manifest names.

A run, a takedown or a deletion that was killed leaves them: old shards beside the manifest of a rewritten raw snapshot, the
shards of a dataset version whose manifest is deleted, and the finished tasks of a snapshot that is not complete. Images
are in `download` and `pack` only; the tables of the other stages have URLs and captions. The finished shards of an
unfinished download are rewritten, so that the run that resumes it requests none of their images again.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from dataops.errors import ConfigError, CorruptPart
from dataops.snapshot import MANIFEST, Draft, Manifest, Record, SnapshotName
from dataops.stages import PAIR_STAGES
from dataops.store import Store
from dataops.trace.targets import COLUMNS, Target, matching_rows
from plugins.erasure.erase_rows import blank_parts
from plugins.erasure.raw_images import rewrite_shards
from tasks.engine.context import Context
from tasks.engine.lease import find_holder, hold_lease
from tasks.lineage.inventory import Inventory
from tasks.search import read_columns
from tasks.takedown.holders import Traces

_SHARD_OBJECT = re.compile(r"(?:part-|dropped-|evidence-)?(\d+(?:-r\d+)?)(?:-t)?\.(?:tar|idx|parquet)")
_PAGES = (".html", ".md")
"""Pages of a snapshot show samples. They are written last, so those of an unfinished one are rebuilt quickly."""


@dataclass(frozen=True)
class Leftovers:
    """Objects of a snapshot to delete."""

    snapshot: SnapshotName
    objects: tuple[str, ...]


def find_leftovers(inventory: Inventory, targets: Sequence[Target]) -> list[Leftovers]:
    """Return the objects that no manifest names and that hold, or may hold, an image that matches.

    Args:
        targets: with the uids of pairs that match by a column which raw rows lack, such as `phash`.
    """
    store = inventory.store
    snapshots = [name for name in sorted(inventory.snapshots) if name.stage in PAIR_STAGES]
    found = [
        Leftovers(
            name, tuple(_find_in(inventory, name, targets, lambda name=name: find_holder(store, *name) is not None))
        )
        for name in snapshots
    ]
    return [leftovers for leftovers in found if leftovers.objects]


def find_held(context: Context, inventory: Inventory) -> dict[str, str]:
    """Return why a takedown is incomplete, by snapshot that a run makes now: it may have read removed pairs before."""
    found = dict[str, str]()
    for name, snapshot in sorted(inventory.snapshots.items()):
        if name.stage not in PAIR_STAGES or snapshot.is_complete or find_holder(context.store, *name) is None:
            continue
        try:
            with hold_lease(Draft(context.store, *name), context, wait=False):  # of a lost machine, after some time
                pass
        except ConfigError as error:
            found[str(name)] = f"{error}; then repeat the takedown"
    return found


def _find_in(
    inventory: Inventory, name: SnapshotName, targets: Sequence[Target], is_held: Callable[[], bool]
) -> list[str]:
    snapshot = inventory.snapshots[name]
    shared = inventory.list_shared(name)
    objects = [entry.name for entry in snapshot.objects if entry.name not in shared]
    if not snapshot.is_complete:
        return _find_in_unfinished(inventory.store, name, objects, targets, is_held=is_held()) if objects else []
    manifest = inventory.manifest(name)
    return _find_unlisted(manifest, objects) if manifest else []


def _find_unlisted(manifest: Manifest, objects: Sequence[str]) -> list[str]:
    """Return the objects of a complete snapshot that its manifest does not name, without scratch objects."""
    listed = {manifest.path(name) for name in (MANIFEST, *(part.name for part in manifest.objects))}
    return [name for name in objects if name not in listed and not name.startswith(manifest.path("_work/"))]


def _find_in_unfinished(
    store: Store, snapshot: SnapshotName, objects: Sequence[str], targets: Sequence[Target], *, is_held: bool
) -> list[str]:
    """Return the objects of the shards with a matching row, and of those whose rows are missing; and the pages.

    Args:
        is_held: a run makes the snapshot now; then rows may be missing only because they are not written yet.
    """
    shards: dict[str, list[str]] = defaultdict(list)
    for name in objects:
        if match := _SHARD_OBJECT.fullmatch(name.removeprefix(f"{snapshot}/")):
            shards[match[1]].append(name)
    if snapshot.stage not in ("download", "pack"):
        hits = {name for name in objects if name.endswith(".parquet") and _has_match(store, name, targets)}
        if any("/_work/" in name for name in hits):  # other tasks there have these rows too, and name the former shard
            hits.update(name for name in objects if "/_work/" in name and "/_work/lease-" not in name)
        return sorted(hits)
    left: list[str] = []
    for number, names in sorted(shards.items()):
        tables = [name for name in names if name.endswith(".parquet")]
        has_rows = f"{snapshot}/part-{number}.parquet" in names
        is_unknown = f"{snapshot}/{number}.tar" in names and not has_rows and not is_held
        if is_unknown or any(_has_match(store, name, targets) for name in tables):
            left += names
    return left + [name for name in objects if name.endswith(_PAGES) and (left or not is_held)]


def _has_match(store: Store, rows: str, targets: Sequence[Target]) -> bool:
    """Return whether a row matches; True if the rows cannot be read, since the shard may then hold any image."""
    try:
        return bool(_find_uids(store, rows, targets))
    except CorruptPart:
        return True


def _find_uids(store: Store, rows: str, targets: Sequence[Target]) -> set[str]:
    """Return the uids of the rows that match; an erased row has no URL, and matches nothing. Raises: CorruptPart."""
    table = read_columns(store, rows, COLUMNS)
    if "uid" not in table.column_names:  # of images of evaluation sets
        return set()
    if "url" in table.column_names:
        table = table.filter(pc.field("url") != "")
    found = table.filter(pa.array(matching_rows(table, targets)))
    return set(found["uid"].to_pylist())


def delete_leftovers(context: Context, name: SnapshotName, targets: Sequence[Target]) -> int:
    """Delete the leftovers of a snapshot under its lease; return the number of objects.

    Finished tasks of a download stay finished, without the removed pairs. A run that resumes another stage makes the tasks
    of the deleted objects again.

    Raises: ConfigError that names the run that makes the snapshot now, if there is one.
    """
    with hold_lease(Draft(context.store, *name), context, wait=False, remake=True) as held:
        assert held is not None
        number = 0
        if name.stage == "download" and not held.draft.is_complete():
            number = sum(_rewrite_task(held.draft, record, targets) for record in held.draft.finished().values())
        objects = _find_in(Inventory(context.store, name.stage), name, targets, lambda: False)
        held.draft.check_fence()
        context.store.delete(objects)
    return number + len(objects)


def _rewrite_task(draft: Draft, record: Record, targets: Sequence[Target]) -> int:
    """Remove what matches from the shards of a finished task; return the number of objects that are replaced.

    If the task were repeated, hosts might answer otherwise, and the rows of later waves, which are cut already, would be
    others. So would the record of a reopened snapshot, which no task makes again.
    """
    shards = Manifest.model_construct(stage=draft.stage, key=draft.key, parts=record.parts, counts=record.counts)
    tables = shards.named("", ".parquet")
    try:
        found = {part.name: _find_uids(draft.store, draft.path(part.name), targets) for part in tables}
    except CorruptPart:  # its shards are deleted
        return 0
    hits = [part for part in tables if part.name.startswith("part-") and found[part.name]]
    after, replaced = rewrite_shards(draft, shards, hits, targets)
    others = [part for part in after.parts if part.name.endswith(".parquet") and not part.name.startswith("part-")]
    blank, _ = blank_parts(draft, after, others, Traces(uids=set().union(*found.values())))
    replaced += [name for name in blank if name in found]
    if replaced:
        parts = [blank.get(part.name, part) for part in after.parts]
        draft.finish(record.model_copy(update={"parts": parts, "counts": after.counts}))
        draft.store.delete([draft.path(name) for name in replaced])
    return len(replaced)
