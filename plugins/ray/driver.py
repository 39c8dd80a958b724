"""Connect a process to a Ray cluster for a stage (plugins/ray/pool.py), and run calls in its workers.

The process submits calls as Ray tasks, and sends back which have begun and their results, in any order. A call is a
generator, whose first value says that it has begun. Its error is a value to Ray, so that only a dead worker or node counts
as a failure. What follows is decided by tasks.engine.map_parts: Ray's own retries would count both alike.
"""

import importlib
import logging
import os
import re
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from dataops.errors import ConfigError, PairmillError, ServiceError
from dataops.home import CHECKOUT, code_digest
from dataops.process import exit_with_parent
from dataops.redaction import redact, scrub
from dataops.store import FolderStore, open_store
from plugins.ray.cluster import ClusterCapacity, RayCluster, import_ray
from tasks.engine.context import MachineLost
from tasks.engine.process_guard import guard_process

SAME_EVERYWHERE = "Each machine of the cluster needs this commit, and `ray start` from an environment that has it"
"""Remedy if a worker cannot run the calls."""
TICK_SECONDS, LOOK_SECONDS = 0.1, 5.0
"""Time between two looks for messages and results, and for machines that joined or left."""
GROW_SECONDS = 1800.0
"""Time in which a cluster that is scaled to zero must have a machine."""


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


class _Driver:
    def __init__(self, pipe: Connection, cluster: RayCluster, store_uri: str):
        ray = import_ray()
        self.ray, self.pipe, self.cluster = ray, pipe, cluster
        # The output of workers stays in the cluster's logs, apart from that of this machine.
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.WARNING, namespace="pairmill")
        self.capacity = self._wait_for_capacity()
        options: dict[str, Any] = {"num_cpus": cluster.cpus, "max_retries": 0, "num_returns": "streaming"}
        options["scheduling_strategy"] = (
            "SPREAD"  # the last attempts of tasks whose workers died run alone on a machine
        )
        if cluster.memory_bytes:
            options["memory"] = cluster.memory_bytes
        self.remote = ray.remote(**options)(_make_call)
        self.caller = Caller(code_digest(), str(Path.cwd()), store_uri)
        self.calls: dict[Any, tuple[int, str]] = {}
        self.looked = time.monotonic()

    def _wait_for_capacity(self) -> ClusterCapacity:
        """Return the capacity, once a cluster that is scaled to zero has a machine: a request lets it grow.

        Raises: ConfigError if the machines have less than a task needs; ServiceError if none comes.
        """
        request_resources = importlib.import_module("ray.autoscaler.sdk").request_resources
        until, asked = time.monotonic() + GROW_SECONDS, False
        while (capacity := compute_capacity(self.ray.nodes(), self.cluster, self._head())).slots == 0:
            if time.monotonic() > until:
                minutes = f"{GROW_SECONDS / 60:.0f} minutes"
                raise ServiceError(
                    f"the Ray cluster at {self.cluster.address} has no machine after {minutes}: see `ray status`"
                )
            if not asked:
                needs = {"CPU": self.cluster.cpus} | (
                    {"memory": self.cluster.memory_bytes} if self.cluster.memory_bytes else {}
                )
                request_resources(bundles=[needs] * (self.cluster.workers or 1))
                self._send(
                    "log", 0, f"the Ray cluster at {self.cluster.address} has no machine yet: waiting until it grows"
                )
                asked = True
            time.sleep(1)
        if asked:  # from now on, it grows with the tasks that wait
            request_resources(bundles=[])
        return capacity

    def _head(self) -> str:
        return str(self.ray.get_runtime_context().gcs_address)

    def run(self) -> None:
        """Start calls until the message `end`."""
        while True:
            while self.pipe.poll(0 if self.calls else TICK_SECONDS):
                kind, *message = self.pipe.recv()
                if kind == "end":
                    self.ray.shutdown()
                    return
                (self._start if kind == "call" else self._cancel)(*message)
            self._follow()
            if time.monotonic() - self.looked > LOOK_SECONDS:
                self.looked = time.monotonic()
                self._send("slots", 0, compute_capacity(self.ray.nodes(), self.cluster, "", growing=True).slots)

    def _start(self, number: int, label: str, work: tuple[Any, ...], again: bool) -> None:
        remote = self.remote
        if again and (memory := self.cluster.memory_bytes):
            remote = remote.options(memory=double_memory(memory, self.ray.nodes()))
        self.calls[remote.remote(*work, self.caller)] = number, label

    def _cancel(self, number: int) -> None:
        for call, (other, _) in list(self.calls.items()):
            if other == number:
                self.ray.cancel(call, force=True)
                del self.calls[call]

    def _follow(self) -> None:
        """Send what has become known of the calls."""
        calls = list(self.calls)
        if not calls or not self.ray.wait(calls, num_returns=1, timeout=TICK_SECONDS)[0]:
            return
        for call in self.ray.wait(calls, num_returns=len(calls), timeout=0)[0]:
            number, label = self.calls[call]
            try:
                kind, value = self.ray.get(next(call))
            except Exception as error:
                kind, value = "failed", self._explain(label, error)
            self._send(kind, number, value)
            if kind != "begun":
                del self.calls[call]

    def _explain(self, label: str, error: Exception) -> Exception:
        exceptions = self.ray.exceptions
        if isinstance(error, exceptions.RayTaskError):  # before run_call could catch it
            return ConfigError(f"{label}: a worker of Ray cannot run pairmill: {_last_line(error)}. {SAME_EVERYWHERE}")
        if isinstance(error, exceptions.NodeDiedError | exceptions.LocalRayletDiedError):
            return MachineLost(_first_line(error))
        self._send("log", 0, f"{label}: its worker on Ray died: {_first_line(error)}")
        return BrokenProcessPool()

    def _send(self, kind: str, number: int, value: Any) -> None:
        self.pipe.send((kind, number, value))


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {redact(str(error)).strip().splitlines()[0]}"


def _last_line(error: BaseException) -> str:
    return redact(str(error)).strip().splitlines()[-1]


def compute_capacity(
    found: Sequence[Mapping[str, Any]], cluster: RayCluster, head: str, *, growing: bool = False
) -> ClusterCapacity:
    """Return the capacity of a cluster with these nodes, as `ray.nodes()` lists them; 0 slots if it is scaled to zero.

    Args:
        growing: allow machines that are too small, since larger ones may come.

    Raises: ConfigError if no machine has the resources of one task, though some have cores.
    """
    nodes = [node for node in found if node["Alive"]]

    def slots(node: Mapping[str, Any]) -> int:
        tasks = node["Resources"].get("CPU", 0.0) / cluster.cpus
        if cluster.memory_bytes:
            tasks = min(tasks, node["Resources"].get("memory", 0.0) / cluster.memory_bytes)
        return int(tasks)

    total = sum(map(slots, nodes))
    if total == 0 and not (growing or cluster.workers) and any(node["Resources"].get("CPU") for node in nodes):
        raise ConfigError(
            f"no machine of the Ray cluster has {cluster.cpus:g} CPUs and {cluster.memory_bytes:,} bytes of memory for one "
            "part: lower execution.ray_cpus or ray_memory_bytes, or set execution.workers if the cluster grows"
        )
    machines = tuple(sorted({str(node["NodeManagerHostname"]) for node in nodes}))
    limit = min(cluster.workers or total, total)
    return ClusterCapacity(head, machines, limit, min(limit, max(map(slots, nodes), default=0)))


def double_memory(memory: int, found: Sequence[Mapping[str, Any]]) -> int:
    """Return twice the memory, or what the largest node has: a task that needs more would wait for ever."""
    largest = max((node["Resources"].get("memory", 0.0) for node in found if node["Alive"]), default=0.0)
    return max(memory, min(2 * memory, int(largest)))


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


def _make_call(*work: Any) -> Iterator[tuple[str, Any]]:
    yield "begun", None
    yield run_call(*work)


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
        plain = (
            MemoryError(str(error)) if isinstance(error, MemoryError) else plain
        )  # numpy and Arrow have classes of it
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
