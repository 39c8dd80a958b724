"""Describe where a stage runs: its store, workers and progress display."""

import multiprocessing
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from concurrent.futures import Executor as Pool
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from pydantic import BaseModel

from dataops.kernels.without_package import skip_pandas
from dataops.process import count_cores, exit_with_parent
from dataops.store import Store
from tasks.engine.process_guard import block_interrupts, guard_process


class MachineLost(Exception):
    """The machine of a call was lost, which a pool says in the call's future: the task runs again, as the same attempt."""


class TaskPool(Pool):
    """Workers for the tasks of maps.

    Its futures are `running()` once a worker has begun their call. They raise BrokenProcessPool if that worker died,
    with the reason if the pool has it, and MachineLost if its machine did.
    """

    slots: int | None = None
    """Number of tasks at a time now, where a cluster grows and shrinks."""

    def submit_again(self, fn: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Submit a call whose worker died, with more memory where a pool can request that."""
        return self.submit(fn, *args)

    def kill(self, future: Future[Any]) -> None:
        """End a call, also one that has begun. Its future ends soon, mostly with BrokenProcessPool."""
        raise NotImplementedError


def begin(future: Future[Any]) -> bool:
    """Mark a future as running, which it may be already; return False if it is cancelled."""
    return future.running() or future.set_running_or_notify_cancel()


class Clock:
    """The time of a map. A simulation of a cluster has one of its own."""

    def now(self) -> float:
        """Return the time in seconds since some moment."""
        return time.monotonic()

    def next_ended(self, ended: SimpleQueue[Future[Any]], seconds: float) -> Future[Any] | None:
        """Return the next future of the queue, or None if none ends within the time."""
        try:
            return ended.get(timeout=seconds)
        except Empty:
            return None


@dataclass(frozen=True)
class TaskLimits:
    """When a task takes too long. Times are in seconds."""

    timeout: float | None = None
    """An attempt that takes longer is ended, as if its worker had died."""
    multiple: float = 4.0
    """A task that takes so many times the median of its like, by weight, gets a second copy where a worker is free."""
    least: float = 30.0
    """A task gets no copy before."""
    share: float = 0.75
    """Share of a map's tasks that must be finished before a task gets a copy."""
    pause: float = 1.0
    """Seconds between two attempts of a task with a retryable error, times the number of failed ones."""


@dataclass(frozen=True)
class OpenWorkers:
    """Workers that are ready for tasks."""

    pool: Pool
    number: int
    """Number of tasks at a time."""
    per_machine: int | None = None
    """Number of workers that share the memory of one machine; None: all."""


class Executor(Protocol):
    """The workers of one run, with their settings. It can be sent to another process."""

    @property
    def shares_disk(self) -> bool:
        """True if the workers see the local disk of this process."""
        ...

    def open(self, workers: int, store: Store) -> AbstractContextManager[OpenWorkers]:
        """Start workers, or connect to them, inside a `with`.

        Args:
            workers: number of tasks at a time on this machine; a cluster has its own number.
            store: store that all workers must see.

        Raises: ConfigError if they cannot be used; ServiceError (75) if a cluster does not answer.
        """
        ...


@dataclass(frozen=True)
class Finding:
    """What `pairmill doctor` prints about an executor."""

    ok: bool
    detail: str
    remedy: str = ""


@dataclass(frozen=True)
class Engine:
    """An executor that a config can choose.

    Its functions get the `[execution]` table, which has the fields of `config`.
    """

    create: Callable[[Any], Executor]
    config: type[BaseModel] | None = None
    """Further keys of `[execution]`; their names begin with that of the executor."""
    table: str | None = None
    missing: Callable[[], str | None] = lambda: None
    """Returns what is not installed, with the remedy."""
    train: Callable[[Executor, Any, Any], Any] | None = None
    """Makes the snapshot of a training elsewhere (`train.launch`), from its Plan and the Context; returns the Manifest."""
    diagnose: Callable[[Mapping[str, Any]], Finding] = lambda execution: Finding(True, "nothing to check")
    """Checks for `pairmill doctor` whether the executor can be used with the table's values."""


@dataclass(frozen=True)
class LocalExecutor:
    """Processes of this machine."""

    shares_disk: bool = True
    end_seconds: float = 10.0
    """Seconds that idle workers may take to end, before they are killed."""

    @contextmanager
    def open(self, workers: int, store: Store) -> Iterator[OpenWorkers]:
        """Start a pool of processes."""
        with worker_pool(workers, self.end_seconds) as pool:
            yield OpenWorkers(pool, workers)


LOCAL = Engine(lambda execution: LocalExecutor())


class WorkerPool(TaskPool):
    """Worker processes of this machine. Each has one task at a time; if one dies, the others and their tasks go on.

    A ProcessPoolExecutor is lost with any of its processes, and with it the tasks of all; so this has one for each worker.
    Workers do not get Ctrl-C, which a terminal sends to all processes of a command: their parent ends them.
    """

    def __init__(self, number: int):
        self._number = number
        self._workers, self._idle = list[ProcessPoolExecutor](), list[ProcessPoolExecutor]()
        self._waiting = deque[tuple[Future[Any], Callable[[], Any]]]()
        self._pids = dict[ProcessPoolExecutor, Future[int]]()
        self._at = dict[Future[Any], ProcessPoolExecutor]()  # workers of the calls that have begun
        self._lock = threading.Lock()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit a call. Its future raises BrokenProcessPool if the worker that executed it died."""
        future: Future[Any] = Future()
        with self._lock:
            self._waiting.append((future, partial(fn, *args, **kwargs)))
        self._start()
        return future

    def _start(self) -> None:
        """Give each worker that has nothing to do the next call."""
        while True:
            with self._lock:
                if not self._waiting or not (self._idle or len(self._workers) < self._number):
                    return
                future, call = self._waiting.popleft()
                if not future.set_running_or_notify_cancel():
                    continue
                worker, started = self._submit(call)
                self._at[future] = worker
            started.add_done_callback(partial(self._end, worker, future))

    def _submit(self, call: Callable[[], Any]) -> tuple[ProcessPoolExecutor, Future[Any]]:
        with block_interrupts():  # it may start a process
            if self._idle:
                worker = self._idle.pop()
                try:
                    return worker, worker.submit(call)
                except BrokenProcessPool:  # it died while idle
                    self._remove(worker)
            spawn = multiprocessing.get_context("spawn")
            worker = ProcessPoolExecutor(1, spawn, initializer=start_worker, initargs=(os.getpid(),))
            self._workers.append(worker)
            self._pids[worker] = worker.submit(os.getpid)
            return worker, worker.submit(call)

    def _remove(self, worker: ProcessPoolExecutor) -> None:
        self._workers.remove(worker)
        del self._pids[worker]

    def _end(self, worker: ProcessPoolExecutor, future: Future[Any], ended: Future[Any]) -> None:
        error = ended.exception() if not ended.cancelled() else CancelledError()
        with self._lock:
            del self._at[future]
            if isinstance(error, BrokenProcessPool):
                self._remove(worker)
                error = BrokenProcessPool()  # its text names no reason
            else:
                self._idle.append(worker)
        self._start()
        if error is None:
            future.set_result(ended.result())
        else:
            future.set_exception(error)

    def kill(self, future: Future[Any]) -> None:
        """Cancel a call, or kill the worker that has begun it."""
        with self._lock, suppress(BrokenProcessPool):  # with the lock, the worker is given no other call meanwhile
            if future.cancel() or (worker := self._at.get(future)) is None:
                return
            pid = self._pids[worker].result()
            for process in multiprocessing.active_children():
                if process.pid == pid:
                    process.kill()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the workers end, once they have done what they are at; calls that wait are cancelled."""
        with self._lock:
            workers, waiting = list(self._workers), list(self._waiting)
            self._waiting.clear()
        for future, _ in waiting:
            future.cancel()
        for worker in workers:
            worker.shutdown(wait, cancel_futures=cancel_futures)


@contextmanager
def worker_pool(number: int, end_seconds: float = 10.0) -> Iterator[Pool]:
    """Return a pool of worker processes, which have ended at the end of the `with`.

    The executor's own shutdown waits without limit for a worker that is stopped.
    """
    before = set(multiprocessing.active_children())
    pool = WorkerPool(number)
    try:
        yield pool
    except BaseException as error:
        if not isinstance(error, Exception):  # Ctrl-C or SIGTERM: parts are written atomically, so nothing is damaged
            end_seconds = 0.0
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        deadline = time.monotonic() + end_seconds
        for worker in set(multiprocessing.active_children()) - before:
            worker.join(max(0.0, deadline - time.monotonic()))
            if worker.is_alive():
                worker.kill()


def start_worker(parent: int) -> None:
    """Prepare a new worker: it ends with its parent, also when that is killed, logs no secret, and loads no pandas."""
    guard_process()
    exit_with_parent(parent)
    skip_pandas()


READ = re.compile(r"\bthe (?:pretrained network|model) reads \w+: [\d,]+(?:% of [\d,]+)?")
"""Line of a job about what it has read so far (training/progress.py)."""
IS_PROGRESS = "is_progress"
"""Attribute of a log record that repeats what the progress shows: consoles leave it out."""

Progress = Callable[[float, int, str], None]
"""Called with how much is done (a running task counts by its share), how much there is, and a line about it.

What is counted depends on the stage: rows, files, steps or tasks (flows.listeners.progress)."""


def _ignore(*arguments: object) -> None:
    """Do nothing. A function of a module can be sent to another process."""


@dataclass(frozen=True)
class LeaseTimes:
    """Times of a lease (tasks/engine/lease.py), in seconds."""

    beat: float = 10.0
    stale: float = 60.0
    poll: float = 1.0
    orphan: float = 0.5
    """After the end of a holder on this machine: its workers end within 0.25 s (dataops/process.py)."""


LEASE_TIMES = LeaseTimes()


@dataclass(frozen=True)
class Context:
    """Environment of a stage. Nothing in it may change the output."""

    store: Store
    home: Path
    """Local folder of job folders and caches."""
    workers: int = field(default_factory=count_cores)
    progress: Progress = _ignore
    stopped: Callable[[BaseException], None] = _ignore
    """Called when something stops the stage, such as SIGTERM, while its job still writes a checkpoint."""
    verify: bool = False
    """Compare the sha256 of every part before a snapshot is reused."""
    run_id: str | None = None
    run_name: str = "pairmill"
    flow_run_id: str | None = None
    flow_run_url: str | None = None
    run_config: Mapping[str, Any] = field(default_factory=dict)
    """Config of the whole run, for the model registry."""
    executor: Executor = field(default_factory=LocalExecutor)
    """Workers that execute the tasks of stages."""
    workers_per_machine: int | None = None
    """Number of workers that share the memory of one machine; None: all workers."""
    pool: Pool | None = None
    """Workers that all maps of a stage share (tasks.engine.map_parts.shared_workers); None: each map starts its own."""
    lease_times: LeaseTimes = LEASE_TIMES
    task_limits: TaskLimits = field(default_factory=TaskLimits)
    clock: Clock = field(default_factory=Clock)
    inline_rows: int = 1 << 15
    """An exchange of at most so many rows runs in this process: workers would take longer to start."""

    def without_progress(self) -> "Context":
        """Return the same context without its caller's functions, which no other process can have."""
        return replace(self, progress=_ignore, stopped=_ignore)
