"""Train on the nodes of a Ray cluster, by an actor that plugins/ray/launcher.py starts.

The actor is detached and named after the key of the snapshot: a killed flow leaves it running, and its rerun finds it by
that name. It holds the snapshot's lease and copies checkpoints to the store. If its worker or node dies, Ray restarts it,
and it resumes from the last checkpoint; on another node, from the last one in the store. Several nodes meet by torchrun's
rendezvous: each other node runs `run_node`, a Ray task, which Ray restarts in the same way and which ends with the
actor.
"""

import logging
import os
import secrets
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dataops.errors import ConfigError, JobFailed
from dataops.snapshot import Draft, Manifest
from plugins.ray.cluster import import_ray
from plugins.ray.driver import Caller, run_call
from tasks.engine.context import Context
from tasks.engine.process_guard import GRACE_SECONDS
from tasks.engine.stage import Plan, Work, make, plan
from tasks.engine.subprocess_job import end_jobs
from tasks.train.stage import TRAIN, run_other_node
from training.config import TrainConfig
from training.rendezvous import explain_refusal, is_loopback

LINES = 1000
"""Number of newest log lines that the actor keeps."""
LINGER_SECONDS = 60.0
"""How long an actor, with the GPUs of its node, waits after the end of its training for a caller to read the result."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingRequest:
    """A training and its caller."""

    key: str
    """Key of the snapshot."""
    config: TrainConfig
    seed: int
    upstream: tuple[Manifest, ...]
    context: Context
    """The caller's context, without what cannot be pickled."""
    caller: Caller
    resources: dict[str, float]
    """Resources of each node's ranks, as Ray names them: num_cpus, num_gpus."""
    tracking_uri: str | None
    """URI of MLflow, used if the environment of the node names none."""


@dataclass(frozen=True)
class ActorStatus:
    """The state of an actor and its newest log lines."""

    incarnation: str
    """Random; it changes when Ray restarts the actor."""
    lines: tuple[tuple[int, int, str], ...]
    """Number, level and text of the log lines after the last one that the caller has read."""
    progress: tuple[int, int, str] | None
    ended: tuple[str, Any] | None
    """("result", the key) or ("failed", the error)."""


class Trainer:
    """The actor: it makes the snapshot on a thread, and returns its status to callers."""

    def __init__(self, request: TrainingRequest):
        self._request = request
        self._incarnation = secrets.token_hex(4)
        self._lines: deque[tuple[int, int, str]] = deque(maxlen=LINES)
        self._line_number = 0
        self._progress: tuple[int, int, str] | None = None
        self._ended: tuple[str, Any] | None = None
        self._is_over = threading.Event()
        threading.Thread(target=self._work, name="training", daemon=True).start()

    def status(self, incarnation: str, since: int) -> ActorStatus:
        """Return the status, with the log lines after line `since` of that incarnation."""
        after = since if incarnation == self._incarnation else 0
        lines = tuple(line for line in list(self._lines) if line[0] > after)
        return ActorStatus(self._incarnation, lines, self._progress, self._ended)

    def stop(self) -> None:
        """End the training with a checkpoint; return when it is written, or after the grace period."""
        end_jobs()
        self._is_over.wait(GRACE_SECONDS + 5)

    def _work(self) -> None:
        handler = _LineHandler(self._add_line)
        for name in ("dataops", "plugins", "tasks"):
            logging.getLogger(name).addHandler(handler)
            logging.getLogger(name).setLevel(logging.INFO)
        if self._request.tracking_uri:
            os.environ.setdefault("MLFLOW_TRACKING_URI", self._request.tracking_uri)
        self._ended = run_call(train, (self._request, self._set_progress), {}, self._request.caller)
        self._is_over.set()
        threading.Event().wait(LINGER_SECONDS)  # a caller that reads the result before kills this process
        ray = import_ray()

        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)

    def _add_line(self, level: int, text: str) -> None:
        self._line_number += 1
        self._lines.append((self._line_number, level, text))

    def _set_progress(self, done: int, total: int, line: str) -> None:
        self._progress = (done, total, line)


class _LineHandler(logging.Handler):
    def __init__(self, add_line: Callable[[int, str], None]):
        super().__init__()
        self._add_line = add_line

    def emit(self, record: logging.LogRecord) -> None:
        self._add_line(record.levelno, record.getMessage())


def train(request: TrainingRequest, progress: Any) -> str:
    """Make the snapshot on this node, and on others if `nnodes` demands it; return its key."""
    context = replace(request.context, home=_home(request), progress=progress)
    if request.config.nnodes == "1":
        return make(_plan(request, request.config), context).key
    address = node_address()
    if not request.config.allow_network and not is_loopback(address):
        raise ConfigError(explain_refusal(f"the nodes of this Ray cluster meet at {address}"))
    with _other_nodes(request) as config:
        return make(_plan(request, config), context).key


def _home(request: TrainingRequest) -> Path:
    return Path(os.environ.get("PAIRMILL_HOME") or request.context.home).absolute()


def _plan(request: TrainingRequest, config: TrainConfig) -> Plan:
    """Plan with this node's files. Raises: ConfigError if they differ from those of the caller."""
    planned = plan(TRAIN, config, request.seed, request.upstream, request.context.store)
    if planned.key != request.key:
        raise ConfigError(
            f"{socket.gethostname()} has different files for train.model, vocabulary or init than the machine of the run"
        )
    return planned


# Several nodes --------------------------------------------------------------------------------------------------------


@contextmanager
def _other_nodes(request: TrainingRequest) -> Iterator[TrainConfig]:
    """Run the ranks of other nodes inside the `with`, and yield the config with the rendezvous endpoint.

    Raises: the error of another node.
    """
    ray = import_ray()

    config = request.config.model_copy(update={"rdzv_endpoint": f"{node_address()}:{_free_port()}"})
    task = ray.remote(run_node).options(max_retries=-1, scheduling_strategy="SPREAD", **request.resources)
    max_nodes = int(config.nnodes.rpartition(":")[2])
    refs = [task.remote(replace(request, config=config), number) for number in range(1, max_nodes)]
    errors: list[BaseException] = []
    is_over = threading.Event()

    def watch() -> None:
        waiting = list(refs)
        while waiting and not is_over.wait(1.0):
            ready, waiting = ray.wait(waiting, timeout=0)
            errors.extend(value for kind, value in ray.get(ready) if kind == "failed")
            if errors:
                end_jobs()

    watcher = threading.Thread(target=watch, name="other-nodes", daemon=True)
    watcher.start()
    try:
        yield config
    except JobFailed as error:
        raise (errors[0] if errors else error) from error
    finally:
        is_over.set()
        watcher.join()
        for ref in refs:
            ray.cancel(ref, force=True)


def run_node(request: TrainingRequest, number: int) -> tuple[str, Any]:
    """Run the ranks of one more node until the training ends; return ("result", the key) or ("failed", the error).

    Args:
        number: of the node, from 1.
    """
    return run_call(_run_node, (request, number), {}, request.caller)


def _run_node(request: TrainingRequest, number: int) -> str:
    inputs = {manifest.stage: manifest for manifest in request.upstream}
    draft = Draft(request.context.store, "train", request.key)
    context = replace(request.context, home=_home(request))
    # The task ends with the actor, which owns it.
    run_other_node(Work(request.config, request.seed, inputs, draft, context), number, draft.is_complete)
    return request.key


def node_address() -> str:
    """Return the IP address of this node in its cluster."""
    return import_ray().util.get_node_ip_address()


def _free_port() -> int:
    with socket.socket() as probe:  # noqa: TID251  looks for a free port
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
