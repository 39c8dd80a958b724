"""Train in a SLURM job (`train.launch = "slurm"`), by one process of `srun` on each node.

The first node's process holds the snapshot's lease, copies checkpoints to the store and commits. Nodes meet by torchrun's
rendezvous at its address. A job whose time is over, which is preempted or loses a node is in the queue again, and resumes
from its last checkpoint. A killed flow leaves the job running; its rerun finds it by its name, that of the snapshot.
"""

import logging
import os
import socket
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

from dataops.errors import ConfigError, JobFailed
from dataops.snapshot import Draft, Manifest, find_manifest
from plugins.slurm.config import SlurmConfig
from plugins.slurm.scheduler import (
    ENDED,
    UNLISTED,
    VISIBLE_SECONDS,
    States,
    cancel,
    encode_call,
    explain_end,
    log_folder,
    name_job,
    submit,
    watch_states,
)
from plugins.slurm.task import decode_outcome
from tasks.engine.context import IS_PROGRESS, Context, LocalExecutor
from tasks.engine.process_guard import GRACE_SECONDS, finish_first
from tasks.engine.stage import Plan, Work, make, plan
from tasks.engine.subprocess_job import CLOCK
from tasks.train.stage import STEP, TRAIN, run_other_node
from training.config import TrainConfig

logger = logging.getLogger(__name__)


def train_on_slurm(planned: Plan[Any], context: Context, options: SlurmConfig) -> Manifest:
    """Make the snapshot in a job; a cancelled caller cancels the job, which writes a checkpoint first.

    Raises: ConfigError if SLURM rejects the job, or the training raises it; ServiceError (75) if the controller does not
        answer; JobFailed (75) if the job ended without a result; any error of the training.
    """
    draft = Draft(context.store, "train", planned.key)
    name = name_job(draft.store, draft.stage, draft.key)
    states = watch_states(f"--name={name}")
    job = next((job for (job, _), (state, _) in next(states).items() if state not in ENDED), "")
    if job:
        logger.info("SLURM job %s makes this snapshot: waiting for it", job)
    else:
        draft.store.delete([draft.scratch(FAILURE)])
        job = _submit(planned, context, options, name, draft)
    try:
        state = _wait(job, name, states, context, options.poll_seconds)
    except BaseException as error:
        if not isinstance(error, Exception):  # a cancel or Ctrl-C: no caller waits for the training
            with finish_first():
                _cancel(job, name, states)
        raise
    deadline = time.monotonic() + (VISIBLE_SECONDS if state == "COMPLETED" else options.poll_seconds)
    while (manifest := find_manifest(draft.store, draft.stage, draft.key)) is None:
        failure = decode_outcome(draft.store.find(draft.scratch(FAILURE)) or b"{}")
        if isinstance(failure, Exception):
            raise failure
        if time.monotonic() > deadline:
            raise JobFailed(f"train: {explain_end(job, name, state)}", exit_code=75)
        time.sleep(options.poll_seconds)
    return manifest


FAILURE = "slurm.json"
"""Scratch object of the snapshot with the error of its job."""


def _submit(planned: Plan[Any], context: Context, options: SlurmConfig, name: str, draft: Draft) -> str:
    config = TrainConfig.model_validate(planned.config)
    sent = replace(context.without_progress(), home=context.home.absolute(), executor=LocalExecutor(), pool=None)
    arguments = (
        *(*options.for_training().arguments(), f"--cpus-per-task={config.nproc * config.threads}"),
        *("--ntasks-per-node=1", f"--nodes={config.nnodes.replace(':', '-')}"),
        f"--signal=TERM@{GRACE_SECONDS + 60}",  # before the time is over; SLURM itself sends it before a preemption
    )
    line = encode_call(train, (planned.key, config, planned.seed, planned.upstream, sent), {})
    calls = [f"{draft.scratch(FAILURE)} {line}"]
    return submit(name, arguments, draft.store, calls)


def _wait(job: str, name: str, states: States, context: Context, poll: float) -> str:
    """Log what a job logs, until it has ended, and return its last state."""
    log, shown, position, listed = log_folder() / f"{name}-{job}.log", ("", ""), 0, time.monotonic()
    while shown[0] not in ENDED:
        found = next(states).get((job, name))
        listed = time.monotonic() if found else listed
        state = found or (shown if time.monotonic() < listed + VISIBLE_SECONDS else (UNLISTED, ""))
        with suppress(OSError), log.open("rb") as file:  # it has not begun, or the nodes do not share the home
            file.seek(position)
            written = file.read()
            written = written[: written.rfind(b"\n") + 1]
            position += len(written)
            for line in written.decode("utf-8", "replace").splitlines():
                text = CLOCK.sub("", line)
                step = STEP.search(text)
                logger.info("%s", text, extra={IS_PROGRESS: step is not None})
                if step:
                    context.progress(int(step[1]), int(step[2]), step[3])
        if state != shown:
            logger.info("SLURM job %s: %s (%s)", job, *state)
            shown = state
        time.sleep(poll)
    return shown[0]


def _cancel(job: str, name: str, states: States) -> None:
    """Cancel a job and wait until it has ended, with its checkpoint; again if it went back into the queue meanwhile."""
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline and (state := next(states).get((job, name), ("",))[0]) not in ("", *ENDED):
        if state in ("PENDING", "RUNNING"):
            cancel(job, name)
        time.sleep(1.0)


# In the job -----------------------------------------------------------------------------------------------------------


def train(key: str, config: TrainConfig, seed: int, upstream: tuple[Manifest, ...], context: Context) -> None:
    """Make the snapshot on the first node of a job; on the others, run their ranks until it is made."""
    if config.nnodes != "1":
        address, job = os.environ["SLURM_LAUNCH_NODE_IPADDR"], os.environ["SLURM_JOB_ID"]
        config = config.model_copy(update={"rdzv_endpoint": f"{address}:{20_000 + int(job) % 10_000}"})
    planned = plan(TRAIN, config, seed, upstream, context.store)
    if planned.key != key:
        raise ConfigError(
            f"{socket.gethostname()} has different files for train.model, vocabulary or init than the machine of the run"
        )
    if (node := int(os.environ["SLURM_PROCID"])) == 0:
        make(planned, context)
    else:
        inputs, draft = {manifest.stage: manifest for manifest in upstream}, Draft(context.store, "train", key)
        run_other_node(Work(config, seed, inputs, draft, context), node, draft.is_complete)
