"""Train in a SLURM job (`train.launch = "slurm"`), by one process of `srun` on each node.

The first node's process holds the snapshot's lease, copies checkpoints to the store and commits. Nodes meet by torchrun's
rendezvous at its address. A job whose time is over, which is preempted or loses a node is in the queue again, and resumes
from its last checkpoint. A killed flow leaves the job running; its rerun finds it by its name, that of the snapshot.
"""

import logging
import os
import shutil
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dataops.errors import ConfigError, JobFailed, PairmillError, ServiceError
from dataops.snapshot import Draft, Manifest, find_manifest
from plugins.slurm.config import SlurmConfig
from plugins.slurm.pool import Times
from plugins.slurm.scheduler import (
    ENDED,
    REQUEUE_HELD,
    cancel,
    encode_call,
    explain_end,
    find_states,
    list_nodes,
    log_folder,
    name_job,
    submit,
)
from plugins.slurm.task import decode_outcome
from tasks.engine.context import IS_PROGRESS, Context, LocalExecutor
from tasks.engine.process_guard import GRACE_SECONDS, finish_first
from tasks.engine.stage import Plan, Work, make, plan
from tasks.engine.subprocess_job import CLOCK, run_job
from tasks.train.stage import PLAN, STEP, TRAIN, build_job, build_launcher
from training.config import TrainConfig
from training.rendezvous import explain_refusal, is_loopback

logger = logging.getLogger(__name__)

MEETING_SECONDS = 180.0
"""Time in which a node must see the file in which the first one wrote its port; NFS may show it a minute late."""


@dataclass(frozen=True)
class TrainingRequest:
    """A training and its caller's context, without what cannot be pickled."""

    key: str
    config: TrainConfig
    seed: int
    upstream: tuple[Manifest, ...]
    context: Context

    @property
    def folder(self) -> Path:
        """Folder of the job, which all nodes must share."""
        return self.context.home / "jobs" / f"train-{self.key}"


def train_on_slurm(planned: Plan[Any], context: Context, options: SlurmConfig, times: Times | None = None) -> Manifest:
    """Make the snapshot in a job; a cancelled caller cancels the job, which writes a checkpoint first.

    Raises: ConfigError if SLURM rejects the job, or the training raises it; ServiceError (75) if the controller does not
        answer; JobFailed (75) if the job ended without a result; any error of the training.
    """
    sent = replace(context.without_progress(), home=context.home.absolute(), executor=LocalExecutor(), pool=None)
    config = TrainConfig.model_validate(planned.config)
    request = TrainingRequest(planned.key, config, planned.seed, planned.upstream, sent)
    times = times or Times(options.poll_seconds)
    name = name_job(context.store, "train", planned.key)
    active = [job for job, (state, _) in find_states(name).items() if state not in ENDED]
    if active:
        logger.info("SLURM job %s makes this snapshot: waiting for it", active[0])
    job = active[0] if active else _submit(request, options, name)
    try:
        state = _wait(job, name, JobLog(log_folder() / f"{name}-{job}.log", context), times)
    except BaseException as error:
        if not isinstance(error, Exception):  # a cancel or Ctrl-C: no caller waits for the training
            with finish_first():
                _cancel(job, name, times)
        raise
    deadline = time.monotonic() + (times.visible if state == "COMPLETED" else times.poll)
    while True:
        if (manifest := find_manifest(context.store, "train", planned.key)) is not None:
            return manifest
        if (data := context.store.find(f"{_outcomes(planned.key)}/{job}.json")) is not None:
            decode_outcome(data)
        if time.monotonic() > deadline:
            raise JobFailed(explain_end("train", job, state, name), exit_code=75)
        time.sleep(times.poll)


def _outcomes(key: str) -> str:
    """Return the folder in the store of the errors of jobs, by their ids."""
    return f"train/{key}/_work/slurm"


def _submit(request: TrainingRequest, options: SlurmConfig, name: str) -> str:
    config, ours = request.config, options.for_training()
    if config.nnodes != "1" and not config.allow_network:
        foreign = [node.address for node in list_nodes(ours) if not is_loopback(node.address)]
        if foreign:
            raise ConfigError(explain_refusal(f"the nodes of this SLURM cluster meet at {foreign[0]}"))
    request.folder.mkdir(parents=True, exist_ok=True)
    cpus = f"--cpus-per-task={config.nproc * config.threads}"
    gpus = [f"--gres=gpu:{config.nproc}"] if config.device == "cuda" and ours.gres is None else []
    arguments = (
        *(*ours.arguments(), *gpus, cpus, "--ntasks-per-node=1", f"--nodes={config.nnodes.replace(':', '-')}"),
        f"--signal=TERM@{GRACE_SECONDS + 60}",  # before the time is over; SLURM itself sends it before a preemption
    )
    header = {"store": request.context.store.uri, "folder": _outcomes(request.key)}
    return submit(name, arguments, f"srun --kill-on-bad-exit=1 {cpus}", header, [encode_call((train, (request,), {}))])


class JobLog:
    """The log of a job, whose new lines this process logs too, and shows as progress."""

    def __init__(self, path: Path, context: Context):
        self._path, self._context, self._position = path, context, 0

    def follow(self) -> None:
        """Log the lines that were written since the last call."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._position)
                written, _, _ = file.read().rpartition(b"\n")
        except OSError:  # it has not begun, or the nodes do not share the home
            return
        self._position += len(written) + bool(written)
        for line in written.decode("utf-8", "replace").splitlines():
            text = CLOCK.sub("", line)
            step = STEP.search(text)
            logger.info("%s", text, extra={IS_PROGRESS: step is not None})
            if step:
                self._context.progress(int(step[1]), int(step[2]), step[3])
            elif begun := PLAN.search(text):
                self._context.progress(int(begun[2]), int(begun[1]), "")


def _wait(job: str, name: str, log: JobLog, times: Times) -> str:
    """Follow the log of a job until the job has ended, and return its last state."""
    shown, answered = ("", ""), time.monotonic()
    while True:
        try:
            state = find_states(name).get(job, ("COMPLETED", ""))  # SLURM forgets a job some minutes after its end
            answered = time.monotonic()
        except ServiceError as error:
            if time.monotonic() > answered + times.patience:
                raise
            logger.warning("%s", error)
            state = shown
        log.follow()
        if state != shown:
            logger.info("SLURM job %s: %s (%s)", job, *state)
            shown = state
        if REQUEUE_HELD in state[1]:
            cancel(job)
            return f"{state[0]} ({state[1]})"
        if state[0] in ENDED:
            return state[0]
        time.sleep(times.poll)


def _cancel(job: str, name: str, times: Times) -> None:
    """Cancel a job and wait until it has ended, with its checkpoint; again if it went back into the queue meanwhile."""
    deadline = time.monotonic() + GRACE_SECONDS
    with suppress(PairmillError):
        while time.monotonic() < deadline and (state := find_states(name).get(job, ("",))[0]) not in ("", *ENDED):
            if state in ("PENDING", "RUNNING"):
                cancel(job)
            time.sleep(min(1.0, times.poll))


# In the job -----------------------------------------------------------------------------------------------------------


def train(request: TrainingRequest) -> None:
    """Make the snapshot on the first node of a job; on the others, run their ranks until it is made."""
    endpoint = None if request.config.nnodes == "1" else _meet(request)
    config = request.config.model_copy(update={"rdzv_endpoint": endpoint})
    planned = plan(TRAIN, config, request.seed, request.upstream, request.context.store)
    if planned.key != request.key:
        raise ConfigError(
            f"{socket.gethostname()} has different files for train.model, vocabulary or init than the machine of the run"
        )
    if os.environ["SLURM_PROCID"] == "0":
        make(planned, request.context)
    else:
        _run_other_node(planned, request)


def _meet(request: TrainingRequest) -> str:
    """Return HOST:PORT of the rendezvous, for which the first node chooses a free port.

    Raises: ConfigError if this node does not see the folder of the job, or its network may not be used.
    """
    address, job = os.environ["SLURM_LAUNCH_NODE_IPADDR"], os.environ["SLURM_JOB_ID"]
    if not request.config.allow_network and not is_loopback(address):
        raise ConfigError(explain_refusal(f"the nodes of this SLURM cluster meet at {address}"))
    meeting = request.folder / f".meeting-{job}-{os.environ.get('SLURM_RESTART_COUNT', 0)}"
    if os.environ["SLURM_PROCID"] == "0":
        with socket.socket() as probe:  # noqa: TID251  looks for a free port
            probe.bind(("", 0))
            endpoint = f"{address}:{probe.getsockname()[1]}"
        meeting.with_suffix(".tmp").write_text(endpoint, "utf-8")
        meeting.with_suffix(".tmp").rename(meeting)  # whole for the others
        return endpoint
    deadline = time.monotonic() + MEETING_SECONDS
    while not meeting.exists():
        if time.monotonic() > deadline:
            raise ConfigError(
                f"{socket.gethostname()} does not see {meeting}: nodes that train together need PAIRMILL_HOME on a shared "
                "disk, at the same path on each"
            )
        time.sleep(0.5)
    return meeting.read_text("utf-8")


def _run_other_node(planned: Plan[Any], request: TrainingRequest) -> None:
    config, context = planned.config, request.context
    folder = request.folder.with_name(f"{request.folder.name}-{os.environ['SLURM_PROCID']}")
    inputs = {manifest.stage: manifest for manifest in request.upstream}
    draft = Draft(context.store, "train", request.key)
    job = build_job(Work(config, request.seed, inputs, draft, context), folder / "shards", request.folder)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # noqa: TID251  this node's address; sends nothing
        probe.connect((str(config.rdzv_endpoint).rpartition(":")[0], 9))
        address = str(probe.getsockname()[0])
    launcher = build_launcher(config, request.key, folder, address)
    while not draft.is_complete():  # the first node may still wait for the lease, and torchrun gives up
        try:
            run_job("training.train", job, folder, launcher=launcher)
            break
        except JobFailed as error:
            if not error.retryable:
                raise
            logger.warning("%s", error)
    shutil.rmtree(folder, ignore_errors=True)
