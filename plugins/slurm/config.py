"""Define `[execution.slurm]`: what jobs request of SLURM."""

import re
from collections.abc import Iterator
from typing import Annotated

from pydantic import AfterValidator, Field

from dataops.config import FrozenModel

_Value = Annotated[str | None, Field(pattern=r"^[A-Za-z0-9_][\w.,:;+@&|*()\[\]/-]*$", max_length=256)]

EXTRA = frozenset({
    *("begin", "comment", "contiguous", "exclude", "exclusive", "gpus-per-node", "gpus-per-task"),
    *("hint", "licenses", "mail-type", "mail-user", "mem-per-cpu", "mem-per-gpu", "network"),
    *("nice", "nodelist", "reservation", "switches", "threads-per-core", "wckey"),
})  # fmt: skip
"""Options that `extra` may have: none of them names a file, a command or the environment, since a run record in the store
may have been written by somebody else."""


def _check_extra(options: tuple[str, ...]) -> tuple[str, ...]:
    for option in options:
        found = re.fullmatch(r"--([a-z-]+)(=[^\x00-\x1f]{0,500})?", option)
        if found is None or found[1] not in EXTRA:
            raise ValueError(f"{option!r} is not allowed here; allowed are --NAME or --NAME=VALUE of {sorted(EXTRA)}")
    return options


class SbatchOptions(FrozenModel):
    """Options of sbatch."""

    account: _Value = None
    """Account that is charged."""
    partition: _Value = None
    """Partition, or several separated by commas; default: that of the cluster."""
    qos: _Value = None
    """Quality of service."""
    time: _Value = None
    """Maximum time of a job, such as 04:00:00 or 2-00:00:00; default: that of the partition."""
    mem: _Value = None
    """Memory that a job needs on each node, such as 8G. A task whose worker died is repeated with all that its node has."""
    gres: _Value = None
    """Generic resources of each node, such as gpu:8."""
    constraint: _Value = None
    """Features that the nodes must have."""
    extra: Annotated[tuple[str, ...], AfterValidator(_check_extra)] = Field(default=(), max_length=50)
    """Further options of sbatch, such as --exclude=node7 or --reservation=mine."""

    def arguments(self) -> Iterator[str]:
        """Yield the arguments of sbatch."""
        for name in SbatchOptions.model_fields:
            if name != "extra" and (value := getattr(self, name)) is not None:
                yield f"--{name}={value}"
        yield from self.extra


class SlurmConfig(SbatchOptions):
    """`[execution.slurm]`: what jobs request of SLURM for `engine = "slurm"` and `train.launch = "slurm"`."""

    cpus: int = Field(default=1, ge=1, le=1024)
    """Number of cores of a task of a stage; a training has `train.nproc` x `train.threads` on each node."""
    poll_seconds: float = Field(default=5.0, ge=0.1, le=300)
    """Seconds between two requests for the states of the jobs."""
    train: SbatchOptions | None = None
    """Options for trainings (`[execution.slurm.train]`); those that it leaves out are those of the stages."""

    def for_training(self) -> SbatchOptions:
        """Return the options of a training's job."""
        return self.model_copy(update=self.train.model_dump(exclude_unset=True) if self.train else {})
