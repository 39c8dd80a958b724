"""What trains on the machines of a Ray cluster, for tasks/train/ray_launcher.py: an actor that is named after the snapshot's key.

It is detached: a flow that is killed leaves it, and its rerun finds it by that name. It holds the snapshot's lease, as
whatever makes one, and copies checkpoints to the store. Where its worker or machine dies, Ray starts it again, and it goes
on from the last checkpoint, on another machine from the store's. Several machines meet here by torchrun's rendezvous;
each other one runs `accompany`, a Ray task, which Ray starts again in the same way and which ends with the actor.
"""

import logging
import os
import secrets
import socket
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dataops.errors import ConfigError, JobFailed
from dataops.snapshot import Draft, Manifest
from tasks.engine.context import Context
from tasks.engine.ray_driver import Caller, run_call
from tasks.engine.stage import Plan, Work, make, plan
from tasks.engine.subprocess_job import GRACE_SECONDS, end_jobs, run_job
from tasks.train.stage import TRAIN, build_launcher, job_of
from training.config import TrainConfig

LINES = 1000
"""Of the newest log lines, kept for who looks."""
LINGER_SECONDS = 60.0
"""How long an actor whose training has ended stays, with its machine's GPUs, for somebody to ask how."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingRequest:
    """What is to be trained, and for whom."""

    key: str
    """Of the snapshot."""
    config: TrainConfig
    seed: int
    upstream: tuple[Manifest, ...]
    context: Context
    """Of who asks, without what cannot be sent."""
    asker: Caller
    needs: dict[str, float]
    """What Ray gives each machine's ranks: num_cpus, num_gpus."""
    tracking_uri: str | None
    """Of MLflow, where the machine's environment names none."""


@dataclass(frozen=True)
class ActorStatus:
    """What an actor tells of its training."""

    life: str
    """Another one, where it was started again."""
    lines: tuple[tuple[int, int, str], ...]
    """Number, level and text of the log lines since the last look."""
    progress: tuple[int, int, str] | None
    ended: tuple[str, Any] | None
    """("made", the key) or ("failed", the error)."""


class Trainer:
    """The actor: makes the snapshot on a thread, and tells of it whoever looks."""

    def __init__(self, order: TrainingRequest):
        self._order = order
        self._life = secrets.token_hex(4)
        self._lines: deque[tuple[int, int, str]] = deque(maxlen=LINES)
        self._written = 0
        self._progress: tuple[int, int, str] | None = None
        self._ended: tuple[str, Any] | None = None
        self._over = threading.Event()
        threading.Thread(target=self._work, name="training", daemon=True).start()

    def status(self, life: str, since: int) -> ActorStatus:
        """All that is new since line `since` of that life of this actor."""
        after = since if life == self._life else 0
        lines = tuple(line for line in list(self._lines) if line[0] > after)
        return ActorStatus(self._life, lines, self._progress, self._ended)

    def stop(self) -> None:
        """End the training with a checkpoint; returns when that is done, or has taken too long."""
        end_jobs()
        self._over.wait(GRACE_SECONDS + 5)

    def _work(self) -> None:
        handler = _Lines(self._tell)
        for name in ("tasks", "dataops"):
            logging.getLogger(name).addHandler(handler)
            logging.getLogger(name).setLevel(logging.INFO)
        if self._order.tracking_uri:
            os.environ.setdefault("MLFLOW_TRACKING_URI", self._order.tracking_uri)
        self._ended = run_call(train, (self._order, self._see), {}, self._order.asker)
        self._over.set()
        threading.Event().wait(LINGER_SECONDS)  # who looks before that ends this process
        import ray  # pyright: ignore[reportMissingImports]

        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)

    def _tell(self, level: int, text: str) -> None:
        self._written += 1
        self._lines.append((self._written, level, text))

    def _see(self, done: int, total: int, line: str) -> None:
        self._progress = (done, total, line)


class _Lines(logging.Handler):
    def __init__(self, tell: Any):
        super().__init__()
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(record.levelno, record.getMessage())


def train(order: TrainingRequest, progress: Any) -> str:
    """Make the snapshot on this machine, and on others where `nnodes` says so; returns its key."""
    context = replace(order.context, home=_home(order), progress=progress)
    if order.config.nnodes == "1":
        return make(_planned(order, order.config), context).key
    folder = context.home / "jobs" / f"train-{order.key}"
    with _others(order, folder) as config:
        return make(_planned(order, config), context).key


def _home(order: TrainingRequest) -> Path:
    return Path(os.environ.get("PAIRMILL_HOME") or order.context.home).absolute()


def _planned(order: TrainingRequest, config: TrainConfig) -> Plan:
    """The plan as this machine's files give it. Raises: ConfigError where they are not those of who asks."""
    planned = plan(TRAIN, config, order.seed, order.upstream, order.context.store)
    if planned.key != order.key:
        raise ConfigError(
            f"{socket.gethostname()} has other files for train.model, vocabulary or init than the machine of the run"
        )
    return planned


# Several machines -----------------------------------------------------------------------------------------------------


@contextmanager
def _others(order: TrainingRequest, folder: Path) -> Iterator[TrainConfig]:
    """Have other machines join as long as the `with` lasts; gives the config with the place at which they meet.

    Raises: what another machine could not do.
    """
    import ray  # pyright: ignore[reportMissingImports]

    config = order.config.model_copy(update={"rdzv_endpoint": f"{_address()}:{_free_port()}"})
    folder.mkdir(parents=True, exist_ok=True)
    sign = folder / f".seen-{secrets.token_hex(8)}"
    sign.touch()
    task = ray.remote(accompany).options(max_retries=-1, scheduling_strategy="SPREAD", **order.needs)
    most = int(config.nnodes.rpartition(":")[2])
    refs = [task.remote(replace(order, config=config), number, sign) for number in range(1, most)]
    failed: list[BaseException] = []
    over = threading.Event()

    def watch() -> None:
        waiting = list(refs)
        while waiting and not over.wait(1.0):
            ready, waiting = ray.wait(waiting, timeout=0)
            failed.extend(value for kind, value in ray.get(ready) if kind == "failed")
            if failed:
                end_jobs()

    watcher = threading.Thread(target=watch, name="other-machines", daemon=True)
    watcher.start()
    try:
        yield config
    except JobFailed as error:
        raise (failed[0] if failed else error) from error
    finally:
        over.set()
        watcher.join()
        for ref in refs:
            ray.cancel(ref, force=True)
        sign.unlink(missing_ok=True)


def accompany(order: TrainingRequest, number: int, sign: Path) -> tuple[str, Any]:
    """Run one more machine's ranks until the training ends; ("made", the key) or ("failed", the error).

    Args:
        number: of the machine, from 1.
        sign: a file in the folder of the first machine's job, which all must see.
    """
    return run_call(_accompany, (order, number, sign), {}, order.asker)


def _accompany(order: TrainingRequest, number: int, sign: Path) -> str:
    if not sign.exists():
        raise ConfigError(
            f"{socket.gethostname()} does not see {sign.parent}: machines that train together need PAIRMILL_HOME on a disk "
            "that all share, at one path"
        )
    folder = _home(order) / "jobs" / f"train-{order.key}-{number}"
    inputs = {manifest.stage: manifest for manifest in order.upstream}
    draft = Draft(order.context.store, "train", order.key)
    job = job_of(Work(order.config, order.seed, inputs, draft, order.context), folder / "shards", sign.parent)
    launcher = build_launcher(order.config, order.key, folder, _address())
    while sign.exists():  # a machine that is lost has the others' torchrun end, or meet anew
        try:
            run_job("training.train", job, folder, launcher=launcher)
            break
        except JobFailed as error:
            logger.warning("%s", error)
    return order.key


def _address() -> str:
    from ray.util import get_node_ip_address  # pyright: ignore[reportMissingImports]

    return get_node_ip_address()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
