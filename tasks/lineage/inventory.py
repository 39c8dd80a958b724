"""What of a store is needed, and the deletion of the rest. Which runs and models are kept is decided by the caller.

A snapshot is needed when it is a root or an ancestor of one (the inputs of its manifest, and theirs), or when some run is
at work on it. Everything else goes: its manifest first, so that no snapshot ever looks complete and is not.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pydantic import ValidationError

from dataops.errors import ConfigError, StorageError
from dataops.funnel import STAGES
from dataops.snapshot import MANIFEST, Draft, Manifest, SnapshotName
from dataops.store import Entry, Store
from tasks.engine.context import Context
from tasks.engine.lease import hold, holder
from tasks.extract.stage import MEMORIES, remembered_key

logger = logging.getLogger(__name__)

DAY = 86_400.0
"""Unfinished work and half-written files younger than this may belong to a process that is alive."""


@dataclass
class Snapshot:
    """What the store holds under one name."""

    name: SnapshotName
    objects: list[Entry] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Of all its objects."""
        return sum(entry.bytes for entry in self.objects)

    @property
    def modified(self) -> float:
        """When its newest object was written."""
        return max(entry.modified for entry in self.objects)

    @property
    def is_complete(self) -> bool:
        """Whether it has a manifest."""
        return any(entry.name == f"{self.name}/{MANIFEST}" for entry in self.objects)

    def work(self) -> list[Entry]:
        """The objects that only its making needs, leases apart."""
        return [e for e in self.objects if e.name.startswith(f"{self.name}/_work/") and "/_work/lease-" not in e.name]


class Inventory:
    """All snapshots of a store at one moment."""

    def __init__(self, store: Store, prefix: str = ""):
        self.store = store
        self.snapshots: dict[SnapshotName, Snapshot] = {}
        self.memories: list[Entry] = []
        self._manifests: dict[SnapshotName, Manifest | None] = {}
        for entry in store.entries(prefix):
            if entry.name.startswith(f"{MEMORIES}/"):
                self.memories.append(entry)
                continue
            stage, key, *rest = entry.name.split("/")[:3] if entry.name.count("/") >= 2 else ("", "")
            if rest and stage in STAGES:
                name = SnapshotName(stage, key)
                self.snapshots.setdefault(name, Snapshot(name)).objects.append(entry)

    def manifest(self, name: SnapshotName) -> Manifest | None:
        """The manifest of a complete snapshot; None where there is none that can be read."""
        if name not in self._manifests:
            self._manifests[name] = self._read(name)
        return self._manifests[name]

    def _read(self, name: SnapshotName) -> Manifest | None:
        snapshot = self.snapshots.get(name)
        if snapshot is None or not snapshot.is_complete:
            return None
        try:
            return Manifest.model_validate_json(self.store.read(f"{name}/{MANIFEST}"))
        except (ValidationError, StorageError) as error:
            logger.warning(
                "%s/%s cannot be read: its ancestors are not known (%s)", name, MANIFEST, type(error).__name__
            )
            return None

    def with_ancestors(self, roots: Mapping[SnapshotName, str]) -> dict[SnapshotName, str]:
        """The roots and all that they were made of, as far as it is in the store, each with why it is needed."""
        needed: dict[SnapshotName, str] = {}
        waiting = list(roots.items())
        while waiting:
            name, why = waiting.pop()
            if name in needed or name not in self.snapshots:
                continue
            needed[name] = why
            manifest = self.manifest(name)
            waiting += [(SnapshotName(i.stage, i.key), why) for i in manifest.inputs] if manifest else []
        return needed

    def in_use(self, name: SnapshotName, now: float) -> str | None:
        """Why a snapshot is left alone whoever needs it: some process makes it, or did within a day."""
        snapshot = self.snapshots[name]
        if snapshot.is_complete and not any("/_work/" in entry.name for entry in snapshot.objects):
            return None
        if (lease := holder(self.store, *name)) is not None and now - self._newest_lease(snapshot) < DAY:
            return f"{lease} makes it"
        if any(now - entry.modified < DAY for entry in snapshot.work()):
            return "work on it is younger than a day"
        return None

    @staticmethod
    def _newest_lease(snapshot: Snapshot) -> float:
        return max((e.modified for e in snapshot.objects if "/_work/lease-" in e.name), default=0.0)


@dataclass(frozen=True)
class Deletion:
    """Something that is to be deleted."""

    name: SnapshotName
    bytes: int
    modified: float
    why: str


@dataclass
class Collection:
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


def collect(store: Store, roots: Mapping[SnapshotName, str], now: float | None = None) -> Collection:
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
    return Collection(going, kept, work, memories, inventory)


def _why(snapshot: Snapshot) -> str:
    return "no kept run or model needs it" if snapshot.is_complete else "unfinished, and no kept run goes on with it"


@dataclass
class Swept:
    """What was deleted, and what was not and why."""

    deleted: list[Deletion] = field(default_factory=list)
    spared: dict[SnapshotName, str] = field(default_factory=dict)
    unfinished: int = 0
    """Files or uploads that killed writers left half written, older than a day."""


def sweep(
    collection: Collection,
    context: Context,
    roots_now: Callable[[], Mapping[SnapshotName, str]],
    tell: Callable[[Deletion], None] = lambda going: None,
) -> Swept:
    """Delete what `collect` found. May be killed at any moment and started again.

    Args:
        roots_now: asked before each snapshot, so that a run that began meanwhile keeps what it has found.
    """
    store, swept = context.store, Swept()
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
