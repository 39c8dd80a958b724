"""The values that a deployment is made from, and those that it reports."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Until = Literal["pack", "register"]
Overlap = Literal["skip", "queue"]


@dataclass(frozen=True)
class DeployRequest:
    """Options of `pairmill deploy`."""

    config: Path
    cron: str | None = None
    timezone: str = "Etc/UTC"
    until: Until = "register"
    """The last stage of a scheduled run: `register` schedules `pipeline`, `pack` schedules `curate`."""
    overlap: Overlap = "queue"
    """What happens when a schedule fires while the last run still runs: it waits, so that no night is lost when a worker
    comes back, or it is skipped."""
    notify: tuple[str, ...] = ()
    """Notification blocks, `type/name`. If there are none, existing notifications are not changed."""
    retries: int = 2
    """Number of times that a flow run which crashed is run again by itself."""
    gpus: int = 1
    pool: str = "pairmill"
    whole: bool = False
    """Whether each scheduled run makes the dataset of all files, instead of adding what is new to the version before."""

    @property
    def gpu_pool(self) -> str:
        """The work pool of the training machines."""
        return f"{self.pool}-gpu"


@dataclass(frozen=True)
class DeployedObject:
    """A work pool, deployment or automation in Prefect."""

    kind: Literal["pool", "deployment", "automation"]
    name: str
    what: str
    """Its type and limit, its schedule or trigger, or its state."""
    url: str
