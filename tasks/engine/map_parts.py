"""Map a function over the tasks of a stage, in the workers of its executor, and skip the tasks that are finished.

A task is a value with an `id`. The function gets a Draft and the task, writes parts through the draft and returns a Record.
Each task writes its own parts, so the output does not depend on workers and order. Stages start no workers elsewhere;
`Context.executor` has the workers.
"""

import logging
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from dataops.errors import JobFailed, LeaseLost, PairmillError, ServiceError, StorageError
from dataops.messages.waiting import pause
from dataops.snapshot import Draft, Fence, Record, RecordLog
from dataops.storage.base import DISK_FULL
from dataops.store import open_store
from tasks.engine.context import Context
from tasks.engine.map_progress import SHOW_SECONDS, MapProgress, MapView, Task, begin_task, end_task

logger = logging.getLogger(__name__)

ATTEMPTS = 3
"""Attempts of a task whose error is retryable."""
ALONE = ATTEMPTS + 1
"""Number of the attempt after the worker of a task died: it runs once all others are finished."""
WAITING = 3
"""Tasks per worker that are submitted ahead, so that no worker waits for the next one."""

T = TypeVar("T", bound=Task)
PartFunction = Callable[[Draft, T], Record]


@dataclass(frozen=True)
class TaskOrder(Generic[T]):
    """The order in which tasks start."""

    chain: Callable[[T], str] = lambda task: ""
    """Returns the name of the chain of a task, of which few tasks run at a time; empty if it has none."""
    seconds: Callable[[T], float] = lambda task: 0.0
    """Returns the time that a task takes. The chain starts first that takes longest, then tasks in their own order."""
    at_once: int = 1
    """Number of tasks of a chain that run at a time."""
    ahead: int = WAITING
    """Tasks per worker that are submitted. With 1, the next task of a long chain does not wait for others."""


class TaskQueue(Generic[T]):
    """The tasks of a map that have not started."""

    def __init__(self, tasks: Sequence[T], order: TaskOrder[T]):
        self._order = order
        self._chains: dict[str, deque[T]] = {}
        for number, task in enumerate(tasks):
            self._chains.setdefault(order.chain(task) or f"\0{number}", deque()).append(task)
        self._numbers = {name: number for number, name in enumerate(self._chains)}
        self._names = {task.id: name for name, chain in self._chains.items() for task in chain}
        self._left = {name: sum(map(order.seconds, chain)) for name, chain in self._chains.items()}
        self._running = Counter[str]()
        self._heap = [(-self._left[name], number, name) for name, number in self._numbers.items()]
        heapify(self._heap)

    def pop(self) -> T | None:
        """Return the task that starts next, or None if none may start now."""
        if not self._heap:
            return None
        _, _, name = heappop(self._heap)
        task = self._chains[name].popleft()
        self._left[name] -= self._order.seconds(task)
        self._running[name] += 1
        if self._running[name] < self._order.at_once:
            self._push(name)
        return task

    def end(self, task: T) -> None:
        """Let the next task of the chain of an ended one start."""
        name = self._names[task.id]
        self._running[name] -= 1
        if self._running[name] == self._order.at_once - 1:
            self._push(name)

    def _push(self, name: str) -> None:
        if self._chains[name]:
            heappush(self._heap, (-self._left[name], self._numbers[name], name))


def map_parts(
    function: PartFunction[T],
    tasks: Sequence[T],
    draft: Draft,
    context: Context,
    view: MapView[T] | None = None,
    order: TaskOrder[T] | None = None,
) -> list[Record]:
    """Return the record of each task, in the order of `tasks`. Finished tasks are not executed again.

    Args:
        view: what progress counts and shows; by default the tasks, and the rows kept and dropped.
        order: in which order tasks start; by default that of `tasks`.

    Raises: the error of the first task that failed, after ATTEMPTS attempts if it is retryable; JobFailed (75), once all
    other tasks are finished, if the worker of a task died (killed, or out of memory) and that of its second attempt, which
    runs alone, too; ServiceError (75) if a cluster does not answer or is lost.
    """
    records = draft.finished(task.id for task in tasks)
    todo = [task for task in tasks if task.id not in records]
    if records:
        logger.info("%s %s: %d of %d tasks are finished already", draft.stage, draft.key, len(records), len(tasks))
    progress = MapProgress(tasks, records, context, view or MapView())
    progress.show()
    order = order or TaskOrder[T]()
    if todo and context.pool:
        _run(context.pool, function, todo, draft, context, progress, order)
    elif todo:
        with shared_workers(replace(context, workers=min(context.workers, len(todo)))) as sharing:
            assert sharing.pool is not None
            _run(sharing.pool, function, todo, draft, sharing, progress, order)
    return [records[task.id] for task in tasks]


@contextmanager
def shared_workers(context: Context) -> Iterator[Context]:
    """Return the context with workers that all maps in the `with` share: to start one takes seconds.

    No worker is started before the first map needs it, and none if the context has a pool. A cluster's executor sets the
    numbers of workers.
    """
    if context.pool:
        yield context
        return
    with context.executor.open(context.workers, context.store) as opened:
        yield replace(context, pool=opened.pool, workers=opened.number, workers_per_machine=opened.per_machine)


def _run(
    pool: Executor,
    function: PartFunction[T],
    todo: Sequence[T],
    draft: Draft,
    context: Context,
    progress: MapProgress[T],
    order: TaskOrder[T],
) -> None:
    done: SimpleQueue[Future[Record]] = SimpleQueue()
    queue, running = TaskQueue(todo, order), dict[Future[Record], tuple[T, int]]()

    def submit(task: T, attempt: int = 1) -> None:
        names = (draft.store.uri, draft.stage, draft.key, draft.fence, progress.reports)
        future = pool.submit(_call, function, *names, task)
        running[future] = (task, attempt)
        future.add_done_callback(done.put)

    def submit_next() -> None:
        while len(running) < order.ahead * context.workers and (task := queue.pop()) is not None:
            submit(task)

    def next_finished() -> Future[Record]:
        while True:
            try:
                return done.get(timeout=SHOW_SECONDS)
            except Empty:
                progress.show(task for task, _ in running.values())

    log, died, failed = RecordLog(draft), deque[T](), list[str]()
    with progress.reports_of_workers(shared_disk=context.executor.shares_disk):
        try:
            submit_next()
            while running:
                future = next_finished()
                task, attempt = running.pop(future)
                error = future.exception()
                if error is None:
                    log.add(future.result())
                    progress.finish(task, future.result())
                    progress.show(task for task, _ in running.values())
                elif isinstance(error, BrokenProcessPool):
                    logger.warning("%s %s: its worker process died (killed, or out of memory)", draft.stage, task.id)
                    if attempt == ALONE:
                        failed.append(task.id)
                    else:
                        died.append(task)
                elif _is_retryable(error) and attempt < ATTEMPTS:
                    logger.warning("%s %s: attempt %d failed: %s", draft.stage, task.id, attempt, error)
                    pause(
                        attempt, f"{draft.stage} {task.id} failed, attempt {attempt + 1} of {ATTEMPTS} follows: {error}"
                    )
                    submit(task, attempt + 1)
                    continue
                else:
                    raise error
                if attempt != ALONE:
                    queue.end(task)
                submit_next()
                if not running and died:
                    submit(died.popleft(), ALONE)
            log.end()
            if failed:
                raise JobFailed(
                    f"{draft.stage}: a worker process died (killed, or out of memory) in each of two attempts of "
                    f"{', '.join(failed[:5])}{' ...' * (len(failed) > 5)} ({len(failed)} of {len(todo)} tasks), the second "
                    "with no other task beside it. All others are finished",
                    exit_code=75,
                )
        finally:
            begun = [future for future in running if not future.cancel()]
            if not running or isinstance(sys.exc_info()[1], Exception):
                wait(begun)  # tasks that have begun are finished; after Ctrl-C or SIGTERM their workers are ended


def _is_retryable(error: BaseException) -> bool:
    """Return whether another attempt may succeed. The store retries by itself; a lost lease or cluster stays lost."""
    final = StorageError | LeaseLost | ServiceError | JobFailed
    return isinstance(error, PairmillError) and error.retryable and not isinstance(error, final)


def _call(
    function: PartFunction[T],
    store_uri: str,
    stage: str,
    key: str,
    fence: Fence | None,
    reports: str | None,
    task: T,
) -> Record:
    draft = Draft(open_store(store_uri), stage, key, fence)
    begin_task(reports, task.id)
    try:
        return draft.finish(function(draft, task))
    except OSError as error:  # of local files: the store raises StorageError
        if error.errno not in DISK_FULL:
            raise
        raise StorageError(
            f"{stage} {task.id}: {error}. Free some space in {tempfile.gettempdir()}, or set TMPDIR, then rerun",
            retryable=False,
        ) from error
    finally:
        end_task()
