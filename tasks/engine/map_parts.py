"""Maps a function over the tasks of a stage, in worker processes or on Ray, resuming what an earlier try finished.

A task is a value with an `id`; the function gets a Draft and the task, writes parts through the draft and returns a
Record. Which worker does what, where, and in which order, cannot show in the output: each task writes its own parts.
This is the one place where stages spread their work; which pool it goes to is `Context.ray`.
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
"""Tries of one task whose error says that trying again may help."""
WAITING = 3
"""Tasks a worker that are handed over at a time, so that it never waits for the next one; the others stay here."""
_LAST_WAIT = 10.0
"""Seconds that workers, which have nothing left to do, are given to end."""


class Task(Protocol):
    """A picklable value; `id` names its record and must be unique in the stage."""

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
    """The record of each task, in the order of `tasks`; finished ones are not done again.

    Args:
        format_record: the text that progress shows for a finished task; its counts by default.

    Raises: the error of the first task that failed for good, after ATTEMPTS tries where it is retryable; JobFailed (75)
    when a worker process died (killed, or out of memory), on Ray so often as the config allows; ServiceError (75) when
    Ray's cluster cannot be reached, or is lost.
    """
    records = {task.id: record for task in tasks if (record := draft.done(task.id))}
    todo = [task for task in tasks if task.id not in records]
    if records:
        logger.info("%s %s: %d of %d parts were finished before", draft.stage, draft.key, len(records), len(tasks))
    if todo and context.pool:
        _run(context.pool, function, todo, draft, context, records, len(tasks), format_record or _line)
    elif todo:
        with shared_workers(replace(context, workers=min(context.workers, len(todo)))) as sharing:
            assert sharing.pool is not None
            _run(sharing.pool, function, todo, draft, sharing, records, len(tasks), format_record or _line)
    return [records[task.id] for task in tasks]


@contextmanager
def shared_workers(context: Context) -> Iterator[Context]:
    """The context with worker processes that all maps in the `with` share: to start one takes seconds.

    None is started before the first map needs it, and none at all where the context has a pool. On Ray, the context's
    numbers of workers are then the cluster's.
    """
    if context.pool:
        yield context
        return
    if context.ray is not None:
        with ray_pool(context.ray, context.store) as pool:
            room = pool.room
            yield replace(context, pool=pool, workers=room.slots, workers_per_machine=room.slots_per_machine)
        return
    with worker_pool(context.workers) as pool:
        yield replace(context, pool=pool)


@contextmanager
def worker_pool(number: int) -> Iterator[ProcessPoolExecutor]:
    """Worker processes, which are gone at the end of the `with`.

    The executor's own end waits for them without limit, and may wait for ever: one that was killed while it looked for work
    holds the lock under which the others look.
    """
    before = set(multiprocessing.active_children())
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(number, spawn, initializer=start_worker, initargs=(os.getpid(),))
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        deadline = time.monotonic() + _LAST_WAIT
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
            elif _worth_another_try(error) and attempt < ATTEMPTS:
                logger.warning("%s %s: try %d failed: %s", draft.stage, task.id, attempt, error)
                time.sleep(attempt)
                submit(task, attempt + 1)
            else:
                raise error
    except BrokenProcessPool as error:  # also of a worker that died when it had nothing to do
        raise JobFailed(
            f"{draft.stage}: a worker process died (killed, or out of memory) at or near {task.id}", exit_code=75
        ) from error
    finally:
        wait([future for future in running if not future.cancel()])  # what was begun is finished


def _worth_another_try(error: BaseException) -> bool:
    """A store has waited for its server long enough itself, a lost lease or cluster does not come back by waiting here."""
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
    except OSError as error:  # of this machine's own files: the store's are StorageErrors
        if error.errno not in DISK_FULL:
            raise
        raise StorageError(
            f"{stage} {task.id}: {error}. Free some space in {tempfile.gettempdir()}, or set TMPDIR, then rerun"
        ) from error


def start_worker(parent: int) -> None:
    """In a new worker: end with its parent, which may be killed, and let no secret into a log line."""
    guard_process()
    exit_with_parent(parent)
