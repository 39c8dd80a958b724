"""Connect a process to a Ray cluster for a stage (plugins/ray/pool.py), and run calls in its workers.

The process submits calls as Ray tasks and sends their results back, in any order. The error of a call is a value to Ray, so
that only a dead worker or node counts as a failure: Ray runs such a call again on another one, `max_retries` times.
"""

import logging
import os
import re
import signal
import socket
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from dataops.errors import ConfigError, JobFailed, PairmillError, ServiceError
from dataops.home import CHECKOUT, code_digest
from dataops.process import exit_with_parent
from dataops.redaction import redact, scrub
from dataops.store import FolderStore, open_store
from plugins.ray.cluster import ClusterCapacity, RayCluster, import_ray
from tasks.engine.process_guard import guard_process

SAME_EVERYWHERE = "Each machine of the cluster needs this commit, and `ray start` from an environment that has it"
"""Remedy if a worker cannot run the calls."""


def run_driver(pipe: Connection, cluster: RayCluster, store_uri: str, parent: int) -> None:
    """Drive the cluster for the process `parent`, until it sends `end` or has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C also reaches the parent, which then sends `end`
    guard_process()
    exit_with_parent(parent)
    try:
        driver = _Driver(pipe, cluster, store_uri)
    except Exception as error:
        pipe.send(explain_error(error, cluster))
        return
    pipe.send(driver.capacity)
    driver.run()


@dataclass(frozen=True)
class _Call:
    number: int
    label: str
    """Name of the task, for messages."""
    work: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
    """Function, positional and keyword arguments."""
    tries: int = 1


class _Driver:
    def __init__(self, pipe: Connection, cluster: RayCluster, store_uri: str):
        ray = import_ray()
        self.ray, self.pipe, self.cluster = ray, pipe, cluster
        # The output of workers stays in the cluster's logs, apart from that of this machine.
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.WARNING, namespace="pairmill")
        self.capacity = _capacity(ray, cluster)
        options: dict[str, Any] = {"num_cpus": cluster.cpus, "max_retries": 0}
        if cluster.memory_bytes:
            options["memory"] = cluster.memory_bytes
        self.remote = ray.remote(**options)(run_call)
        self.caller = Caller(code_digest(), str(Path.cwd()), store_uri)
        self.running: dict[int, Any] = {}
        self.lock = threading.Lock()

    def run(self) -> None:
        """Start calls until the message `end`."""
        while (message := self.pipe.recv())[0] != "end":
            if message[0] == "call":
                self._start(_Call(*message[1:]))
            elif (ref := self.running.pop(message[1], None)) is not None:
                self.ray.cancel(ref)
        self.ray.shutdown()

    def _start(self, call: _Call) -> None:
        ref = self.remote.remote(*call.work, self.caller)
        self.running[call.number] = ref
        ref.future().add_done_callback(lambda future: self._ended(call, future))

    def _ended(self, call: _Call, future: Any) -> None:
        if self.running.pop(call.number, None) is None:  # cancelled
            return
        error = future.exception()
        if error is None:
            kind, value = future.result()
            self._send(kind, call.number, value)
        elif isinstance(error, self.ray.exceptions.RayTaskError):  # before run_call could catch it
            msg = f"{call.label}: a worker of Ray cannot run pairmill: {_last_line(error)}. {SAME_EVERYWHERE}"
            self._send("failed", call.number, ConfigError(msg))
        elif call.tries <= self.cluster.max_retries:
            lost = f"{call.label}: its worker on Ray died (try {call.tries}), it runs again: {_first_line(error)}"
            self._send("log", call.number, lost)
            # In another thread: this one is Ray's.
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


def _capacity(ray: Any, cluster: RayCluster) -> ClusterCapacity:
    """Return the capacity of the cluster now. Raises: ConfigError if no machine has the resources of one task."""
    nodes = [node for node in ray.nodes() if node["Alive"]]

    def slots(node: dict[str, Any]) -> int:
        tasks = node["Resources"].get("CPU", 0.0) / cluster.cpus
        if cluster.memory_bytes:
            tasks = min(tasks, node["Resources"].get("memory", 0.0) / cluster.memory_bytes)
        return int(tasks)

    total = sum(map(slots, nodes))
    if total == 0:
        raise ConfigError(
            f"no machine of the Ray cluster has {cluster.cpus:g} CPUs and {cluster.memory_bytes:,} bytes of memory for one "
            "part: lower execution.ray_cpus or ray_memory_bytes, or add machines"
        )
    limit = cluster.workers or total
    machines = tuple(sorted({str(node["NodeManagerHostname"]) for node in nodes}))
    head = str(ray.get_runtime_context().gcs_address)
    return ClusterCapacity(head, machines, limit, min(limit, max(map(slots, nodes))))


def explain_error(error: Exception, cluster: RayCluster) -> PairmillError:
    """Return the error with the reason why a cluster cannot be used, and the remedy."""
    if isinstance(error, PairmillError):
        return error
    text = redact(str(error)).strip()
    if "ersion mismatch" in text:
        return ConfigError(f"the Ray cluster at {cluster.address} has other versions than this machine: {text}")
    if type(error).__name__ == "AuthenticationError" or re.search("authentication token|nauthenticated", text):
        return ConfigError(
            f"the Ray cluster at {cluster.address} refuses this machine: {text}\nSet RAY_AUTH_MODE=token here too, and the"
            " cluster's token in RAY_AUTH_TOKEN, in the file that RAY_AUTH_TOKEN_PATH names, or in ~/.ray/auth_token"
        )
    return ServiceError(f"Ray at {cluster.address} cannot be used ({type(error).__name__}): {text}")


# In a worker of the cluster -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Caller:
    """The process that submits calls."""

    code: str
    """Digest of its code (code_digest)."""
    folder: str
    """Its working folder, from which relative paths of a config start."""
    store_uri: str


def run_call(
    function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any], caller: Caller
) -> tuple[str, Any]:
    """Run a call. Return ("result", its value) or ("failed", its error)."""
    try:
        guard_process()
        check_worker(caller)
        if Path(caller.folder).is_dir():
            os.chdir(caller.folder)
        return "result", function(*arguments, **named)
    except PairmillError as error:
        return "failed", scrub(error)
    except Exception as error:  # a bug: its traceback, and classes of libraries, may not be picklable
        plain = error if type(error).__module__ == "builtins" else RuntimeError(f"{type(error).__name__}: {error}")
        plain.add_note(f"on {socket.gethostname()}:\n{traceback.format_exc()}")
        return "failed", scrub(plain.with_traceback(None))


def check_worker(caller: Caller) -> None:
    """Raise ConfigError if this machine has other code than the caller, or does not see the folder of the store."""
    if code_digest() != caller.code:
        raise ConfigError(f"{socket.gethostname()} has other code of pairmill, in {CHECKOUT}. {SAME_EVERYWHERE}")
    store = open_store(caller.store_uri)
    if isinstance(store, FolderStore) and not store.root.is_dir():
        raise ConfigError(
            f"{socket.gethostname()} has no folder {store.root}: each machine of the Ray cluster must see the store there"
        )
