"""Training jobs in processes of their own, which are stopped, killed and starved of memory."""

import multiprocessing
import os
import resource
import sys
import time
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from unittest.mock import patch

from dataops.home import CHECKOUT
from training.rendezvous import LAUNCHER_PID, MEETING_FILE


@dataclass(frozen=True)
class Trial:
    """How a job is run: what is done to its process."""

    signum: int | None = None
    """Signal that the process gets."""
    step: int = 0
    """Step after whose row it gets the signal."""
    memory: float | None = None
    """Share of the card's memory that it may use; on a CPU, where it is over 1, the bytes that it may allocate."""
    rank: int = 0
    ranks: int = 1
    machines: int = 1
    """Machines that the ranks believe to be on, each with as many of them."""


def run_job(path, trial, parent, meeting):
    """Run a job in this process as `python -m training.train JOB.json` does, and exit with its code."""
    from training import train

    with path.with_suffix(".log").open("a") as log:
        os.dup2(log.fileno(), sys.stderr.fileno())
    os.environ |= {LAUNCHER_PID: str(parent)}
    if trial.ranks > 1:
        of_machine = trial.ranks // trial.machines
        os.environ |= {MEETING_FILE: str(meeting), "RANK": str(trial.rank), "WORLD_SIZE": str(trial.ranks)}
        os.environ |= {"LOCAL_RANK": str(trial.rank % of_machine), "LOCAL_WORLD_SIZE": str(of_machine)}
    if trial.memory is not None:
        _limit_memory(trial.memory)
    if trial.signum is not None:
        _signal_after(trial.step, trial.signum, path.with_suffix(".signalled"))
    sys.exit(train.main([str(path)]))


def _limit_memory(memory):
    """Limit the memory of this process: on a card from now on, on a CPU from the first step on."""
    import torch

    from training import train

    if memory <= 1:
        torch.cuda.set_per_process_memory_fraction(memory)
        return
    launch = train.launch_step

    def limit_and_launch(*arguments):
        train.launch_step = launch
        status = Path("/proc/self/status").read_text()
        (used,) = (int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmData"))
        resource.setrlimit(resource.RLIMIT_DATA, (used + int(memory), resource.RLIM_INFINITY))
        return launch(*arguments)

    train.launch_step = limit_and_launch


def _signal_after(step, signum, note):
    """Send this process a signal after the row of a step, and write the time into a file."""
    from training.loop.metrics_log import MetricsLog

    write = MetricsLog.write

    def write_and_signal(log, row, *measured):
        write(log, row, *measured)
        if row["step"] == step:
            note.write_text(str(time.monotonic()))
            os.kill(os.getpid(), signum)

    MetricsLog.write = write_and_signal


class Ranks:
    """The ranks of a job, which run at the same time as those of other jobs.

    They are forked from a server that has imported torch, since an import costs more than a small training.

    Args:
        others: jobs of the second machine and so on, where each has a folder of its own; they have one rank.
    """

    def __init__(
        self,
        job,
        ranks,
        *,
        machines=1,
        signum=None,
        target=run_job,
        others=(),
    ):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.warm_jobs"])
        with patch.dict(os.environ, PYTHONPATH=str(CHECKOUT)):  # some package of others has a module `tests` too
            forkserver.ensure_running()
        meeting = job.with_suffix(f".meeting-{os.urandom(8).hex()}")
        trials = [Trial(signum, step=3, rank=rank, ranks=ranks, machines=machines) for rank in range(ranks)]
        paths = [job, *others] if others else [job] * ranks
        self._log = job.with_suffix(".log")
        self._processes = [
            context.Process(target=target, args=(path, trial, os.getpid(), meeting))
            for path, trial in zip(paths, trials, strict=True)
        ]
        for process in self._processes:
            process.start()

    def wait(self):
        """Return the exit codes, and print the log, which has the cause of an unexpected one."""
        for process in self._processes:
            process.join()
        sys.stderr.write(self._log.read_text() if self._log.exists() else "")
        return [process.exitcode for process in self._processes]

    def wait_for_first(self):
        """Return the exit code of the first rank, and kill the others."""
        self._processes[0].join()
        for process in self._processes[1:]:
            process.kill()
            process.join()
        return self._processes[0].exitcode
