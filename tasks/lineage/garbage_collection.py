"""Plan and carry out the deletion of the snapshots that no kept run and no registered model needs."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dataops.errors import ConfigError, StorageError
from dataops.snapshot import MANIFEST, Draft, SnapshotName
from dataops.store import Entry, Store
from tasks.engine.context import Context
from tasks.engine.lease import hold, holder
from tasks.extract.stage import remembered_key
from tasks.lineage.inventory import DAY, Inventory, StoredSnapshot

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Deletion:
    """Something that is to be deleted."""

    name: SnapshotName
    bytes: int
    modified: float
    why: str


@dataclass
class DeletionPlan:
    """What is to go from a store, and what stays and why."""

    snapshots: list[Deletion]
    kept: dict[SnapshotName, str]
    work: list[SnapshotName]
    """Complete snapshots that stay, with scratch objects that nobody needs any more."""
    memories: list[Entry]
    """What extract remembers of snapshots that go, or are gone."""
    inventory: Inventory
    """Of the moment of the decision."""

    def newly_needed(self, roots: Mapping[SnapshotName, str]) -> dict[SnapshotName, str]:
        """What these roots need of the snapshots that were there then."""
        return self.inventory.with_ancestors(roots)


def plan_deletions(store: Store, roots: Mapping[SnapshotName, str], now: float | None = None) -> DeletionPlan:
    """Decide what goes; nothing is deleted yet."""
    now = time.time() if now is None else now
    inventory = Inventory(store)
    used = {name: why for name in inventory.snapshots if (why := inventory.in_use(name, now))}
    kept = inventory.with_ancestors({**used, **roots})
    going = [
        Deletion(name, snapshot.bytes, snapshot.modified, _why(snapshot))
        for name, snapshot in sorted(inventory.snapshots.items())
        if name not in kept
    ]
    work = [
        name
        for name in sorted(kept)
        if name not in used
        and inventory.snapshots[name].is_complete
        and any("/_work/" in entry.name for entry in inventory.snapshots[name].objects)
    ]
    memories = [
        entry for entry in inventory.memories if SnapshotName("extract", remembered_key(store, entry.name)) not in kept
    ]
    return DeletionPlan(going, kept, work, memories, inventory)


def _why(snapshot: StoredSnapshot) -> str:
    return "no kept run or model needs it" if snapshot.is_complete else "unfinished, and no kept run goes on with it"


@dataclass
class DeletionResult:
    """What was deleted, and what was not and why."""

    deleted: list[Deletion] = field(default_factory=list)
    spared: dict[SnapshotName, str] = field(default_factory=dict)
    unfinished: int = 0
    """Files or uploads that killed writers left half written, older than a day."""


def delete_unneeded(
    collection: DeletionPlan,
    context: Context,
    roots_now: Callable[[], Mapping[SnapshotName, str]],
    tell: Callable[[Deletion], None] = lambda going: None,
) -> DeletionResult:
    """Delete what `collect` found. May be killed at any moment and started again.

    Args:
        roots_now: asked before each snapshot, so that a run that began meanwhile keeps what it has found.
    """
    store, swept = context.store, DeletionResult()
    for going in collection.snapshots:
        why = collection.newly_needed(roots_now()).get(going.name) or _in_use_now(store, going.name)
        why = why or delete_snapshot(Draft(store, *going.name), context)
        if why:
            swept.spared[going.name] = why
        else:
            swept.deleted.append(going)
            tell(going)
    for name in collection.work:
        if holder(store, *name) is None:
            store.delete_tree(f"{name}/_work")
    for entry in collection.memories:
        key = remembered_key(store, entry.name)  # read again: a run may have put another there
        if not key or not store.names(f"extract/{key}"):
            store.delete([entry.name])
    swept.unfinished = store.sweep("", older_than_seconds=DAY)
    return swept


def _in_use_now(store: Store, name: SnapshotName) -> str | None:
    now = Inventory(store, str(name))
    return now.in_use(name, time.time()) if name in now.snapshots else None


def delete_snapshot(draft: Draft, context: Context) -> str | None:
    """Delete a snapshot while no run can begin to make it; why it was not, where it was not."""
    try:
        with hold(draft, context, wait=False, remake=True) as held:
            if held is not None:
                held.stop()  # a beat would leave a lease behind
            draft.store.delete([draft.path(MANIFEST)])
            draft.store.delete_tree(f"{draft.stage}/{draft.key}")
    except ConfigError as error:  # a run holds it
        return str(error)
    except StorageError as error:
        logger.warning("%s/%s could not be deleted whole; the next gc does: %s", draft.stage, draft.key, error)
        return "the store failed"
    return None
