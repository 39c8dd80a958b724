"""A training on a machine of a Ray cluster (`train.launch = "ray"`), found again by the snapshot's key.

The training is an actor of that name (tasks/train/ray_actor.py), which a killed flow leaves: the next try waits for that one.
As for the parts of stages, Ray is held by a process of its own, since Ray ends the one that is connected to it when a
cluster's head dies. This process gets log lines and progress through a pipe; the snapshot comes through the store.
"""

import logging
import os
import signal
import time
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from dataops.errors import ConfigError, JobFailed, ServiceError
from dataops.redaction import remove_secrets
from dataops.snapshot import Manifest, find_manifest
from tasks.engine.context import ClusterCapacity, Context, RayCluster
from tasks.engine.process_guard import guard_process
from tasks.engine.ray_driver import Caller, code_digest, explain_error
from tasks.engine.ray_pool import GONE_AFTER, PROBE_SECONDS, check_cluster, check_store, is_listening, start_ray_process
from tasks.engine.stage import Plan
from tasks.engine.subprocess_job import GRACE_SECONDS
from tasks.train.ray_actor import ActorStatus, Trainer, TrainingRequest
from training.config import TrainConfig
from training.process import exit_with_parent

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
PATIENCE_SECONDS = 10.0
"""After which it is said that an actor waits for room."""


def train_on_ray(planned: Plan, context: Context, place: RayCluster) -> Manifest:
    """Have the snapshot made on the cluster; cancelling the caller ends the training, with a checkpoint.

    Raises: ConfigError where Ray is missing, no machine of the cluster has what is asked for, or the trainer says so;
        ServiceError where no cluster answers, or it is lost; JobFailed (75) where the worker died too often; what the job
        raises.
    """
    check_cluster(place)
    process, ours = start_ray_process(drive, place, _order(planned, context), "ray-training")
    try:
        failed = followed(ours, context, place)
    except BaseException as error:
        if not isinstance(error, Exception):  # a cancel or Ctrl-C: nobody waits for the training
            with suppress(OSError):
                ours.send("cancel")
            process.join(GRACE_SECONDS + 20)
        raise
    finally:
        process.kill()
        process.join()
        ours.close()
    if (manifest := find_manifest(context.store, planned.stage.name, planned.key)) is not None:
        return manifest
    raise failed or JobFailed(f"Ray says that train/{planned.key} was made, and the store does not have it")


def _order(planned: Plan, context: Context) -> TrainingRequest:
    """All that a machine of the cluster must know."""
    uri = remove_secrets(os.environ).get("MLFLOW_TRACKING_URI", "").strip()
    asker = Caller(code_digest(), str(Path.cwd()), context.store.uri)
    sent = replace(context, home=context.home.absolute(), progress=_silent, ray=None, pool=None)
    config = TrainConfig.model_validate(planned.config)
    return TrainingRequest(planned.key, config, planned.seed, planned.upstream, sent, asker, {}, uri or None)


def _silent(done: int, total: int, line: str) -> None:
    """Nobody is told: what cannot be sent stays here."""


def followed(pipe: Any, context: Context, place: RayCluster) -> Exception | None:
    """Pass on what the driver tells until the training has ended; how it failed."""
    head, missed = place.address, 0
    while missed < GONE_AFTER:
        if not pipe.poll(PROBE_SECONDS):
            missed = 0 if head == "auto" or is_listening(head) else missed + 1
            continue
        try:
            kind, *values = pipe.recv()
        except (EOFError, OSError):
            break
        if kind == "room":
            head = values[0].head
            check_store(context.store, values[0], place)
            pipe.send("go")
        elif kind == "told":
            logger.log(*values)
        elif kind == "progress":
            context.progress(*values)
        else:
            return values[0] if kind == "failed" else None
    raise ServiceError(
        f"the Ray cluster at {head} is lost; `pairmill rerun` finds the training, if it goes on, or its last checkpoint"
    )


# In the driver's process ----------------------------------------------------------------------------------------------


def drive(pipe: Connection, place: RayCluster, order: TrainingRequest, parent: int) -> None:
    """Find or start the actor and tell of it, until it ends, is to be ended, or the process `parent` is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C reaches the parent too, which then says `cancel`
    guard_process()
    exit_with_parent(parent)
    try:
        _Driver(pipe, place, order).run()
    except (EOFError, BrokenPipeError):  # a killed parent: its training goes on
        return
    except Exception as error:  # the process's boundary
        pipe.send(("failed", explain_error(error, place)))


class _Driver:
    def __init__(self, pipe: Connection, place: RayCluster, order: TrainingRequest):
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        import ray  # pyright: ignore[reportMissingImports]

        self.ray, self.pipe, self.place = ray, pipe, place
        ray.init(address=place.address, log_to_driver=False, logging_level=logging.WARNING, namespace="pairmill")
        nodes = [node for node in ray.nodes() if node["Alive"]]
        self.order = replace(order, needs=needs(order.config, [node["Resources"] for node in nodes]))
        machines = tuple(sorted({str(node["NodeManagerHostname"]) for node in nodes}))
        self.pipe.send(("room", ClusterCapacity(str(ray.get_runtime_context().gcs_address), machines, 1, 1)))
        self.life, self.line, self.tries = "", 0, 0
        self.progress: Any = None

    def run(self) -> None:
        """Be the actor's voice."""
        if self.pipe.recv() != "go":
            return
        actor = self._actor()
        while True:
            try:
                seen = self._look(actor)
            except self.ray.exceptions.RayActorError as error:
                why = (
                    f"training {self.order.key}: its worker on Ray died for good ({str(error).strip().splitlines()[0]})"
                )
                self.pipe.send(("failed", JobFailed(why, exit_code=75)))
                return
            if seen is None:
                self._end(actor)
                return
            self._pass_on(seen)
            if seen.ended is not None:
                self.ray.kill(actor, no_restart=True)
                self.pipe.send(seen.ended)
                return
            if self._is_to_end(LOOK_SECONDS):
                self._end(actor)
                return

    def _actor(self) -> Any:
        name = f"train-{self.order.key}"
        with suppress(ValueError):
            actor = self.ray.get_actor(name)
            self._tell(logging.INFO, f"the actor {name} of the Ray cluster makes it: waiting for that one")
            return actor
        options = {"name": name, "get_if_exists": True, "lifetime": "detached", "max_concurrency": 4}
        options |= {"max_restarts": self.place.max_retries, "max_task_retries": -1, **self.order.needs}
        return self.ray.remote(Trainer).options(**options).remote(self.order)

    def _look(self, actor: Any) -> ActorStatus | None:
        """What the actor tells; None when it is to be ended first. Raises: RayActorError where it is dead."""
        ref, began, told = actor.status.remote(self.life, self.line), time.monotonic(), False
        while not self.ray.wait([ref], timeout=LOOK_SECONDS)[0]:
            if self._is_to_end():
                return None
            if not told and time.monotonic() - began > PATIENCE_SECONDS:
                told = True
                self._tell(logging.WARNING, f"no machine of the Ray cluster has room for it now: {self.order.needs}")
        return self.ray.get(ref)

    def _pass_on(self, seen: ActorStatus) -> None:
        if self.life not in ("", seen.life):
            self._tell(
                logging.WARNING, "its worker on Ray died, and it was started again: it goes on from its checkpoint"
            )
        self.life, self.line = seen.life, self.line if self.life == seen.life else 0
        for number, level, text in seen.lines:
            self.line = number
            self._tell(level, text)
        if seen.progress not in (None, self.progress):
            self.progress = seen.progress
            self.pipe.send(("progress", *seen.progress))

    def _tell(self, level: int, text: str) -> None:
        self.pipe.send(("told", level, "%s", text))

    def _is_to_end(self, seconds: float = 0.0) -> bool:
        """Whether the parent says so, within the time given. Raises: EOFError where it is gone, and says nothing."""
        return self.pipe.poll(seconds) and self.pipe.recv() == "cancel"

    def _end(self, actor: Any) -> None:
        """End the training: in good order where it has begun."""
        if self.life:
            self.ray.wait([actor.stop.remote()], timeout=GRACE_SECONDS + 10)
        self.ray.kill(actor, no_restart=True)


def needs(config: TrainConfig, machines: list[dict[str, float]]) -> dict[str, float]:
    """What Ray is to give the ranks of one machine.

    Args:
        machines: the resources of each, as Ray names them (`CPU`, `GPU`).

    Raises: ConfigError where too few machines have that.
    """
    cpus = config.nproc * config.threads
    wants_gpu = config.device == "cuda" or (config.device == "auto" and any(m.get("GPU") for m in machines))
    gpus = config.nproc if wants_gpu else 0
    room = sum(int(min(m.get("CPU", 0.0) / cpus, m.get("GPU", 0.0) / gpus if gpus else float("inf"))) for m in machines)
    least = int(config.nnodes.partition(":")[0])
    if room < least:
        raise ConfigError(
            f"a training asks for {least} x {cpus} CPUs (train.nproc x train.threads) and {gpus} GPUs, and the machines of "
            f"the Ray cluster have room for {room} of these: lower train.nproc, threads or nnodes, or add machines"
        )
    return {"num_cpus": float(cpus), "num_gpus": float(gpus)}
