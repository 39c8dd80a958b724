"""Find and delete images of removed pairs in objects that no manifest names.

A run, a takedown or a deletion that was killed leaves them: old shards beside the manifest of a rewritten raw snapshot, the
shards of a dataset version whose manifest is deleted, and the finished tasks of a snapshot that is not complete. Images
are in `download` and `pack` only; the tables of the other stages have URLs and captions.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dataops.errors import CorruptPart
from dataops.snapshot import MANIFEST, Draft, Manifest, SnapshotName
from dataops.stages import PAIR_STAGES
from dataops.store import Store
from dataops.trace.targets import COLUMNS, Target, matching_rows
from tasks.engine.context import Context
from tasks.engine.lease import find_holder, hold_lease
from tasks.lineage.inventory import Inventory
from tasks.search import read_columns

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
        tables = [name for name in objects if name.endswith(".parquet") and "/_work/" not in name]
        return [name for name in tables if _has_match(store, name, targets)]
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
        return bool(matching_rows(read_columns(store, rows, COLUMNS), targets).any())
    except CorruptPart:
        return True


def delete_leftovers(context: Context, name: SnapshotName, targets: Sequence[Target]) -> int:
    """Delete the leftovers of a snapshot under its lease; return the number of objects.

    A run that resumes the snapshot makes the tasks of the deleted objects again, without the removed pairs.

    Raises: ConfigError that names the run that makes the snapshot now, if there is one.
    """
    with hold_lease(Draft(context.store, *name), context, wait=False, remake=True) as held:
        assert held is not None
        objects = _find_in(Inventory(context.store, name.stage), name, targets, lambda: False)
        held.draft.check_fence()
        context.store.delete(objects)
    return len(objects)
