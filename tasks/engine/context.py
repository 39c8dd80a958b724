"""Where a stage runs: its store, workers, cluster and progress display."""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dataops.store import Store

Progress = Callable[[int, int, str], None]
"""Called with (tasks done, tasks in all, a line about the newest)."""


@dataclass(frozen=True)
class RayCluster:
    """Which cluster, and what a part is given of it."""

    address: str
    """HOST:PORT of the head's control service, or `auto`: the cluster that this machine is part of."""
    workers: int | None = None
    """Parts at a time, at most; as many as the cluster has room for where none is given."""
    cpus: float = 1.0
    """Of a machine, taken by one part."""
    memory_bytes: int = 0
    """Of a machine, taken by one part; 0: not counted."""
    max_retries: int = 3
    """How often a part is tried again whose worker, or machine, died."""
    shared_store: bool = False
    """A store in a folder is seen by each machine of the cluster at the same path."""


@dataclass(frozen=True)
class Context:
    """Where and for whom a stage runs: nothing in here may change what it makes."""

    store: Store
    home: Path
    """Local folder for job folders and caches."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    progress: Progress = lambda done, total, line: None
    run_id: str | None = None
    run_name: str = "pairmill"
    flow_run_id: str | None = None
    flow_run_url: str | None = None
    run_config: Mapping[str, Any] = field(default_factory=dict)
    """The whole run's config, for the registry's records."""
    ray: RayCluster | None = None
    """The cluster that parts are mapped over; None: processes of this machine."""
    workers_per_machine: int | None = None
    """Of the workers, those on one machine, which share its memory; None: all of them."""
    pool: Executor | None = None
    """Workers that several maps of a stage share (tasks.engine.map_parts.shared_workers); None: each map starts its own."""

    def without_progress(self) -> "Context":
        """The same, whose maps show no progress."""
        return replace(self, progress=lambda done, total, line: None)


@dataclass(frozen=True)
class ClusterCapacity:
    """What the driver says of the cluster when it is connected."""

    head: str
    """HOST:PORT of its control service."""
    machines: tuple[str, ...]
    """Names of the hosts that are part of it; two nodes of one machine are one."""
    slots: int
    """Parts that have room at a time."""
    slots_per_machine: int
    """The same on the machine that has most room."""
