"""Delete the features of pretrained towers of training data with removed pairs."""

from contextlib import suppress
from dataclasses import dataclass

from tasks.takedown.holders import Erased, Scope, Traces


@dataclass(frozen=True)
class TowerFeatures:
    """The files below `features/towers`."""

    order: int = 26

    def erase(self, traces: Traces, scope: Scope) -> Erased:
        """Delete the files that are not of a shard that one of the stores has.

        A takedown replaces the shards of removed pairs. Of a store that does not answer, no shard is known.
        """
        from dataops.errors import StorageError
        from dataops.storage.cached_files import delete_unheld
        from plugins.towers.feature_files import parse_shard
        from tasks.lineage.graph import Lineage

        files, shards = sorted((scope.home / "features" / "towers").glob("*")), set[str]()
        for store in scope.stores if files and traces.uids else ():
            with suppress(StorageError):
                packs = (one for one in Lineage(store).manifests.values() if one.stage == "pack")
                shards |= {part.sha256 for pack in packs for part in pack.named("", ".tar")}
        erased = Erased()
        for path in files if traces.uids else ():
            if (shard := parse_shard(path.name)) is None or not any(sha256.startswith(shard) for sha256 in shards):
                erased.files += delete_unheld(path)
        return erased

    def find(self, traces: Traces, scope: Scope) -> None:
        """Return None: no feature shows of what it is."""


TOWERS = TowerFeatures()
