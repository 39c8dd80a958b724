"""One measurement of the scale benchmark."""

from dataclasses import dataclass
from pathlib import Path

from dataops.store import FolderStore
from tasks.engine.context import Context, RayCluster

SHARD_ROWS = 10_000


@dataclass(frozen=True)
class Job:
    """One measurement."""

    store: str
    what: str
    """A stage, `choice`, `parts`, or `prefect-ray`."""
    workers: int
    ray: str | None = None
    """Address of a cluster."""
    rows: int = 0
    lists: tuple[str, ...] = ()

    def context(self) -> Context:
        folder = Path(self.store)
        place = RayCluster(self.ray, self.workers) if self.ray else None
        return Context(store=FolderStore(folder), home=folder / "home", workers=self.workers, ray=place)
