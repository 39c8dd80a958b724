"""The values that a deployment is made from and reports."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Until = Literal["pack", "register"]


Overlap = Literal["skip", "queue"]


@dataclass(frozen=True)
class DeployRequest:
    """What is to stand."""

    config: Path
    cron: str | None = None
    timezone: str = "Etc/UTC"
    until: Until = "register"
    """The last stage of a scheduled run: `register` schedules `pipeline`, `pack` schedules `curate`."""
    overlap: Overlap = "skip"
    """What becomes of a schedule that fires while the last run still goes. Skipped by default: the next run sees all that
    it would have seen, whereas a queue of runs that take longer than their interval only grows."""
    notify: tuple[str, ...] = ()
    """Notification blocks, `type/name`. None leaves the notifications as they stand."""
    gpus: int = 1
    pool: str = "pairmill"

    @property
    def gpu_pool(self) -> str:
        """The work pool of the training machines."""
        return f"{self.pool}-gpu"


@dataclass(frozen=True)
class Row:
    """One thing that stands in Prefect."""

    kind: Literal["pool", "deployment", "automation"]
    name: str
    what: str
    """Its schedule, limit or trigger, in few words."""
    url: str
