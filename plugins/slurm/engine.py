"""The executor `slurm`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dataops.errors import PairmillError
from dataops.snapshot import Manifest
from dataops.store import Store
from plugins.slurm.config import SlurmConfig
from plugins.slurm.scheduler import list_cores, missing_slurm
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
        """Use the cluster as a pool inside the `with`, at whose end the jobs are cancelled."""
        from plugins.slurm.pool import SlurmPool

        slots = [cores // self.config.cpus for cores in list_cores(self.config)]
        number = max(1, min(self.workers or sum(slots), sum(slots)))  # sbatch rejects what no node has room for
        with SlurmPool(self.config, store, self.workers) as pool:
            yield OpenWorkers(pool, number, min(number, max(slots)))


def diagnose(execution: Mapping[str, Any]) -> Finding:
    """Check that SLURM's commands are here, its controller answers, and the partition exists."""
    try:
        cores = list_cores(SlurmConfig.model_validate(execution.get("slurm") or {}))
    except PairmillError as error:
        return Finding(False, *str(error).split(": ", 1))
    return Finding(True, f"{len(cores)} nodes")


def train(executor: Any, planned: Plan[Any], context: Context) -> Manifest:
    """Make the snapshot of a training in a job."""
    from plugins.slurm.training import train_on_slurm

    return train_on_slurm(planned, context, executor.config)


SLURM = Engine(
    lambda execution: SlurmExecutor(execution.slurm or SlurmConfig(), execution.workers),
    SlurmConfig,
    table="slurm",
    missing=missing_slurm,
    train=train,
    diagnose=diagnose,
)
