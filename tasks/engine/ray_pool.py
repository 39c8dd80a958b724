"""A cluster of Ray as a pool for the parts of a stage (`execution.engine = "ray"`): this process's side of it.

Ray itself is held by a process of its own (tasks/engine/ray_driver.py), started here and ended here: where a cluster's head dies,
Ray ends the process that is connected to it, and a run must outlive that to say so and to be tried again. What passes
between the two is a call and the record that it gave, a few kB a part; parts move through the store.
"""

import importlib.util
import logging
import multiprocessing
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from multiprocessing.context import SpawnProcess
from typing import Any

from dataops.errors import ConfigError, ServiceError
from dataops.store import FolderStore, Store
from tasks.engine.context import ClusterCapacity, RayCluster

logger = logging.getLogger(__name__)

REMEDY = "install it here and on each machine of the cluster: pip install -e '.[ray]'"
START_SECONDS = 90.0
"""How long a cluster may take to accept a driver."""
PROBE_SECONDS = 2.0
"""Between two looks at the head, and how long each may take."""
GONE_AFTER = 5
"""Looks in vain, one after the other, after which the head is taken for dead."""


class RayPool(Executor):
    """Runs calls as Ray tasks; `room` says how many at a time. Use `ray_pool`."""

    def __init__(self, process: Any, pipe: Any, room: ClusterCapacity):
        self.room = room
        self._process, self._pipe = process, pipe
        self._waiting: dict[int, Future[Any]] = {}
        self._lock, self._sending = threading.Lock(), threading.Lock()
        self._broken: str | None = None
        self._closed = threading.Event()
        self._next = 0
        for work in (self._receive, self._watch_head):
            threading.Thread(target=work, name=f"ray-pool{work.__name__}", daemon=True).start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """A call that some worker of the cluster makes. Raises: ServiceError when the cluster is lost."""
        future: Future[Any] = Future()
        with self._lock:
            if self._broken:
                raise ServiceError(self._broken)
            self._next += 1
            number = self._next
            self._waiting[number] = future
        future.add_done_callback(lambda done: self._send(("cancel", number)) if done.cancelled() else None)
        label = str(getattr(args[-1] if args else fn, "id", number))
        self._send(("call", number, label, (fn, args, kwargs)))
        return future

    def _send(self, message: tuple[Any, ...]) -> None:
        with self._sending, suppress(OSError):  # a driver that died is noticed by who reads its answers
            self._pipe.send(message)

    def _receive(self) -> None:
        try:
            while True:
                kind, number, value = self._pipe.recv()
                if kind == "told":
                    logger.warning("%s", value)
                    continue
                with self._lock:
                    future = self._waiting.pop(number, None)
                if future is not None and future.set_running_or_notify_cancel():
                    (future.set_result if kind == "made" else future.set_exception)(value)
        except (EOFError, OSError):
            self._break("its driver on this machine died")

    def _watch_head(self) -> None:
        missed = 0
        while not self._closed.wait(PROBE_SECONDS):
            missed = 0 if is_listening(self.room.head) else missed + 1
            if missed >= GONE_AFTER:
                self._break("its head does not answer any more")
                self._process.kill()
                return

    def _break(self, why: str) -> None:
        with self._lock:
            waiting, self._waiting = list(self._waiting.values()), {}
            if self._closed.is_set() or self._broken:
                return
            self._broken = (
                f"the Ray cluster at {self.room.head} is lost: {why}. Finished parts are in the store: start the head "
                "again (ray start --head), then `pairmill rerun` goes on at the first missing part"
            )
        for future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(ServiceError(self._broken))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the driver, and with it whatever still runs for it in the cluster."""
        self._closed.set()
        self._send(("end",))
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._pipe.close()


def check_cluster(place: RayCluster) -> None:
    """Raises: ConfigError when Ray is missing; ServiceError (75) when no cluster answers."""
    if missing := missing_ray():
        raise ConfigError(missing)
    if place.address != "auto" and not is_listening(place.address):
        raise ServiceError(
            f"no Ray cluster answers at {place.address}: start it (ray start --head), or mend execution.ray_address"
        )


def start_ray_process(drive: Callable[..., None], place: RayCluster, order: Any, name: str) -> tuple[SpawnProcess, Any]:
    """A process of its own that holds Ray, and our end of a pipe to it; it calls `drive(pipe, place, order, our pid)`."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=drive, args=(theirs, place, order, os.getpid()), name=name, daemon=True)
    process.start()
    theirs.close()
    return process, ours


@contextmanager
def ray_pool(place: RayCluster, store: Store) -> Iterator[RayPool]:
    """The cluster as a pool, until the end of the `with`.

    Raises: ConfigError when Ray is missing, its versions do not fit, or the cluster's machines cannot all see the store;
    ServiceError (75) when no cluster answers.
    """
    from tasks.engine.ray_driver import run_driver

    check_cluster(place)
    process, ours = start_ray_process(run_driver, place, store.uri, "ray-driver")
    try:
        room = _welcome(ours, place)
        check_store(store, room, place)
    except BaseException:
        process.kill()
        raise
    logger.info("Ray at %s: %d machines, %d parts at a time", room.head, len(room.machines), room.slots)
    pool = RayPool(process, ours, room)
    try:
        yield pool
    finally:
        pool.shutdown()


def _welcome(pipe: Any, place: RayCluster) -> ClusterCapacity:
    """The driver's first words. Raises: what it could not do."""
    answer: Any = None
    with suppress(EOFError, OSError):
        answer = pipe.recv() if pipe.poll(START_SECONDS) else None
    if isinstance(answer, BaseException):
        raise answer
    if answer is None:
        raise ServiceError(
            f"Ray at {place.address} accepted no driver within {START_SECONDS:.0f} s: see `ray status` on its head"
        )
    return answer


def missing_ray() -> str | None:
    """What is to be done before Ray can be used; None where it is installed."""
    return None if importlib.util.find_spec("ray") else f"Ray is not installed: {REMEDY}"


def check_store(store: Store, room: ClusterCapacity, place: RayCluster) -> None:
    """Raise ConfigError where the store is a folder, the cluster has several machines, and nobody said that all see it."""
    if isinstance(store, FolderStore) and len(room.machines) > 1 and not place.shared_store:
        raise ConfigError(
            f"store.uri is the folder {store.root}, and the Ray cluster has {len(room.machines)} machines "
            f"({', '.join(room.machines[:5])}): use s3://bucket/prefix, or a folder that each of them sees at this path "
            "and execution.ray_shared_store = true"
        )


def is_listening(address: str) -> bool:
    """Whether somebody listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_SECONDS):
            return True
    except (OSError, ValueError):
        return False
