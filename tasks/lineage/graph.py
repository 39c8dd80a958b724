"""Which snapshot of a store was made of which, read from their manifests: up to the archives, down to the models."""

from collections.abc import Iterator

from dataops.funnel import PAIR_STAGES
from dataops.snapshot import Input, Manifest, SnapshotName
from dataops.store import Store
from tasks.lineage.inventory import Inventory
from tasks.lineage.search import Rows

KEPT, DROPPED = "part-", "dropped-"


class Lineage:
    """The complete snapshots of a store and how they hang together.

    An input is known by its key, or by its content digest: a snapshot that was remade with the same content is the same,
    and one whose content changed under its key (a download that was tried again) is still what its children were made of.
    """

    def __init__(self, store: Store):
        self.store = store
        inventory = Inventory(store)
        found = (inventory.manifest(name) for name in sorted(inventory.snapshots))
        self.manifests = {SnapshotName(m.stage, m.key): m for m in found if m is not None}
        self._by_digest: dict[tuple[str, str], Manifest] = {}
        for manifest in self.manifests.values():
            self._by_digest.setdefault((manifest.stage, manifest.content_digest), manifest)

    def parent(self, source: Input) -> Manifest | None:
        """The snapshot that an input names; None where it is gone, or lies outside the store."""
        return self.manifests.get(SnapshotName(source.stage, source.key)) or self._by_digest.get(
            (source.stage, source.digest)
        )

    def children(self, manifest: Manifest, stage: str | None = None) -> list[Manifest]:
        """The snapshots that were made of this one, of one stage or of all."""
        digest, key = (manifest.stage, manifest.content_digest), (manifest.stage, manifest.key)
        return [
            other
            for other in self.manifests.values()
            if stage in (None, other.stage)
            and any((i.stage, i.digest) == digest or (i.stage, i.key) == key for i in other.inputs)
        ]

    def path(self, manifest: Manifest) -> list[tuple[SnapshotName, Manifest | None]]:
        """The way of a pair to this snapshot: each stage over pairs from extract on; None where a snapshot is gone."""
        way: list[tuple[SnapshotName, Manifest | None]] = [(SnapshotName(manifest.stage, manifest.key), manifest)]
        at: Manifest | None = manifest
        while at is not None and (source := next((i for i in at.inputs if i.stage in PAIR_STAGES), None)):
            at = self.parent(source)
            way.append((SnapshotName(source.stage, source.key), at))
        return way[::-1]

    def ancestors(self, manifest: Manifest) -> dict[str, Manifest]:
        """All that it was made of, and itself, by stage, as far as it is there."""
        found, waiting = dict[str, Manifest](), [manifest]
        while waiting:
            one = waiting.pop()
            found.setdefault(one.stage, one)
            waiting += [m for i in one.inputs if (m := self.parent(i)) is not None and m.stage not in found]
        return found

    def below(self, manifest: Manifest, stage: str) -> list[Manifest]:
        """The snapshots of a stage that descend from this one."""
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

    def ends(self) -> Iterator[Rows]:
        """Where pairs end: in a dataset, dropped by a stage, or in the newest stage of a run that went no further."""
        for manifest in self.manifests.values():
            if manifest.stage in PAIR_STAGES:
                yield Rows(manifest, DROPPED)
                following = PAIR_STAGES[PAIR_STAGES.index(manifest.stage) + 1 :][:1]
                if not following or not self.children(manifest, following[0]):
                    yield Rows(manifest, KEPT)
