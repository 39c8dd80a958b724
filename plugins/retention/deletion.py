"""Plan and carry out the deletion of the snapshots that no kept run and no registered model needs.

The caller decides which runs and models are kept: they are the roots. A snapshot stays when it is a root, an ancestor of
one (an input in its manifest, transitively), or in use by a run. Of all others the manifest is deleted first, so that an
interrupted deletion never leaves an incomplete snapshot that looks complete.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pydantic import ValidationError

from dataops.errors import CorruptPart, StorageError
from dataops.snapshot import MANIFEST, Draft, SnapshotName
from dataops.storage.base import PROBES
from dataops.store import Entry, Store
from tasks.engine.context import Context
from tasks.engine.lease import find_holder
from tasks.extract.source_index import IndexEntry
from tasks.lineage.inventory import DAY, Inventory, StoredSnapshot, delete_snapshot

PACK = "pack"
"""Stage whose snapshots may share objects."""


@dataclass(frozen=True)
class Deletion:
    """A snapshot to delete."""

    name: SnapshotName
    bytes: int
    modified: float
    why: str


@dataclass
class DeletionPlan:
    """The objects of a store to delete, and those to keep with the reasons."""

    snapshots: list[Deletion]
    kept: dict[SnapshotName, str]
    work: list[SnapshotName]
    """Complete snapshots that stay, but with scratch objects to delete."""
    memories: list[Entry]
    """Records by which extract finds snapshots that are deleted, or no longer exist."""
    inventory: Inventory
    """The snapshots at the time of planning."""


def plan_deletions(store: Store, roots: Mapping[SnapshotName, str]) -> DeletionPlan:
    """Decide which objects to delete; this deletes nothing.

    Raises: CorruptPart if a manifest is unreadable whose ancestors may be needed; NewerFormat if a newer version of
        pairmill wrote one, since what it needs is unknown too.
    """
    now = time.time()
    inventory = Inventory(store)
    used = {name: reason for name in inventory.snapshots if (reason := _explain_use(inventory, name, now))}
    kept = add_ancestors(inventory, {**used, **roots})
    for name, snapshot in inventory.snapshots.items():
        is_unreadable = snapshot.is_complete and inventory.manifest(name) is None
        if is_unreadable and (name in kept or name.stage == "register"):
            raise CorruptPart(
                f"{store.uri}/{name}/{MANIFEST} is unreadable, so what it was made of is unknown, and nothing is deleted: "
                "a run of its config remakes it; or delete that folder"
            )
    deletions: list[Deletion] = []
    for name, snapshot in sorted(inventory.snapshots.items()):
        shared = inventory.list_shared(name) if name not in kept else ()
        if own := [entry for entry in snapshot.objects if name not in kept and entry.name not in shared]:
            why = "no kept run or model needs it" if snapshot.is_complete else "unfinished, and no kept run resumes it"
            deletions.append(Deletion(name, sum(entry.bytes for entry in own), snapshot.modified, why))
    work = [
        name
        for name in sorted(kept)
        if name not in used and inventory.snapshots[name].is_complete and _has_scratch(inventory.snapshots[name])
    ]
    memories = [
        entry
        for entry in inventory.memories
        if SnapshotName("extract", _read_indexed_key(store, entry.name)) not in kept
    ]
    return DeletionPlan(deletions, kept, work, memories, inventory)


@dataclass
class DeletionResult:
    """The snapshots that were deleted, and those that were not, with the reasons."""

    deleted: list[Deletion] = field(default_factory=list)
    spared: dict[SnapshotName, str] = field(default_factory=dict)
    unfinished: int = 0
    """Number of half-written files, uploads and probes of killed writers, older than a day."""


def delete_unneeded(
    plan: DeletionPlan,
    context: Context,
    roots_now: Callable[[], Mapping[SnapshotName, str]],
    unfinished_seconds: float = DAY,
) -> DeletionResult:
    """Delete the objects of a plan. A killed call can be repeated.

    Args:
        roots_now: called before each deletion, so that a run started after planning keeps the snapshots that it reuses.
        unfinished_seconds: age from which on unfinished uploads and probes are deleted.
    """
    store, result = context.store, DeletionResult()
    newest_first = sorted(plan.snapshots, key=lambda one: (one.name.stage, -one.modified, one.name))
    for deletion in newest_first:  # versions before those whose objects they share
        reason = add_ancestors(plan.inventory, roots_now()).get(deletion.name) or _in_use_now(store, deletion.name)
        shared = plan.inventory.refreshed(PACK).list_shared(deletion.name) if deletion.name.stage == PACK else ()
        if reason := reason or delete_snapshot(Draft(store, *deletion.name), context, shared):
            result.spared[deletion.name] = reason
        else:
            result.deleted.append(deletion)
    for name in plan.work:
        if find_holder(store, *name) is None:
            store.delete_tree(f"{name}/_work")
    for entry in plan.memories:
        key = _read_indexed_key(store, entry.name)  # read again: a run may have replaced it after planning
        if not key or not store.names(f"extract/{key}"):
            store.delete([entry.name])
    probes = [entry.name for entry in store.entries(PROBES) if time.time() - entry.modified >= unfinished_seconds]
    store.delete(probes)
    result.unfinished = len(probes) + store.sweep("", older_than_seconds=unfinished_seconds)
    return result


def _in_use_now(store: Store, name: SnapshotName) -> str | None:
    inventory = Inventory(store, str(name))
    return _explain_use(inventory, name, time.time()) if name in inventory.snapshots else None


def add_ancestors(inventory: Inventory, roots: Mapping[SnapshotName, str]) -> dict[SnapshotName, str]:
    """Return the roots and all their ancestors in the store, each with the reason of its root."""
    needed: dict[SnapshotName, str] = {}
    waiting = list(roots.items())
    while waiting:
        name, reason = waiting.pop()
        if name in needed or name not in inventory.snapshots:
            continue
        needed[name] = reason
        manifest = inventory.manifest(name)
        waiting += [(SnapshotName(i.stage, i.key), reason) for i in manifest.inputs] if manifest else []
    return needed


def _explain_use(inventory: Inventory, name: SnapshotName, now: float) -> str | None:
    """Return why a snapshot must stay even if nothing needs it: a process makes it, or did within a day."""
    snapshot = inventory.snapshots[name]
    if snapshot.is_complete and not _has_scratch(snapshot):
        return None
    newest_lease = max((e.modified for e in snapshot.objects if "/_work/lease-" in e.name), default=0.0)
    if (lease := find_holder(inventory.store, *name)) is not None and now - newest_lease < DAY:
        return f"{lease} makes it"
    scratch = [e for e in snapshot.objects if e.name.startswith(f"{name}/_work/") and "/_work/lease-" not in e.name]
    if any(now - entry.modified < DAY for entry in scratch):
        return "work on it is younger than a day"
    return None


def _read_indexed_key(store: Store, entry: str) -> str:
    """Return the key of the snapshot that an entry names; '' if the entry cannot be read."""
    try:
        return IndexEntry.model_validate_json(store.read(entry)).key
    except (ValidationError, StorageError):
        return ""


def _has_scratch(snapshot: StoredSnapshot) -> bool:
    """Return whether it has scratch objects, leases included."""
    return any("/_work/" in entry.name for entry in snapshot.objects)
