"""Train on a node of a Ray cluster (`train.launch = "ray"`), by an actor that is named after the key of the snapshot.

A killed flow leaves the actor (plugins/ray/actor.py) running, and the next attempt waits for it. As for other stages, a
separate driver process holds Ray, because Ray ends a connected process when the head of the cluster dies. This process gets
log lines and progress through a pipe, and the snapshot through the store.
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
from dataops.home import code_digest
from dataops.process import exit_with_parent
from dataops.redaction import remove_credentials
from dataops.snapshot import Manifest, find_manifest
from plugins.ray.actor import ActorStatus, Trainer, TrainingRequest
from plugins.ray.cluster import PROBE_SECONDS, ClusterCapacity, RayCluster, import_ray, is_listening
from plugins.ray.driver import Caller, explain_error
from plugins.ray.pool import (
    MAX_MISSED_PROBES,
    check_cluster,
    check_store,
    start_ray_process,
)
from tasks.engine.context import Context, LocalExecutor
from tasks.engine.process_guard import GRACE_SECONDS, finish_first, guard_process
from tasks.engine.stage import Plan
from training.config import TrainConfig

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 10.0
"""How long the driver waits for an actor without resources before it logs a warning."""


def train_on_ray(planned: Plan, context: Context, cluster: RayCluster) -> Manifest:
    """Make the snapshot on the cluster; a cancelled caller ends the training, with a checkpoint.

    Raises: ConfigError if Ray is missing, no node has the resources, or the trainer raises it; ServiceError if no cluster
        answers, or it is lost; JobFailed (75) if the worker died too often; any error of the job.
    """
    check_cluster(cluster)
    process, pipe = start_ray_process(run_driver, cluster, _build_request(planned, context), "ray-training")
    try:
        failure = follow_driver(pipe, context, cluster)
    except BaseException as error:
        if not isinstance(error, Exception):  # a cancel or Ctrl-C: no caller waits for the training
            with finish_first(), suppress(OSError):
                pipe.send("cancel")
                process.join(GRACE_SECONDS + 20)
        raise
    finally:
        process.kill()
        process.join()
        pipe.close()
    if (manifest := find_manifest(context.store, planned.stage.name, planned.key)) is not None:
        return manifest
    raise failure or JobFailed(f"the training on Ray has ended, but train/{planned.key} is not in the store")


def _build_request(planned: Plan, context: Context) -> TrainingRequest:
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    caller = Caller(code_digest(), str(Path.cwd()), context.store.uri)
    sent = replace(context.without_progress(), home=context.home.absolute(), executor=LocalExecutor(), pool=None)
    config = TrainConfig.model_validate(planned.config)
    uri = uri if remove_credentials(uri) == uri else ""
    return TrainingRequest(planned.key, config, planned.seed, planned.upstream, sent, caller, {}, uri or None)


def follow_driver(pipe: Any, context: Context, cluster: RayCluster) -> Exception | None:
    """Forward the driver's log lines and progress until the training ends; return its error, if it failed."""
    head, missed = cluster.address, 0
    while missed < MAX_MISSED_PROBES:
        if not pipe.poll(PROBE_SECONDS):
            missed = 0 if head == "auto" or is_listening(head) else missed + 1
            continue
        try:
            kind, *values = pipe.recv()
        except (EOFError, OSError):
            break
        if kind == "capacity":
            head = values[0].head
            check_store(context.store, values[0], cluster)
            pipe.send("go")
        elif kind == "log":
            logger.log(*values)
        elif kind == "progress":
            context.progress(*values)
        else:
            return values[0] if kind == "failed" else None
    raise ServiceError(
        f"the Ray cluster at {head} is lost; `pairmill rerun` finds the training if it still runs, or its last checkpoint"
    )


# In the driver's process ----------------------------------------------------------------------------------------------


def run_driver(pipe: Connection, cluster: RayCluster, request: TrainingRequest, parent: int) -> None:
    """Find or start the actor and report its status, until it ends, is cancelled, or the process `parent` has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C reaches the parent too, which then sends `cancel`
    guard_process()
    exit_with_parent(parent)
    try:
        _Driver(pipe, cluster, request).run()
    except (EOFError, BrokenPipeError):  # a killed parent: its training continues
        return
    except Exception as error:  # the process's boundary
        pipe.send(("failed", explain_error(error, cluster)))


class _Driver:
    def __init__(self, pipe: Connection, cluster: RayCluster, request: TrainingRequest):
        ray = import_ray()
        self.ray, self.pipe, self.cluster = ray, pipe, cluster
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.WARNING, namespace="pairmill")
        nodes = [node for node in ray.nodes() if node["Alive"]]
        resources = compute_resources(request.config, [node["Resources"] for node in nodes])
        self.request = replace(request, resources=resources)
        machines = tuple(sorted({str(node["NodeManagerHostname"]) for node in nodes}))
        self.pipe.send(("capacity", ClusterCapacity(str(ray.get_runtime_context().gcs_address), machines, 1, 1)))
        self.incarnation, self.line = "", 0
        self.progress: Any = None

    def run(self) -> None:
        """Forward the actor's status to the parent until the training ends or is cancelled."""
        if self.pipe.recv() != "go":
            return
        actor = self._find_or_start_actor()
        while True:
            try:
                status = self._read_status(actor)
            except self.ray.exceptions.RayActorError as error:
                reason = str(error).strip().splitlines()[0]
                message = f"training {self.request.key}: its worker on Ray died permanently ({reason})"
                self.pipe.send(("failed", JobFailed(message, exit_code=75)))
                return
            if status is None:
                self._end(actor)
                return
            self._forward(status)
            if status.ended is not None:
                self.ray.kill(actor, no_restart=True)
                self.pipe.send(status.ended)
                return
            if self._is_cancelled(POLL_SECONDS):
                self._end(actor)
                return

    def _find_or_start_actor(self) -> Any:
        name = f"train-{self.request.key}"
        with suppress(ValueError):
            actor = self.ray.get_actor(name)
            self._log(logging.INFO, f"the actor {name} of the Ray cluster makes this snapshot: waiting for it")
            return actor
        options = {"name": name, "get_if_exists": True, "lifetime": "detached", "max_concurrency": 4}
        options |= {"max_restarts": self.cluster.max_retries, "max_task_retries": -1, **self.request.resources}
        return self.ray.remote(Trainer).options(**options).remote(self.request)

    def _read_status(self, actor: Any) -> ActorStatus | None:
        """Return the actor's status; None if the training is cancelled first. Raises: RayActorError if it is dead."""
        ref = actor.status.remote(self.incarnation, self.line)
        began, is_logged = time.monotonic(), False
        while not self.ray.wait([ref], timeout=POLL_SECONDS)[0]:
            if self._is_cancelled():
                return None
            if not is_logged and time.monotonic() - began > PATIENCE_SECONDS:
                is_logged = True
                resources = self.request.resources
                self._log(logging.WARNING, f"no node of the Ray cluster has these resources free now: {resources}")
        return self.ray.get(ref)

    def _forward(self, status: ActorStatus) -> None:
        if self.incarnation not in ("", status.incarnation):
            self._log(logging.WARNING, "its worker on Ray died and was restarted: resuming from its checkpoint")
        self.line = self.line if self.incarnation == status.incarnation else 0
        self.incarnation = status.incarnation
        for number, level, text in status.lines:
            self.line = number
            self._log(level, text)
        if status.progress not in (None, self.progress):
            self.progress = status.progress
            self.pipe.send(("progress", *status.progress))

    def _log(self, level: int, text: str) -> None:
        self.pipe.send(("log", level, "%s", text))

    def _is_cancelled(self, seconds: float = 0.0) -> bool:
        """Return whether the parent sends `cancel` within the time. Raises: EOFError if the parent has ended."""
        return self.pipe.poll(seconds) and self.pipe.recv() == "cancel"

    def _end(self, actor: Any) -> None:
        """End the actor; if its training has begun, with a checkpoint."""
        if self.incarnation:
            self.ray.wait([actor.stop.remote()], timeout=GRACE_SECONDS + 10)
        self.ray.kill(actor, no_restart=True)


def compute_resources(config: TrainConfig, nodes: list[dict[str, float]]) -> dict[str, float]:
    """Return the resources that the ranks of one node need, as Ray names them.

    Args:
        nodes: resources of each node, as Ray names them (`CPU`, `GPU`).

    Raises: ConfigError if too few nodes have them.
    """
    cpus = config.nproc * config.threads
    use_gpu = config.device == "cuda" or (config.device == "auto" and any(node.get("GPU") for node in nodes))
    gpus = config.nproc if use_gpu else 0
    capacity = sum(
        int(min(node.get("CPU", 0.0) / cpus, node.get("GPU", 0.0) / gpus if gpus else float("inf"))) for node in nodes
    )
    min_nodes = int(config.nnodes.partition(":")[0])
    if capacity < min_nodes:
        raise ConfigError(
            f"a training needs {min_nodes} x {cpus} CPUs (train.nproc x train.threads) and {gpus} GPUs, and the nodes of "
            f"the Ray cluster have room for {capacity} of these: lower train.nproc, threads or nnodes, or add nodes"
        )
    return {"num_cpus": float(cpus), "num_gpus": float(gpus)}
