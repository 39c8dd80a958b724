"""Define one measurement of benchmarks/scale.py."""

from dataclasses import dataclass
from pathlib import Path

from dataops.store import FolderStore
from plugins.ray.engine import RayExecutor
from tasks.engine.context import Context, LocalExecutor


@dataclass(frozen=True)
class Job:
    """One measurement, which a process runs."""

    store: str
    what: str
    """Name of a stage."""
    workers: int
    ray: str | None = None
    """Address of a Ray cluster."""
    rows: int = 0
    lists: tuple[str, ...] = ()
    filter_memory: int = 4 << 30
    """`filter.memory_limit_bytes`."""

    def context(self) -> Context:
        folder = Path(self.store)
        executor = RayExecutor(self.ray, self.workers) if self.ray else LocalExecutor()
        return Context(store=FolderStore(folder), home=folder / "home", workers=self.workers, executor=executor)
