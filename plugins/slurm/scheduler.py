"""Call the commands of SLURM: sbatch, squeue, scancel and sinfo."""

import base64
import logging
import os
import pickle  # noqa: TID251  calls travel in the script of the job, never through the store
import re
import shlex
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dataops.digest import text_sha256
from dataops.errors import ConfigError, PairmillError, ServiceError
from dataops.home import CHECKOUT, code_digest, home, private_folder
from dataops.redaction import redact
from dataops.store import Store
from plugins.slurm.config import SbatchOptions

logger = logging.getLogger(__name__)

COMMAND_SECONDS = 90.0
"""Time limit of a command. SLURM's own commands give up after 10 to 60 s without an answer."""
KEPT = ("SLURM_CONF", "SLURM_JWT")
UNREACHABLE = re.compile(
    r"nable to contact|timed out|onnection (refused|reset)|not responding|establish a configuration|fetch_config|"
    r"temporarily|try again|Zero Bytes|Protocol authentication",
    re.IGNORECASE,
)
UNLISTED = "UNLISTED"
"""State, here, of a job that squeue does not list: SLURM forgets a job some minutes after its end."""
LOST = ("BOOT_FAIL", "NODE_FAIL", "PREEMPTED")
"""States of a job that its node or SLURM ended. SLURM itself requeues most of them."""
ENDED = (UNLISTED, "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT")
REMEDIES = {
    "TIMEOUT": "raise execution.slurm.time",
    "OUT_OF_MEMORY": "raise execution.slurm.mem",
}
RUNNER = "srun --kill-on-bad-exit=1 --cpus-per-task=$SLURM_CPUS_PER_TASK "
VISIBLE_SECONDS = 90.0
"""Time until an outcome that was written is listed: NFS keeps the contents of a folder for up to 60 s."""
PATIENCE_SECONDS = 600.0
"""Time in which SLURM's controller, which may be started again, must answer for the states of jobs."""


SILENT = (
    "SLURM's controller does not answer: see `scontrol ping`. Finished parts are in the store, so `pairmill rerun` "
    "continues when it is back: "
)
NO_ANSWER = "which is no answer of SLURM: see `scontrol ping`. Finished parts are in the store for `pairmill rerun`"
MISSING = "sbatch is not on PATH: run pairmill on a login node of a SLURM cluster, or choose another engine"


def missing_slurm() -> str | None:
    """Return that SLURM's commands are not here, with the remedy; None if they are."""
    return None if shutil.which("sbatch") else MISSING


def run_command(*command: str, text: str = "") -> str:
    """Return the output of a command of SLURM, which no Ctrl-C reaches.

    Args:
        text: its standard input.

    Raises: ConfigError if it is not installed or rejects its arguments; ServiceError (75) without an answer.
    """
    try:
        done = subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            errors="replace",
            # a run that is itself a job must not pass its own allocation on
            env={name: value for name, value in os.environ.items() if name in KEPT or not name.startswith("SLURM_")},
            timeout=COMMAND_SECONDS,
            start_new_session=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise ConfigError(MISSING) from error
    except subprocess.TimeoutExpired as error:
        raise ServiceError(f"{SILENT}{command[0]} has not ended after {COMMAND_SECONDS:.0f} s") from error
    if done.returncode == 0:
        return done.stdout
    reason = redact(" ".join(done.stderr.split())) or f"exit code {done.returncode}"
    if done.returncode < 0 or UNREACHABLE.search(reason):  # below 0: a signal ended it
        raise ServiceError(SILENT + reason)
    raise ConfigError(
        f"SLURM rejects {command[0]} ({reason}): correct [execution.slurm]; `sinfo` lists the partitions and their nodes"
    )


def read_lines(form: str, *command: str, text: str = "") -> list[tuple[str, ...]]:
    """Return the groups of a regular expression in each line of a command's output.

    Raises: as run_command; ServiceError (75) if a line has another form.
    """
    found: list[tuple[str, ...]] = []
    for line in run_command(*command, text=text).splitlines():
        if (match := re.fullmatch(form, line)) is None:
            raise ServiceError(f"{command[0]} printed {redact(line)[:80]!r}, {NO_ANSWER}")
        found.append(match.groups(""))
    return found


def list_cores(options: SbatchOptions) -> list[int]:
    """Return the number of cores of each node of the partition.

    Raises: ConfigError if it does not exist; ServiceError (75) if the controller does not answer.
    """
    partition = [f"--partition={options.partition}"] if options.partition else []
    nodes = read_lines(r"(\S+) (\d+)\+?", "sinfo", "--noheader", "--Node", "--format=%N %c", *partition)
    if not nodes:
        raise ConfigError(
            f"SLURM has no partition {options.partition or 'at all'} with nodes: correct execution.slurm.partition; "
            "`sinfo` lists them"
        )
    return [int(cores) for _, cores in set(nodes)]


def name_job(store: Store, stage: str, key: str) -> str:
    """Return the name of the jobs that make a snapshot; it is the same in each run."""
    return f"pairmill-{stage}-{key}-{text_sha256(store.uri)[:6]}"


def log_folder() -> Path:
    """Return the folder of the jobs' logs, which the nodes must share."""
    return home() / "slurm"


def submit(name: str, options: Sequence[str], store: Store, calls: Sequence[str], elements: int = 0) -> str:
    """Submit a job and return its id.

    Args:
        options: arguments of sbatch.
        calls: name of the outcome in the store, a blank, and what encode_call returns.
        elements: number of tasks of an array; 0: one job, with a process on each node.

    The script carries the calls: SLURM delivers it to the nodes as what this user has submitted, so whoever could change
    a call could change the commands around it as well.
    """
    logs = private_folder(log_folder())
    python = shlex.join([sys.executable, "-m", "plugins.slurm.task", store.uri, code_digest(), str(elements)])
    script = f"""#!/bin/sh
export PYTHONPATH={shlex.quote(str(CHECKOUT))} PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1
exec {"" if elements else RUNNER}{python} <<'CALLS'
"""
    log = f"--output={logs}/{name}-{'%A_%a' if elements else '%j'}.log"
    command = ("sbatch", "--parsable", "--requeue", "--open-mode=append", f"--job-name={name}", log, *options)
    answer = read_lines(r"(\d+)(?:;.*)?", *command, text=script + "\n".join([*calls, "CALLS\n"]))
    if not answer:
        raise ServiceError(f"sbatch printed nothing, {NO_ANSWER}")
    job = answer[0][0]
    logger.info("SLURM job %s (%s): logs in %s", job, name, logs / f"{name}-{job}*.log")
    return job


def encode_call(*call: Any) -> str:
    """Return a call (function, positional and keyword arguments) as text of a job's script."""
    return base64.b64encode(zlib.compress(pickle.dumps(call))).decode()


States = Iterator[dict[tuple[str, str], tuple[str, str]]]
"""State and reason of jobs by their id and name."""


def watch_states(*options: str) -> States:
    """Yield at each step state and reason of jobs and array tasks that run, wait or have ended lately, by id and name.

    SLURM gives an id again once its controller has lost its state, so an id alone may be that of a later job.

    Args:
        options: of squeue, which select jobs of this user.

    Raises: ServiceError without a first answer, or PATIENCE_SECONDS after the last one, which is repeated meanwhile.
    """
    states, answered = None, time.monotonic()
    while True:
        try:
            command = ("squeue", "--noheader", "--me", "--array", "--states=all", "--format=%i|%T|%j|%r", *options)
            lines = read_lines(r"(.*?)\|([A-Z_]+)\|(.*?)\|(.*)", *command)
            states = {(job, name): (state, reason) for job, state, name, reason in lines}
            answered = time.monotonic()
        except ServiceError as error:
            if states is None or time.monotonic() > answered + PATIENCE_SECONDS:
                raise
            logger.warning("%s", error)
        yield states


def cancel(job: str, name: str) -> None:
    """Cancel a job by id and name, or all of a name (`--me`); log a warning if SLURM does not answer."""
    try:
        run_command("scancel", f"--name={name}", job)
    except PairmillError as error:
        if "nvalid job id" not in str(error):  # it has ended
            logger.warning("jobs may still run; cancel them by `scancel --name=%s %s`: %s", name, job, error)


def explain_end(job: str, name: str, state: str) -> str:
    """Return how a job ended that reported no result, with the remedy and its log."""
    how = "is not listed by squeue any more, and left" if state == UNLISTED else f"ended as {state} with"
    remedy = REMEDIES.get(state, f"see `scontrol show job {job}` and its log")
    return f"SLURM job {job} {how} no result: {remedy} ({log_folder() / name}-{job}.log)"
