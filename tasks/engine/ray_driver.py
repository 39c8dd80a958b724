"""The process that is connected to a cluster of Ray for a stage (tasks/engine/ray_pool.py), and what a worker there does.

It hands calls over as Ray tasks and answers with what came back, in any order. An error of a call is a value to Ray, so
that only a worker or machine that died is a failure to it: such a call is made again, elsewhere, `max_retries` times.
"""

import hashlib
import logging
import os
import signal
import socket
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from dataops.errors import ConfigError, JobFailed, PairmillError, ServiceError
from dataops.home import CHECKOUT
from dataops.redaction import redact, scrub
from dataops.store import FolderStore, open_store
from tasks.engine.context import ClusterCapacity, RayCluster
from tasks.engine.process_guard import guard_process
from training.process import exit_with_parent

PACKAGES = ("dataops", "tasks", "training")
"""Whose code makes parts."""
SAME_EVERYWHERE = "Each machine of the cluster needs this commit, and `ray start` from an environment that has it"
"""The remedy where a worker cannot do our work."""


def run_driver(pipe: Connection, place: RayCluster, store_uri: str, parent: int) -> None:
    """Be the driver of the process `parent` until it says `end` or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C reaches the parent too, which then says `end`
    guard_process()
    exit_with_parent(parent)
    try:
        driver = _Driver(pipe, place, store_uri)
    except Exception as error:
        pipe.send(explain_error(error, place))
        return
    pipe.send(driver.room)
    driver.run()


@dataclass(frozen=True)
class _Call:
    number: int
    label: str
    """What it is about, for people."""
    work: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
    """A function, its arguments, and those by name."""
    tries: int = 1


class _Driver:
    def __init__(self, pipe: Connection, place: RayCluster, store_uri: str):
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        import ray  # pyright: ignore[reportMissingImports]

        self.ray, self.pipe, self.place = ray, pipe, place
        # Workers' output stays in the cluster's own logs: here it would be a line of some other machine among ours.
        ray.init(address=place.address, log_to_driver=False, logging_level=logging.WARNING, namespace="pairmill")
        self.room = _room(ray, place)
        options: dict[str, Any] = {"num_cpus": place.cpus, "max_retries": 0}
        if place.memory_bytes:
            options["memory"] = place.memory_bytes
        self.remote = ray.remote(**options)(run_call)
        self.asker = Caller(code_digest(), str(Path.cwd()), store_uri)
        self.running: dict[int, Any] = {}
        self.lock = threading.Lock()

    def run(self) -> None:
        """Take calls until the end."""
        while (message := self.pipe.recv())[0] != "end":
            if message[0] == "call":
                self._start(_Call(*message[1:]))
            elif (ref := self.running.pop(message[1], None)) is not None:
                self.ray.cancel(ref)
        self.ray.shutdown()

    def _start(self, call: _Call) -> None:
        ref = self.remote.remote(*call.work, self.asker)
        self.running[call.number] = ref
        ref.future().add_done_callback(lambda future: self._ended(call, future))

    def _ended(self, call: _Call, future: Any) -> None:
        if self.running.pop(call.number, None) is None:  # cancelled
            return
        error = future.exception()
        if error is None:
            kind, value = future.result()
            self._send(kind, call.number, value)
        elif isinstance(error, self.ray.exceptions.RayTaskError):  # before our own code could answer
            msg = f"{call.label}: a worker of Ray cannot run pairmill: {_last_line(error)}. {SAME_EVERYWHERE}"
            self._send("failed", call.number, ConfigError(msg))
        elif call.tries <= self.place.max_retries:
            lost = f"{call.label}: its worker on Ray died (try {call.tries}), it is made again: {_first_line(error)}"
            self._send("told", call.number, lost)
            # In a thread of its own: this one is Ray's.
            again = threading.Timer(call.tries, self._start, [replace(call, tries=call.tries + 1)])
            again.daemon = True
            again.start()
        else:
            msg = (
                f"{call.label}: its worker on Ray died {call.tries} times (execution.ray_max_retries), the last time: "
                f"{_first_line(error)}"
            )
            self._send("failed", call.number, JobFailed(msg, exit_code=75))

    def _send(self, kind: str, number: int, value: Any) -> None:
        with self.lock:
            self.pipe.send((kind, number, value))


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {redact(str(error)).strip().splitlines()[0]}"


def _last_line(error: BaseException) -> str:
    return redact(str(error)).strip().splitlines()[-1]


def _room(ray: Any, place: RayCluster) -> ClusterCapacity:
    """What the cluster has room for now. Raises: ConfigError where not even one part fits a machine of it."""
    nodes = [node for node in ray.nodes() if node["Alive"]]

    def slots(node: dict[str, Any]) -> int:
        room = node["Resources"].get("CPU", 0.0) / place.cpus
        if place.memory_bytes:
            room = min(room, node["Resources"].get("memory", 0.0) / place.memory_bytes)
        return int(room)

    total = sum(map(slots, nodes))
    if total == 0:
        raise ConfigError(
            f"no machine of the Ray cluster has {place.cpus:g} CPUs and {place.memory_bytes:,} bytes of memory for one "
            "part: lower execution.ray_cpus or ray_memory_bytes, or add machines"
        )
    wanted = place.workers or total
    machines = tuple(sorted({str(node["NodeManagerHostname"]) for node in nodes}))
    head = str(ray.get_runtime_context().gcs_address)
    return ClusterCapacity(head, machines, wanted, min(wanted, max(map(slots, nodes))))


def explain_error(error: Exception, place: RayCluster) -> PairmillError:
    """Why a cluster cannot be used, with the remedy."""
    if isinstance(error, PairmillError):
        return error
    said = redact(str(error)).strip()
    if "ersion mismatch" in said:
        return ConfigError(f"the Ray cluster at {place.address} has other versions than this machine: {said}")
    return ServiceError(f"Ray at {place.address} cannot be used ({type(error).__name__}): {said}")


# In a worker of the cluster -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Caller:
    """Who asks for a call."""

    code: str
    """Digest of its code."""
    folder: str
    """Its working folder, in which relative paths of a config begin."""
    store_uri: str


def run_call(
    function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any], asker: Caller
) -> tuple[str, Any]:
    """Make a call; ("made", what it returned) or ("failed", the error)."""
    try:
        guard_process()
        check_worker(asker)
        if Path(asker.folder).is_dir():
            os.chdir(asker.folder)
        return "made", function(*arguments, **named)
    except PairmillError as error:
        return "failed", scrub(error)
    except Exception as error:  # a bug: neither its place, nor every class of a library, would survive the way back
        told = error if type(error).__module__ == "builtins" else RuntimeError(f"{type(error).__name__}: {error}")
        told.add_note(f"on {socket.gethostname()}:\n{traceback.format_exc()}")
        return "failed", scrub(told.with_traceback(None))


def check_worker(asker: Caller) -> None:
    """Raise ConfigError where this machine has other code than who asks, or does not see a store in a folder."""
    if code_digest() != asker.code:
        raise ConfigError(f"{socket.gethostname()} has other code of pairmill, in {CHECKOUT}. {SAME_EVERYWHERE}")
    store = open_store(asker.store_uri)
    if isinstance(store, FolderStore) and not store.root.is_dir():
        raise ConfigError(
            f"{socket.gethostname()} has no folder {store.root}: each machine of the Ray cluster must see the store there"
        )


@lru_cache(maxsize=1)
def code_digest() -> str:
    """sha256 over the Python files that make parts, and their names."""
    digest = hashlib.sha256()
    for file in sorted(file for name in PACKAGES for file in (CHECKOUT / name).rglob("*.py")):
        digest.update(f"{file.relative_to(CHECKOUT)}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()
