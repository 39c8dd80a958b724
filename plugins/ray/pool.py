"""Use a Ray cluster as the pool of a stage (`execution.engine = "ray"`), from the process of the run.

A separate process holds Ray (plugins/ray/driver.py): when the head of a cluster dies, Ray ends the process that is
connected to it, and a run must survive that to report and retry. The two exchange calls and records, a few kB per task;
parts are exchanged through the store.
"""

import logging
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing.context import SpawnProcess
from typing import Any

from dataops.errors import ConfigError, ServiceError
from dataops.formatting import format_quantity
from dataops.messages.waiting import waiting
from dataops.store import FolderStore, Store
from plugins.ray.cluster import PROBE_SECONDS, ClusterCapacity, RayCluster, is_listening, missing_ray
from tasks.engine.context import TaskPool, begin
from tasks.engine.process_guard import block_interrupts

logger = logging.getLogger(__name__)

START_SECONDS = 90.0
"""Seconds that a cluster may take to accept a driver."""
MAX_MISSED_PROBES = 5
"""Failed probes in a row after which the head counts as dead."""


class RayPool(TaskPool):
    """Runs calls as Ray tasks, `capacity.slots` at a time. Created by `ray_pool`."""

    def __init__(self, process: Any, pipe: Any, capacity: ClusterCapacity):
        self.capacity, self.slots = capacity, capacity.slots
        self._process, self._pipe = process, pipe
        self._waiting: dict[int, Future[Any]] = {}
        self._lock, self._sending = threading.Lock(), threading.Lock()
        self._broken: str | None = None
        self._closed = threading.Event()
        self._next = 0
        for work in (self._receive, self._watch_head):
            threading.Thread(target=work, name=f"ray-pool{work.__name__}", daemon=True).start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit a call to a worker of the cluster. Raises: ServiceError if the cluster is lost."""
        return self._submit((fn, args, kwargs), again=False)

    def submit_again(self, fn: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Submit a call whose worker died, with twice the memory if Ray counts it. Raises: as `submit`."""
        return self._submit((fn, args, {}), again=True)

    def _submit(self, work: tuple[Any, ...], *, again: bool) -> Future[Any]:
        future: Future[Any] = Future()
        with self._lock:
            if self._broken:
                raise ServiceError(self._broken)
            self._next += 1
            number = self._next
            self._waiting[number] = future
        future.add_done_callback(lambda done: self._send(("cancel", number)) if done.cancelled() else None)
        function, arguments, _ = work
        label = str(getattr(arguments[-1] if arguments else function, "id", number))
        self._send(("call", number, label, work, again))
        return future

    def _send(self, message: tuple[Any, ...]) -> None:
        with self._sending, suppress(OSError):  # _receive notices that the driver died
            self._pipe.send(message)

    def _receive(self) -> None:
        try:
            while True:
                kind, number, value = self._pipe.recv()
                if kind == "log":
                    logger.warning("%s", value)
                    continue
                if kind == "slots":
                    self.slots = max(1, value)
                    continue
                with self._lock:
                    future = self._waiting.get(number) if kind == "begun" else self._waiting.pop(number, None)
                if future is not None and begin(future) and kind != "begun":
                    (future.set_result if kind == "result" else future.set_exception)(value)
        except (EOFError, OSError):
            self._break("its driver on this machine died")

    def _watch_head(self) -> None:
        missed = 0
        while not self._closed.wait(PROBE_SECONDS):
            missed = 0 if is_listening(self.capacity.head) else missed + 1
            if missed >= MAX_MISSED_PROBES:
                self._break("its head does not answer")
                self._process.kill()
                return

    def _break(self, why: str) -> None:
        with self._lock:
            waiting, self._waiting = list(self._waiting.values()), {}
            if self._closed.is_set() or self._broken:
                return
            self._broken = (
                f"the Ray cluster at {self.capacity.head} is lost: {why}. Finished parts are in the store: start the head "
                "again (ray start --head), then `pairmill rerun` continues at the first missing part"
            )
        for future in waiting:
            if begin(future):
                future.set_exception(ServiceError(self._broken))

    def kill(self, future: Future[Any]) -> None:
        """Cancel a call, or kill the worker that has begun it."""
        with self._lock:
            number = next((number for number, other in self._waiting.items() if other is future), None)
            if number is None or future.cancel():
                return
            del self._waiting[number]
        self._send(("cancel", number))
        future.set_exception(BrokenProcessPool())

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the driver, and all that the cluster still runs for it."""
        self._closed.set()
        self._send(("end",))
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._pipe.close()


def check_cluster(cluster: RayCluster) -> None:
    """Check that a cluster answers. Raises: ConfigError if Ray is not installed; ServiceError (75) if none answers."""
    if missing := missing_ray():
        raise ConfigError(missing)
    if cluster.address != "auto" and not is_listening(cluster.address):
        raise ServiceError(
            f"no Ray cluster answers at {cluster.address}: start it (ray start --head), or correct execution.ray_address"
        )


def start_ray_process(drive: Callable[..., None], cluster: RayCluster, job: Any, name: str) -> tuple[SpawnProcess, Any]:
    """Start a process that calls `drive(pipe, cluster, job, parent pid)`; return it and this process's end of the pipe."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=drive, args=(theirs, cluster, job, os.getpid()), name=name, daemon=True)
    with block_interrupts():  # it ends when the pipeline ends it, or has ended
        process.start()
    theirs.close()
    return process, ours


@contextmanager
def ray_pool(cluster: RayCluster, store: Store) -> Iterator[RayPool]:
    """Use a cluster as a pool inside the `with`.

    Raises: ConfigError if Ray is not installed, its versions differ, or not all machines of the cluster see the store;
    ServiceError (75) if no cluster answers.
    """
    from plugins.ray.driver import run_driver

    check_cluster(cluster)
    process, ours = start_ray_process(run_driver, cluster, store.uri, "ray-driver")
    try:
        capacity = _receive_capacity(ours, cluster)
        check_store(store, capacity, cluster)
    except BaseException:
        process.kill()
        raise
    machines, parts = format_quantity(len(capacity.machines), "machine"), format_quantity(capacity.slots, "part")
    logger.info("Ray at %s: %s, %s at a time", capacity.head, machines, parts)
    pool = RayPool(process, ours, capacity)
    try:
        yield pool
    finally:
        pool.shutdown()


def _receive_capacity(pipe: Any, cluster: RayCluster) -> ClusterCapacity:
    """Return the first message of the driver. Raises: the error that it sends instead."""
    answer: Any = None
    with suppress(EOFError, OSError):
        answer = pipe.recv() if pipe.poll(START_SECONDS) else None
        if isinstance(answer, tuple):  # it is scaled to zero
            logger.warning("%s", answer[2])
            with waiting(str(answer[2])):
                answer = pipe.recv()
    if isinstance(answer, BaseException):
        raise answer
    if answer is None:
        raise ServiceError(
            f"Ray at {cluster.address} accepted no driver within {START_SECONDS:.0f} s: see `ray status` on its head"
        )
    assert isinstance(answer, ClusterCapacity)
    return answer


def check_store(store: Store, capacity: ClusterCapacity, cluster: RayCluster) -> None:
    """Raise ConfigError if the store is a folder, the cluster has several machines, and `shared_store` is not set."""
    if isinstance(store, FolderStore) and len(capacity.machines) > 1 and not cluster.shared_store:
        raise ConfigError(
            f"store.uri is the folder {store.root}, and the Ray cluster has {len(capacity.machines)} machines "
            f"({', '.join(capacity.machines[:5])}): use s3://bucket/prefix, or a folder that each of them sees at this "
            "path and execution.ray_shared_store = true"
        )
