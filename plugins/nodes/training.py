"""Train on all machines of a job: on the first one as part of its run, on the others as that one has planned it."""

import logging
import os
import platform
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import count
from typing import Any

from dataops.errors import ConfigError, ContractError, JobFailed, PairmillError
from dataops.home import code_digest, home
from dataops.process import RETRYABLE
from dataops.snapshot import Draft, Manifest, find_manifest
from plugins.nodes.group import First, Group, Refusal, Training, current_group
from tasks.engine.context import Context
from tasks.engine.stage import Plan, Work, make, plan
from tasks.engine.subprocess_job import end_jobs
from tasks.train.stage import TRAIN, run_other_node
from training.config import TrainConfig
from training.rendezvous import explain_refusal, is_loopback

logger = logging.getLogger(__name__)

BEAT_SECONDS = 10.0
"""Seconds between two objects of the first machine, and between two reads of them by the others."""


# The first machine ----------------------------------------------------------------------------------------------------


def lead(group: Group, command: Sequence[str], beat: float = BEAT_SECONDS) -> int:
    """Run the command of the first machine, and let the others know that it runs; return its exit code, 75 for a signal."""
    group = group.begin()
    with _beating(group, beat), subprocess.Popen(command, env=os.environ | group.environment) as process:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the command too
        signal.signal(signal.SIGTERM, lambda signum, frame: process.send_signal(signum))
        code = process.wait()
        code = RETRYABLE if code < 0 else code
    group.put(First(token=group.token, ended=code))
    return code


@contextmanager
def _beating(group: Group, seconds: float) -> Iterator[None]:
    """Write `first.json` again and again inside the `with`."""
    beats = count(1)

    def beat() -> bool:
        try:
            group.put(First(token=group.token, beat=next(beats)))
        except PairmillError as error:
            logger.warning("the other machines may give up, since the store failed: %s", error)
        return False

    group.put(First(token=group.token))
    with _repeating(beat, seconds):
        yield


@contextmanager
def _repeating(action: Callable[[], bool], seconds: float) -> Iterator[None]:
    """Call an action in a thread inside the `with`, at intervals of some seconds, until it returns True."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(seconds) and not action():
            pass

    thread = threading.Thread(target=run, name="nodes", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def train_on_nodes(planned: Plan[Any], context: Context, poll: float = BEAT_SECONDS / 2) -> Manifest:
    """Make the snapshot on this machine, the first one, and the others of its job.

    Args:
        poll: seconds between two looks for a machine that refuses to take part.

    Raises: ConfigError if the machines may not meet, or `pairmill node` did not start this run; the error of a machine that
        refuses; the errors of the training.
    """
    config = TrainConfig.model_validate(planned.config)
    if config.nnodes == "1":
        return make(planned, context)
    group = current_group()
    if group.store.uri != context.store.uri:
        raise ConfigError(f"`pairmill node --store` is {group.store.uri}, and the store of the run {context.store.uri}")
    _check_network(config, group)
    record = Training(
        token=group.token,
        attempt=secrets.token_hex(8),
        key=planned.key,
        code=code_digest(),
        config=config.model_dump(mode="json"),
        seed=planned.seed,
        upstream=[(manifest.stage, manifest.key) for manifest in planned.upstream],
        evaluate=dict(context.run_config.get("evaluate", {})),
    )
    group.put(record)
    refused: list[Refusal] = []

    def find_refusal() -> bool:
        refused.extend(filter(None, [group.find(Refusal, group.token)]))
        return bool(refused)

    try:
        with _ending_jobs_when(find_refusal, poll):
            return make(replace(planned, config=_meet(config, group)), context)
    except JobFailed:
        if not refused:
            raise
        kind = ConfigError if refused[0].exit_code == ConfigError.exit_code else ContractError
        raise kind(refused[0].message) from None
    finally:
        with suppress(PairmillError):  # the others see in the next `first.json` that it is over
            if group.find(First, group.token):  # no later start has begun while this one ended
                group.delete(Training)


def _check_network(config: TrainConfig, group: Group) -> None:
    if not config.allow_network and not is_loopback(group.first):
        raise ConfigError(explain_refusal(f"the machines of this job meet at {group.first}"))


def _meet(config: TrainConfig, group: Group) -> TrainConfig:
    return config.model_copy(update={"rdzv_endpoint": f"{group.first}:{group.port}"})


@contextmanager
def _ending_jobs_when(condition: Callable[[], bool], poll: float) -> Iterator[None]:
    """End the jobs of this process inside the `with` when a condition holds, with a checkpoint."""

    def watch() -> bool:
        with suppress(PairmillError):  # the store fails for a moment
            if condition():
                end_jobs()
                return True
        return False

    with _repeating(watch, poll):
        yield


# Another machine ------------------------------------------------------------------------------------------------------


def follow(group: Group, patience: float, poll: float = BEAT_SECONDS / 2) -> int:
    """Take part in each training of the first machine until its command has ended; return the exit code.

    Args:
        patience: seconds without a sign of the first machine after which this one ends with 75.
        poll: seconds between two reads.

    Raises: ConfigError, ContractError if this machine cannot train as the first one does; JobFailed (75).
    """
    watch, done = _Watch(group, patience), None
    logger.info("waiting for the first machine, %s, and for what it trains", group.first)
    try:
        while (code := watch.read()) is None:
            if (training := watch.training) not in (None, done):
                _take_part(group, watch, training, poll)
                done = training
            time.sleep(poll)
    except (ConfigError, ContractError) as error:
        message = f"{platform.node()}: {error}"
        group.put(Refusal(token=watch.token, exit_code=error.exit_code, message=message))
        raise
    return code


class _Watch:
    """What the first machine does."""

    def __init__(self, group: Group, patience: float):
        self._group, self._patience = group, patience
        self._seen: First | None = None
        self._since = time.monotonic()
        self.training: Training | None = None

    @property
    def token(self) -> str:
        """The token of the first machine's last start."""
        return "" if self._seen is None else self._seen.token

    def read(self) -> int | None:
        """Read what the first machine does; return its exit code once its command has ended, unless it is started again.

        Raises: JobFailed (75) if nothing has been heard of it for too long.
        """
        first = self._group.find(First)
        if first != self._seen:
            self._seen, self._since = first, time.monotonic()
        if time.monotonic() - self._since > self._patience:
            since = "has written nothing" if first is None else "has not changed what it wrote"
            raise JobFailed(
                f"the first machine, {self._group.first}, {since} in {self._group.store.uri}/{self._group.name(First)} "
                f"for {self._patience:.0f} s; this machine can be started again",
                exit_code=RETRYABLE,
            )
        is_running = first is not None and first.ended is None
        self.training = self._group.find(Training, first.token) if first is not None and is_running else None
        return None if first is None or first.ended in (None, RETRYABLE) else first.ended


def _take_part(group: Group, watch: _Watch, training: Training, poll: float) -> None:
    """Run the ranks of this machine until a training is over."""
    work, over = _plan(group, training), threading.Event()

    def is_over() -> bool:
        with suppress(JobFailed):  # it is raised again by the caller's read
            watch.read()
            if watch.training == training:
                return False
        over.set()
        return True

    with _ending_jobs_when(is_over, poll):
        run_other_node(work, group.index, lambda: over.is_set() or work.draft.is_complete())


def _plan(group: Group, training: Training) -> Work[TrainConfig]:
    """Return the work that the first machine has planned. Raises: ConfigError if this machine would train another model."""
    if training.code != code_digest():
        raise ConfigError(f"machine {group.index} has another version of pairmill than the first one: use one image")
    config = _meet(TrainConfig.model_validate(training.config), group)
    _check_network(config, group)
    found = [find_manifest(group.store, stage, key) for stage, key in training.upstream]
    upstream = tuple(manifest for manifest in found if manifest is not None)
    planned = plan(TRAIN, config, training.seed, upstream, group.store)
    if planned.key != training.key:
        raise ConfigError(
            f"machine {group.index} has other files for train.model, vocabulary or init than the first one: they must be "
            "the same on all"
        )
    context = Context(store=group.store, home=home(), run_config={"evaluate": training.evaluate})
    inputs = {manifest.stage: manifest for manifest in upstream}
    return Work(
        config, training.seed, inputs, Draft(group.store, "train", planned.key), context, planned.inputs, upstream
    )
