"""Map a function over the tasks of a stage, in worker processes or on Ray, and skip the tasks that are finished.

A task is a value with an `id`. The function gets a Draft and the task, writes parts through the draft and returns a Record.
Each task writes its own parts, so the output does not depend on workers and order. Stages start no workers elsewhere;
`Context.ray` decides which pool is used.
"""

import logging
import multiprocessing
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from queue import SimpleQueue
from typing import Protocol, TypeVar

from dataops.errors import JobFailed, LeaseLost, PairmillError, ServiceError, StorageError
from dataops.formatting import format_counts
from dataops.snapshot import Draft, Fence, Record
from dataops.storage.base import DISK_FULL
from dataops.store import open_store
from tasks.engine.context import Context
from tasks.engine.process_guard import guard_process
from tasks.engine.ray_pool import ray_pool
from training.process import exit_with_parent

logger = logging.getLogger(__name__)

ATTEMPTS = 3
"""Attempts of a task whose error is retryable."""
WAITING = 3
"""Tasks per worker that are submitted ahead, so that no worker waits for the next one."""
_END_SECONDS = 10.0
"""Seconds that idle workers may take to end."""


class Task(Protocol):
    """A picklable value. Its `id` names its record and is unique in the stage."""

    @property
    def id(self) -> str:
        """For example `part-00017`."""
        ...


T = TypeVar("T", bound=Task)
PartFunction = Callable[[Draft, T], Record]


def map_parts(
    function: PartFunction[T],
    tasks: Sequence[T],
    draft: Draft,
    context: Context,
    format_record: Callable[[Record], str] | None = None,
) -> list[Record]:
    """Return the record of each task, in the order of `tasks`. Finished tasks are not executed again.

    Args:
        format_record: the text that progress shows for a finished task; its counts by default.

    Raises: the error of the first task that failed, after ATTEMPTS attempts if it is retryable; JobFailed (75) if a worker
    process died (killed, or out of memory), on Ray more often than the config allows; ServiceError (75) if the Ray cluster
    does not answer or is lost.
    """
    records = {task.id: record for task in tasks if (record := draft.done(task.id))}
    todo = [task for task in tasks if task.id not in records]
    if records:
        logger.info("%s %s: %d of %d tasks are finished already", draft.stage, draft.key, len(records), len(tasks))
    if todo and context.pool:
        _run(context.pool, function, todo, draft, context, records, len(tasks), format_record or _line)
    elif todo:
        with shared_workers(replace(context, workers=min(context.workers, len(todo)))) as sharing:
            assert sharing.pool is not None
            _run(sharing.pool, function, todo, draft, sharing, records, len(tasks), format_record or _line)
    return [records[task.id] for task in tasks]


@contextmanager
def shared_workers(context: Context) -> Iterator[Context]:
    """Return the context with workers that all maps in the `with` share: to start one takes seconds.

    No worker is started before the first map needs it, and none if the context has a pool. On Ray, the context gets the
    cluster's numbers of workers.
    """
    if context.pool:
        yield context
        return
    if context.ray is not None:
        with ray_pool(context.ray, context.store) as pool:
            capacity = pool.capacity
            yield replace(context, pool=pool, workers=capacity.slots, workers_per_machine=capacity.slots_per_machine)
        return
    with worker_pool(context.workers) as pool:
        yield replace(context, pool=pool)


@contextmanager
def worker_pool(number: int) -> Iterator[ProcessPoolExecutor]:
    """Return a pool of worker processes, which have ended at the end of the `with`.

    The executor's own shutdown waits without limit: a worker that was killed while it read its queue holds the lock that
    the others need to read it.
    """
    before = set(multiprocessing.active_children())
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(number, spawn, initializer=start_worker, initargs=(os.getpid(),))
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        deadline = time.monotonic() + _END_SECONDS
        for worker in set(multiprocessing.active_children()) - before:
            worker.join(max(0.0, deadline - time.monotonic()))
            if worker.is_alive():
                worker.kill()


def _run(
    pool: Executor,
    function: PartFunction[T],
    todo: Sequence[T],
    draft: Draft,
    context: Context,
    records: dict[str, Record],
    total: int,
    format_record: Callable[[Record], str],
) -> None:
    done: SimpleQueue[Future[Record]] = SimpleQueue()
    rest, running = iter(todo), dict[Future[Record], tuple[T, int]]()

    def submit(task: T, attempt: int = 1) -> None:
        future = pool.submit(_call, function, draft.store.uri, draft.stage, draft.key, draft.fence, task)
        running[future] = (task, attempt)
        future.add_done_callback(done.put)

    task = todo[0]
    try:
        for task in islice(rest, WAITING * context.workers):
            submit(task)
        while running:
            future = done.get()
            task, attempt = running.pop(future)
            error = future.exception()
            if error is None:
                records[task.id] = future.result()
                context.progress(len(records), total, f"{draft.stage} {format_record(records[task.id])}")
                for task in islice(rest, 1):
                    submit(task)
            elif _is_retryable(error) and attempt < ATTEMPTS:
                logger.warning("%s %s: attempt %d failed: %s", draft.stage, task.id, attempt, error)
                time.sleep(attempt)
                submit(task, attempt + 1)
            else:
                raise error
    except BrokenProcessPool as error:  # also of a worker that died while idle
        raise JobFailed(
            f"{draft.stage}: a worker process died (killed, or out of memory) at or near {task.id}", exit_code=75
        ) from error
    finally:
        wait([future for future in running if not future.cancel()])  # tasks that have begun are finished


def _is_retryable(error: BaseException) -> bool:
    """Return whether another attempt may succeed. The store retries by itself; a lost lease or cluster stays lost."""
    final = StorageError | LeaseLost | ServiceError | JobFailed
    return isinstance(error, PairmillError) and error.retryable and not isinstance(error, final)


def _line(record: Record) -> str:
    counts = record.counts
    reasons = format_counts(Counter(counts.dropped).most_common())
    kept = f"kept {counts.kept:,} of {counts.input:,}" if counts.input else "done"
    return f"{record.task}: {kept}" + (f" ({reasons})" if reasons else "")


def _call(function: PartFunction[T], store_uri: str, stage: str, key: str, fence: Fence | None, task: T) -> Record:
    draft = Draft(open_store(store_uri), stage, key, fence)
    try:
        return draft.finish(function(draft, task))
    except OSError as error:  # of local files: the store raises StorageError
        if error.errno not in DISK_FULL:
            raise
        raise StorageError(
            f"{stage} {task.id}: {error}. Free some space in {tempfile.gettempdir()}, or set TMPDIR, then rerun",
            retryable=False,
        ) from error


def start_worker(parent: int) -> None:
    """Prepare a new worker: it ends with its parent, also when that is killed, and logs no secret."""
    guard_process()
    exit_with_parent(parent)
