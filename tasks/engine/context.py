"""Describe where a stage runs: its store, workers and progress display."""

from collections.abc import Callable, Mapping
from concurrent.futures import Executor as Pool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dataops.process import count_cores
from dataops.store import Store
from tasks.engine.executor import Executor, LocalExecutor

IS_PROGRESS = "is_progress"
"""Attribute of a log record that repeats what the progress shows: consoles leave it out."""

Progress = Callable[[float, int, str], None]
"""Called with how much is done (a running task counts by its share), how much there is, and a line about it.

What is counted depends on the stage: rows, files, steps or tasks (flows.listeners.progress)."""


def _ignore_progress(done: float, total: int, line: str) -> None:
    """Show nothing. A function of a module can be sent to another process."""


def _ignore_stop(error: BaseException) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class LeaseTimes:
    """Times of a lease (tasks/engine/lease.py), in seconds."""

    beat: float = 10.0
    stale: float = 60.0
    poll: float = 1.0
    orphan: float = 0.5
    """After the end of a holder on this machine: its workers end within 0.25 s (dataops/process.py)."""


LEASE_TIMES = LeaseTimes()


@dataclass(frozen=True)
class Context:
    """Environment of a stage. Nothing in it may change the output."""

    store: Store
    home: Path
    """Local folder of job folders and caches."""
    workers: int = field(default_factory=count_cores)
    progress: Progress = _ignore_progress
    stopped: Callable[[BaseException], None] = _ignore_stop
    """Called when something stops the stage, such as SIGTERM, while its job still writes a checkpoint."""
    verify: bool = False
    """Compare the sha256 of every part before a snapshot is reused."""
    run_id: str | None = None
    run_name: str = "pairmill"
    flow_run_id: str | None = None
    flow_run_url: str | None = None
    run_config: Mapping[str, Any] = field(default_factory=dict)
    """Config of the whole run, for the model registry."""
    executor: Executor = field(default_factory=LocalExecutor)
    """Workers that execute the tasks of stages."""
    workers_per_machine: int | None = None
    """Number of workers that share the memory of one machine; None: all workers."""
    pool: Pool | None = None
    """Workers that all maps of a stage share (tasks.engine.map_parts.shared_workers); None: each map starts its own."""
    lease_times: LeaseTimes = LEASE_TIMES
    inline_rows: int = 1 << 15
    """An exchange of at most so many rows runs in this process: workers would take longer to start."""

    def without_progress(self) -> "Context":
        """Return the same context without the function that follows the progress."""
        return replace(self, progress=_ignore_progress)
