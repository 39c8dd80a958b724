"""List the snapshots of a store, with their manifests, their ancestors, and whether a process works on them."""

import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from dataops.errors import ConfigError, StorageError
from dataops.snapshot import MANIFEST, Draft, Manifest, SnapshotName, decode_manifest
from dataops.stages import STAGES
from dataops.store import Entry, Store
from tasks.engine.context import Context
from tasks.engine.lease import hold_lease
from tasks.extract.source_index import SOURCE_INDEX

logger = logging.getLogger(__name__)

DAY = 86_400.0
"""Seconds. Unfinished work and half-written files younger than this may belong to a running process."""


@dataclass
class StoredSnapshot:
    """The objects that the store holds under the name of a snapshot."""

    name: SnapshotName
    objects: list[Entry] = field(default_factory=list)

    @property
    def modified(self) -> float:
        """Unix time at which its newest object was written."""
        return max(entry.modified for entry in self.objects)

    @property
    def is_complete(self) -> bool:
        """Return whether it has a manifest."""
        return any(entry.name == f"{self.name}/{MANIFEST}" for entry in self.objects)


class Inventory:
    """All snapshots of a store at one moment."""

    def __init__(self, store: Store, prefix: str = ""):
        self.store = store
        self.snapshots: dict[SnapshotName, StoredSnapshot] = {}
        self.memories: list[Entry] = []
        self._manifests: dict[SnapshotName, Manifest | None] = {}
        self._add_objects(prefix)

    def _add_objects(self, prefix: str) -> None:
        for entry in self.store.entries(prefix):
            if entry.name.startswith(f"{SOURCE_INDEX}/"):
                self.memories.append(entry)
                continue
            stage, key, *rest = entry.name.split("/")[:3] if entry.name.count("/") >= 2 else ("", "")
            if rest and stage in STAGES:
                name = SnapshotName(stage, key)
                self.snapshots.setdefault(name, StoredSnapshot(name)).objects.append(entry)

    def add(self, made: Iterable[Manifest]) -> None:
        """Add complete snapshots that were made since."""
        for manifest in made:
            name = SnapshotName(manifest.stage, manifest.key)
            if self._manifests.get(name) is None:
                self.snapshots.pop(name, None)
                self._manifests[name] = manifest
                self._add_objects(str(name))

    def manifest(self, name: SnapshotName) -> Manifest | None:
        """Return the manifest of a complete snapshot; None if it is incomplete or unreadable. Raises: NewerFormat."""
        if name not in self._manifests:
            self._manifests[name] = self._read(name)
        return self._manifests[name]

    def _read(self, name: SnapshotName) -> Manifest | None:
        snapshot = self.snapshots.get(name)
        if snapshot is None or not snapshot.is_complete:
            return None
        try:
            return decode_manifest(self.store, where := f"{name}/{MANIFEST}", self.store.read(where))
        except (ValueError, StorageError) as error:
            logger.warning(
                "%s/%s is unreadable (%s), so the ancestors of this snapshot are unknown",
                name, MANIFEST, type(error).__name__,
            )  # fmt: skip
            return None

    def refreshed(self, prefix: str) -> "Inventory":
        """Return the snapshots below a prefix as they are now; only manifests that are not known are read."""
        found = Inventory(self.store, prefix)
        found._manifests = {name: manifest for name, manifest in self._manifests.items() if manifest is not None}
        return found

    def list_shared(self, name: SnapshotName) -> set[str]:
        """Return the objects of a snapshot that are parts of complete versions made from it by takedowns."""
        others = [other for other in self.snapshots if other.stage == name.stage == "pack" and other != name]
        found = [manifest for other in others if (manifest := self.manifest(other)) is not None]
        return {one.path(part) for one in found for part, home in one.homes.items() if home == str(name)}


def delete_snapshot(draft: Draft, context: Context, shared: Collection[str] = ()) -> str | None:
    """Delete a snapshot under its lease, so that no run starts to make it; return why it was kept, if it was.

    Args:
        shared: objects that stay, since they are parts of other snapshots.
    """
    try:
        with hold_lease(draft, context, wait=False, remake=True) as held:
            if held is not None:
                held.stop()  # a later beat would write the lease again
            draft.clear(shared.__contains__)
    except ConfigError as error:  # a run holds the lease
        return str(error)
    except StorageError as error:
        logger.warning("%s/%s is only partly deleted; run gc again: %s", draft.stage, draft.key, error)
        return "the store failed"
    return None
