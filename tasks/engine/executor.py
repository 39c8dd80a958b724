"""Where the tasks of stages run: `execution.engine` names an executor, of which the core has `local`.

An executor is registered as an `Engine` in the group `pairmill.executors` (dataops/plugins.py).
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor as Pool
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel

from dataops.kernels.without_package import skip_pandas
from dataops.process import exit_with_parent
from dataops.store import Store
from tasks.engine.grace import block_interrupts
from tasks.engine.process_guard import guard_process


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


class _WorkerPool(ProcessPoolExecutor):
    """Its workers do not get Ctrl-C, which a terminal sends to all processes of a command: their parent ends them."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        with block_interrupts():  # a submit may start a worker
            return super().submit(fn, *args, **kwargs)


@contextmanager
def worker_pool(number: int, end_seconds: float = 10.0) -> Iterator[ProcessPoolExecutor]:
    """Return a pool of worker processes, which have ended at the end of the `with`.

    The executor's own shutdown waits without limit: a worker that was killed while it read its queue holds the lock that
    the others need to read it.
    """
    before = set(multiprocessing.active_children())
    spawn = multiprocessing.get_context("spawn")
    pool = _WorkerPool(number, spawn, initializer=start_worker, initargs=(os.getpid(),))
    grace = end_seconds
    try:
        yield pool
    except BaseException as error:
        if not isinstance(error, Exception):  # Ctrl-C or SIGTERM: parts are written atomically, so nothing is damaged
            grace = 0.0
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        deadline = time.monotonic() + grace
        for worker in set(multiprocessing.active_children()) - before:
            worker.join(max(0.0, deadline - time.monotonic()))
            if worker.is_alive():
                worker.kill()


def start_worker(parent: int) -> None:
    """Prepare a new worker: it ends with its parent, also when that is killed, logs no secret, and loads no pandas."""
    guard_process()
    exit_with_parent(parent)
    skip_pandas()
