"""Run training code as a subprocess, so that this process never loads torch.

The output of the job is written to a log file and passed on line by line; its last lines are in the error message if it
fails. The job ends when its parent has ended, so that a killed run leaves no trainer behind. Of the environment it gets
only what dataops/process.py allows: all that it reads is on this machine.
"""

import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from dataops.errors import ConfigError, ContractError, JobFailed, PairmillError, TrainingDiverged
from dataops.home import CHECKOUT
from dataops.process import select_job_environment
from tasks.engine.process_guard import GRACE_SECONDS, finish_first

logger = logging.getLogger(__name__)

FAILURE = "failure.json"
"""File with the reason of a failure: torchrun hides the exit code of a job on several machines, and ends with 1."""
CLOCK = re.compile(r"^\d\d:\d\d:\d\d ")
"""Time at the beginning of a line of a job. The log file keeps it; the logger of this process adds its own."""
WORKER_EXIT = re.compile(r"^\s*exitcode\s*:\s*(-?\d+)", re.MULTILINE)
"""Exit code of a worker in the output of torchrun: a signal is negative, the root cause is last.
Source: torch/distributed/elastic/multiprocessing/errors, ChildFailedError."""
DISCONNECTED = re.compile(r"torch\.distributed\.(Dist\w+Error|elastic\.rendezvous\.api\.Rendezvous\w+)")
"""Errors of torchrun if machines did not connect, or lost the connection: retryable."""
_RUNNING: set[int] = set()
"""Process groups of the jobs of this process."""


def run_job(
    module: str,
    job: Mapping[str, object],
    folder: Path,
    *,
    launcher: Sequence[str] = (),
    root: Path = CHECKOUT,
    on_line: Callable[[str], None] = lambda line: None,
    on_stop: Callable[[BaseException], None] = lambda error: None,
) -> None:
    """Run `python [launcher] -m module job.json` in a subprocess until it ends.

    Args:
        job: written to `folder`/job.json, with this process's id as `parent_pid`.
        folder: also gets `job.log`.
        launcher: arguments of Python that start the module in another way: several ranks.
        root: folder of the module.
        on_line: called with each line of the job's output.
        on_stop: called with what stops this process, such as KeyboardInterrupt, before the job's checkpoint is awaited.

    Raises: TrainingDiverged (exit code 4), ConfigError (2), JobFailed (others; retryable for 75); each names the log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, log = folder / "job.json", folder / "job.log"
    (folder / FAILURE).unlink(missing_ok=True)
    path.write_text(json.dumps({**job, "parent_pid": os.getpid()}, indent=2), "utf-8")
    command = [sys.executable, *(launcher or ("-m",)), *(("-m",) if launcher else ()), module, str(path)]
    # a module of the same name in the working directory is not the job's
    ours = {"PYTHONPATH": str(root), "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
    environment = select_job_environment(os.environ) | ours
    tail: deque[str] = deque(maxlen=15)
    with (
        log.open("a", encoding="utf-8") as out,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            encoding="utf-8",
            errors="replace",
            env=environment,
            start_new_session=True,  # Ctrl-C reaches only this process, which then ends the job
        ) as process,
    ):
        _RUNNING.add(process.pid)
        stop = _ignore
        try:
            assert process.stdout is not None
            for line in process.stdout:
                out.write(line)
                out.flush()
                text = CLOCK.sub("", line.rstrip())
                tail.append(text)
                on_line(text)
            code = process.wait()
        except BaseException as error:
            if not isinstance(error, Exception):
                stop = partial(on_stop, error)
            raise
        finally:
            _end(process, stop)
            _RUNNING.discard(process.pid)
    if code:
        raise _failure(module, code, folder, "\n".join(tail))


def ranks_launcher(number: int) -> tuple[str, ...]:
    """Return the `launcher` that starts a job in `number` processes of this machine; one needs none."""
    return ("-m", "training.launch", str(number)) if number > 1 else ()


def torchrun_launcher(
    number: int, folder: Path, meet: Sequence[str], *, allow_network: bool = False
) -> tuple[str, ...]:
    """Return the `launcher` that starts this machine's `number` processes of a job on several machines.

    Args:
        folder: folder of the job. A killed torchrun leaves its logs there, not among the system's temporary files.
        meet: options by which torchrun finds the other machines.
        allow_network: let other machines reach torchrun's store.
    """
    launcher = ("-m", "training.torchrun", str(os.getpid()), *(("--allow-network",) if allow_network else ()))
    return (*launcher, *meet, f"--nproc-per-node={number}", f"--log-dir={folder / 'torchrun'}")


def end_jobs(by: int = signal.SIGTERM) -> None:
    """Send a signal to the jobs of all threads of this process: by SIGTERM they write a checkpoint, and end."""
    for group in list(_RUNNING):
        with suppress(ProcessLookupError):
            os.killpg(group, by)


def _ignore() -> None:
    """Do nothing."""


def _end(process: subprocess.Popen[str], on_stop: Callable[[], None]) -> None:
    """End the job's whole process group: with SIGTERM, and with SIGKILL after GRACE_SECONDS, for a checkpoint."""
    if process.poll() is not None:
        return
    with finish_first():
        os.killpg(process.pid, signal.SIGTERM)
        try:
            on_stop()
        except Exception as error:
            logger.warning("the end of %s is not recorded yet: %s", process.args, error)
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _failure(module: str, code: int, folder: Path, tail: str) -> PairmillError:
    if code == 1 and (workers := WORKER_EXIT.findall(tail)):
        code = int(workers[-1])
    elif code == 1 and DISCONNECTED.search(tail):
        code = 75
    reason, log = folder / FAILURE, folder / "job.log"
    if reason.exists():
        failure = json.loads(reason.read_text("utf-8"))
        code, message = failure["exit_code"], f"{failure['message']}\n(log of python -m {module}: {log})"
    else:
        ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        message = f"python -m {module} {ended} (log: {log}):\n{tail}"
    if code == 4:
        return TrainingDiverged(message)
    if code == 3:
        return ContractError(message)
    if code == 2:
        return ConfigError(message)
    return JobFailed(message, exit_code=75 if code == 75 or code < 0 else 1)
