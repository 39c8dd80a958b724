"""Call the commands of SLURM: sbatch, squeue, scancel and sinfo."""

import base64
import hashlib
import logging
import os
import pickle  # noqa: TID251  calls travel in the script of the job, never through the store
import re
import shlex
import shutil
import subprocess
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataops.digest import canonical_json
from dataops.errors import ConfigError, PairmillError, ServiceError
from dataops.home import CHECKOUT, code_digest, home, private_folder
from dataops.redaction import redact
from dataops.store import Store
from plugins.slurm.config import SbatchOptions

logger = logging.getLogger(__name__)

COMMAND_SECONDS = 90.0
"""Time limit of a command. SLURM's own commands give up after 10 to 60 s without an answer."""
UNREACHABLE = re.compile(
    r"nable to contact|timed out|onnection (refused|reset)|not responding|establish a configuration|fetch_config|"
    r"temporarily|try again|Zero Bytes|Protocol authentication",
    re.IGNORECASE,
)
ENDED = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT")
REMEDIES = {
    "TIMEOUT": "raise execution.slurm.time",
    "OUT_OF_MEMORY": "raise execution.slurm.mem",
    "CANCELLED": "somebody cancelled it",
}
REQUEUE_HELD = "requeued held"
"""In the reason why a job is pending: SLURM could not start it, and does not try again by itself."""


def missing_slurm() -> str | None:
    """Return that SLURM's commands are not here, with the remedy; None if they are."""
    if shutil.which("sbatch"):
        return None
    return "sbatch is not on PATH: run pairmill on a login node of a SLURM cluster, or choose another engine"


def run_command(*command: str, text: str = "") -> str:
    """Return the output of a command of SLURM, which no Ctrl-C reaches.

    Args:
        text: its standard input.

    Raises: ConfigError if it is not installed or rejects its arguments; ServiceError (75) without an answer.
    """
    # a run that is itself a job must not pass its own allocation on
    inside = {name for name in os.environ if name.startswith("SLURM_")} - {"SLURM_CONF", "SLURM_JWT"}
    environment = {name: value for name, value in os.environ.items() if name not in inside}
    options: dict[str, Any] = {"input": text, "capture_output": True, "text": True, "errors": "replace"}
    try:
        done = subprocess.run(
            command, **options, env=environment, timeout=COMMAND_SECONDS, start_new_session=True, check=False
        )
    except FileNotFoundError as error:
        raise ConfigError(missing_slurm() or f"{command[0]} is not on PATH") from error
    except subprocess.TimeoutExpired as error:
        raise ServiceError(_explain_silence(command[0], f"no answer within {COMMAND_SECONDS:.0f} s")) from error
    if done.returncode == 0:
        return done.stdout
    reason = redact(" ".join(line.partition(": error: ")[2] or line for line in done.stderr.strip().splitlines()))
    if UNREACHABLE.search(reason):
        raise ServiceError(_explain_silence(command[0], reason))
    raise ConfigError(
        f"SLURM rejects the job: {reason}. Correct [execution.slurm]; `sinfo` lists the partitions and their nodes"
        if command[0] == "sbatch"
        else f"{command[0]}: {reason}"
    )


def _explain_silence(command: str, reason: str) -> str:
    return (
        f"SLURM's controller does not answer {command} ({reason}): see `scontrol ping`. Finished parts are in the store: "
        "`pairmill rerun` continues when it is back"
    )


@dataclass(frozen=True)
class Node:
    """A node of the partition."""

    name: str
    cpus: int
    address: str


def list_nodes(options: SbatchOptions) -> list[Node]:
    """Return the nodes of the partition. Raises: ConfigError if it does not exist; ServiceError."""
    partition = [f"--partition={options.partition}"] if options.partition else []
    lines = run_command("sinfo", "--noheader", "--Node", "--format=%N %c %o", *partition).splitlines()
    if not lines:
        raise ConfigError(
            f"SLURM has no partition {options.partition or 'at all'} with nodes: correct execution.slurm.partition; "
            "`sinfo` lists them"
        )
    found = (line.split() for line in lines)
    return list({name: Node(name, int(cpus), address) for name, cpus, address in found}.values())


def name_job(store: Store, stage: str, key: str) -> str:
    """Return the name of the jobs that make a snapshot; it is the same in each run."""
    return f"pairmill-{stage}-{key}-{hashlib.sha256(store.uri.encode()).hexdigest()[:6]}"


def log_folder() -> Path:
    """Return the folder of the jobs' logs, which the nodes must share."""
    return home() / "slurm"


def submit(name: str, options: Sequence[str], call: str, header: dict[str, Any], calls: Sequence[str]) -> str:
    """Submit a job and return its id.

    Args:
        options: arguments of sbatch.
        call: what the script runs before the arguments of Python; empty, or srun with its options.
        header: what plugins/slurm/task.py reads first.
        calls: from encode_call.

    The script carries the calls: SLURM delivers it to the nodes as what this user has submitted, so whoever could change
    a call could change the commands around it as well.
    """
    logs = private_folder(log_folder())
    python = shlex.join([sys.executable, "-m", "plugins.slurm.task"])
    script = "\n".join([
        "#!/bin/sh",
        f"export PYTHONPATH={shlex.quote(str(CHECKOUT))} PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1",
        f"exec {call} {python} <<'CALLS'",
        canonical_json({**header, "code": code_digest()}),
        *calls,
        "CALLS",
        "",
    ])  # fmt: skip
    command = ("sbatch", "--parsable", f"--job-name={name}", "--requeue", "--open-mode=append", *options)
    log = f"{logs}/{name}-{'%A_%a' if 'elements' in header else '%j'}.log"
    job = run_command(*command, f"--output={log}", text=script).strip().partition(";")[0]
    logger.info("SLURM job %s (%s): logs in %s", job, name, logs / f"{name}-{job}*.log")
    return job


def encode_call(call: Any) -> str:
    """Return a call as a line of a job's script."""
    return base64.b64encode(zlib.compress(pickle.dumps(call))).decode()


def find_states(name: str | None = None) -> dict[str, tuple[str, str]]:
    """Return state and reason of this user's jobs and array tasks that run, wait or have ended lately, by id.

    Args:
        name: of jobs; None: of all.
    """
    options = ("--noheader", "--me", "--array", "--states=all", "--format=%i|%T|%r")
    lines = run_command("squeue", *options, *([f"--name={name}"] if name else [])).splitlines()
    return {one[0]: (one[1], one[2]) for one in (line.split("|", 2) for line in lines)}


def cancel(*selection: str) -> None:
    """Cancel jobs by their ids, or by options of scancel; log a warning if SLURM does not answer."""
    try:
        run_command("scancel", *selection)
    except PairmillError as error:
        if "nvalid job id" not in str(error):  # it has ended
            logger.warning("these jobs may still run; cancel them by `scancel %s`: %s", " ".join(selection), error)


def explain_end(what: str, job: str, state: str, name: str) -> str:
    """Return how a job ended that reported no result, with the remedy and its log."""
    remedy = REMEDIES.get(state, "see its log")
    return f"{what}: SLURM job {job} ended as {state} without a result: {remedy} ({log_folder() / name}-{job}.log)"
