"""The graph of the snapshots of a store, read from their manifests: from the archives to the models."""

from dataops.snapshot import Input, Manifest, SnapshotName
from dataops.store import Store
from tasks.lineage.inventory import Inventory

KEPT, DROPPED = "part-", "dropped-"


class Lineage:
    """The complete snapshots of a store, their inputs and their descendants.

    An input is found by its key or by its content digest: a snapshot remade with the same content is the same input, and
    one whose content changed under its key (a repeated download) is still the parent of its children.
    """

    def __init__(self, store: Store):
        self.store = store
        self.inventory = Inventory(store)
        found = (self.inventory.manifest(name) for name in sorted(self.inventory.snapshots))
        self.manifests = {SnapshotName(m.stage, m.key): m for m in found if m is not None}
        self._by_digest: dict[tuple[str, str], Manifest] = {}
        for manifest in self.manifests.values():
            self._by_digest.setdefault((manifest.stage, manifest.content_digest), manifest)

    def parent(self, source: Input) -> Manifest | None:
        """Return the snapshot that an input names; None if it was deleted, or is outside the store."""
        return self.manifests.get(SnapshotName(source.stage, source.key)) or self._by_digest.get(
            (source.stage, source.digest)
        )

    def children(self, manifest: Manifest, stage: str | None = None) -> list[Manifest]:
        """Return the snapshots, of one stage or of all, that have this one as an input."""
        digest, key = (manifest.stage, manifest.content_digest), (manifest.stage, manifest.key)
        return [
            other
            for other in self.manifests.values()
            if stage in (None, other.stage)
            and any((i.stage, i.digest) == digest or (i.stage, i.key) == key for i in other.inputs)
        ]

    def ancestors(self, manifest: Manifest) -> dict[str, Manifest]:
        """Return the snapshot and its ancestors in the store, by stage; of a mixture, those of the run's own dataset."""
        return {one.stage: one for one in reversed(self.all_ancestors(manifest))}

    def all_ancestors(self, manifest: Manifest) -> list[Manifest]:
        """Return the snapshot and all its ancestors in the store, itself first; a mixture has several of some stages."""
        found, waiting = dict[SnapshotName, Manifest](), [manifest]
        while waiting:
            current = waiting.pop(0)
            if (name := SnapshotName(current.stage, current.key)) not in found:
                found[name] = current
                waiting += [m for i in current.inputs if (m := self.parent(i)) is not None]
        return list(found.values())

    def descendants(self, manifest: Manifest, stage: str) -> list[Manifest]:
        """Return the descendants of a snapshot that belong to a stage, by key."""
        found, waiting = dict[str, Manifest](), [manifest]
        seen: set[SnapshotName] = set()
        while waiting:
            for child in self.children(waiting.pop()):
                if (name := SnapshotName(child.stage, child.key)) not in seen:
                    seen.add(name)
                    waiting.append(child)
                    if child.stage == stage:
                        found[child.key] = child
        return [found[key] for key in sorted(found)]
