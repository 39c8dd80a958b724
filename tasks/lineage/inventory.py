"""What of a store is needed, and the deletion of the rest. Which runs and models are kept is decided by the caller.

A snapshot is needed when it is a root or an ancestor of one (the inputs of its manifest, and theirs), or when some run is
at work on it. Everything else goes: its manifest first, so that no snapshot ever looks complete and is not.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import ValidationError

from dataops.errors import StorageError
from dataops.funnel import STAGES
from dataops.snapshot import MANIFEST, Manifest, SnapshotName
from dataops.store import Entry, Store
from tasks.engine.lease import holder
from tasks.extract.stage import MEMORIES

logger = logging.getLogger(__name__)

DAY = 86_400.0
"""Unfinished work and half-written files younger than this may belong to a process that is alive."""


@dataclass
class StoredSnapshot:
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
        self.snapshots: dict[SnapshotName, StoredSnapshot] = {}
        self.memories: list[Entry] = []
        self._manifests: dict[SnapshotName, Manifest | None] = {}
        for entry in store.entries(prefix):
            if entry.name.startswith(f"{MEMORIES}/"):
                self.memories.append(entry)
                continue
            stage, key, *rest = entry.name.split("/")[:3] if entry.name.count("/") >= 2 else ("", "")
            if rest and stage in STAGES:
                name = SnapshotName(stage, key)
                self.snapshots.setdefault(name, StoredSnapshot(name)).objects.append(entry)

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
    def _newest_lease(snapshot: StoredSnapshot) -> float:
        return max((e.modified for e in snapshot.objects if "/_work/lease-" in e.name), default=0.0)
