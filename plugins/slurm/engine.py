"""The executor `slurm`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dataops.errors import PairmillError
from dataops.snapshot import Manifest
from dataops.store import Store
from plugins.slurm.config import SlurmConfig
from plugins.slurm.scheduler import list_nodes, missing_slurm
from tasks.engine.context import Context, Engine, Finding, OpenWorkers
from tasks.engine.stage import Plan


@dataclass(frozen=True)
class SlurmExecutor:
    """Array jobs of a SLURM cluster."""

    config: SlurmConfig
    workers: int | None = None
    """Maximum number of tasks at a time; None: as many as SLURM starts."""
    shares_disk: bool = False
    """Its nodes may not see the temporary folder of this machine."""

    @contextmanager
    def open(self, workers: int, store: Store) -> Iterator[OpenWorkers]:
        """Use the cluster as a pool inside the `with`; it has its own number of workers."""
        from plugins.slurm.pool import slurm_pool

        with slurm_pool(self.config, store, self.workers) as opened:
            yield OpenWorkers(*opened)


def create(execution: Any) -> SlurmExecutor:
    """Return the executor that the `[execution]` table describes."""
    return SlurmExecutor(execution.slurm or SlurmConfig(), execution.workers)


def diagnose(execution: Mapping[str, Any]) -> Finding:
    """Check that SLURM's commands are here, its controller answers, and the partition exists."""
    if problem := missing_slurm():
        return Finding(False, *problem.split(": ", 1))
    try:
        nodes = list_nodes(SlurmConfig.model_validate(execution.get("slurm") or {}))
    except PairmillError as error:
        return Finding(False, *str(error).split(": ", 1))
    return Finding(True, f"{len(nodes)} nodes with {sum(node.cpus for node in nodes)} cores")


def train(executor: Any, planned: Plan[Any], context: Context) -> Manifest:
    """Make the snapshot of a training in a job."""
    from plugins.slurm.training import train_on_slurm

    return train_on_slurm(planned, context, executor.config)


SLURM = Engine(create, SlurmConfig, table="slurm", missing=missing_slurm, train=train, diagnose=diagnose)
