"""Map a function over the tasks of a stage, in the workers of its executor, and skip the tasks that are finished.

A task is a value with an `id`. The function gets a Draft and the task, writes parts through the draft and returns a Record.
Each task writes its own parts, so the output does not depend on workers and order. Stages start no workers elsewhere;
`Context.executor` has the workers.
"""

import logging
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from queue import SimpleQueue
from statistics import median
from typing import Generic, TypeVar

from dataops.errors import DISK_FULL, JobFailed, LeaseLost, PairmillError, ServiceError, StorageError
from dataops.messages.waiting import waiting
from dataops.snapshot import Draft, Fence, Record, RecordLog
from dataops.store import open_store
from tasks.engine.context import Context, MachineLost, TaskPool
from tasks.engine.map_progress import SHOW_SECONDS, MapProgress, MapView, Task, begin_task, end_task

logger = logging.getLogger(__name__)

ATTEMPTS = 3
"""Attempts of a task whose error is retryable."""
ALONE = ATTEMPTS + 1
"""Number of the attempt after the worker of a task died: it runs once all others are finished."""
MACHINES = 10
"""Machines that a task may lose before that counts as the death of its worker: it may be the cause."""
COPIES = 3
"""Second copies of a slow task, one after the other, whose workers may die."""
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
    copies: bool = True
    """Whether a second copy of a slow task may run: False if it asks others for what may change."""


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
    records = draft.resume(task.id for task in tasks)
    todo = [task for task in tasks if task.id not in records]
    if records:
        logger.info("%s %s: %d of %d tasks are finished already", draft.stage, draft.key, len(records), len(tasks))
    progress = MapProgress(tasks, records, context, view or MapView())
    progress.show()
    if todo:
        with (
            shared_workers(context) as sharing,
            progress.reports_of_workers(shared_disk=context.executor.shares_disk),
        ):
            pool = sharing.pool
            assert pool is not None

            def call(task: T, again: bool) -> Future[Record]:
                submit = pool.submit_again if again and isinstance(pool, TaskPool) else pool.submit
                place = draft.store.uri, draft.stage, draft.key, draft.fence
                return submit(_call, function, *place, progress.reports, task)

            _Map(pool, call, todo, draft, sharing, progress, order or TaskOrder[T]()).run()
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


@dataclass(eq=False)
class _Attempt(Generic[T]):
    task: T
    number: int
    began: float | None = None
    """When a worker was seen to have begun it, by the clock of the map."""
    ended_for: str = ""
    """Why it was ended from here: _OVERTAKEN, or what the error of its task states."""


_OVERTAKEN = "overtaken"


class _Map(Generic[T]):
    """Decides which task starts when, and what follows the end of an attempt.

    An attempt that a worker did not survive, or that took longer than the timeout, is followed by one that runs alone on a
    machine, once all other tasks are finished. A task that takes much longer than its like gets a second copy; the first
    one that finishes counts, and the other is ended: both write the same bytes.
    """

    def __init__(
        self,
        pool: Executor,
        call: Callable[[T, bool], Future[Record]],
        todo: Sequence[T],
        draft: Draft,
        context: Context,
        progress: MapProgress[T],
        order: TaskOrder[T],
    ):
        self._pool, self._call, self._total = pool, call, len(todo)
        self._draft, self._context, self._progress, self._order = draft, context, progress, order
        self._limits, self._clock, self._queue = context.task_limits, context.clock, TaskQueue(todo, order)
        self._log, self._ended = RecordLog(draft), SimpleQueue[Future[Record]]()
        self._running = dict[Future[Record], _Attempt[T]]()
        self._copies = Counter[str]()  # attempts that run, by task
        self._later = list[tuple[float, _Attempt[T], ExitStack]]()
        self._died, self._failed = deque[T](), dict[str, list[str]]()
        self._lost, self._copied = Counter[str](), Counter[str]()  # machines that a task lost, and copies that it had
        self._rates = list[float]()  # seconds of finished tasks by their weight
        self._longest, self._looked, self._alone = 0.0, 0.0, 0

    def run(self) -> None:
        """Run all tasks. Raises: as `map_parts`."""
        try:
            while self._start():
                if (future := self._clock.next_ended(self._ended, SHOW_SECONDS)) is not None:
                    self._end(future, self._running.pop(future))
                if self._clock.now() - self._looked >= SHOW_SECONDS or future is None:
                    self._look()
            self._log.end()
            self._raise_failed()
        finally:
            for _, _, waits in self._later:
                waits.close()
            begun = [future for future in self._running if not future.cancel()]
            if isinstance(sys.exc_info()[1], Exception):
                self._wait_for(begun)  # after Ctrl-C or SIGTERM, their workers are ended

    def _wait_for(self, begun: Sequence[Future[Record]]) -> None:
        """Let tasks that have begun finish; kill those that take much longer than all before."""
        until = self._clock.now() + max(self._limits.least, self._limits.multiple * self._longest)
        while not all(future.done() for future in begun):
            self._clock.next_ended(self._ended, SHOW_SECONDS)
            if self._longest and self._clock.now() > until and isinstance(self._pool, TaskPool):
                for future in begun:
                    self._pool.kill(future)

    @property
    def _slots(self) -> int:
        return getattr(self._pool, "slots", None) or self._context.workers

    @property
    def _machines(self) -> int:
        """Return on how many machines a task may run alone. Those that ask others run one after the other."""
        return max(1, self._slots // (self._context.workers_per_machine or self._slots)) if self._order.copies else 1

    def _start(self) -> bool:
        """Start what may start now. Return False if all is finished."""
        for entry in [entry for entry in self._later if entry[0] <= self._clock.now()]:
            self._later.remove(entry)
            entry[2].close()
            self._submit(entry[1].task, entry[1].number + 1)
        while len(self._running) < self._order.ahead * self._slots and (task := self._queue.pop()) is not None:
            self._submit(task)
        while self._died and not self._later and len(self._running) == self._alone < self._machines:
            self._submit(self._died.popleft(), ALONE)
        return bool(self._running or self._later)

    def _submit(self, task: T, number: int = 1) -> None:
        future = self._call(task, number == ALONE)
        self._running[future] = _Attempt(task, number)
        self._copies[task.id] += 1
        self._alone += number == ALONE
        future.add_done_callback(self._ended.put)

    def _end(self, future: Future[Record], attempt: _Attempt[T]) -> None:
        task = attempt.task
        self._copies[task.id] -= 1
        self._alone -= attempt.number == ALONE
        if attempt.ended_for == _OVERTAKEN:
            return
        error = future.exception() if not future.cancelled() else BrokenProcessPool()
        if error is None:
            self._finish(attempt, future.result())
        elif self._copies[task.id]:
            logger.warning("%s %s: one of its two copies failed: %s", self._draft.stage, task.id, error)
            return
        elif isinstance(error, MachineLost) and self._lost[task.id] < MACHINES:
            logger.warning("%s %s: its machine was lost, it runs again: %s", self._draft.stage, task.id, error)
            self._lost[task.id] += 1
            self._submit(task, attempt.number)
            return
        elif isinstance(error, BrokenProcessPool | MachineLost | MemoryError):
            reason = attempt.ended_for or str(error) or "a worker process died (killed, or out of memory)"
            logger.warning("%s %s: %s", self._draft.stage, task.id, reason)
            if attempt.number == ALONE:
                self._failed.setdefault(reason, []).append(task.id)
            else:
                self._died.append(task)
        elif _is_retryable(error) and attempt.number < ATTEMPTS:
            logger.warning("%s %s: attempt %d failed: %s", self._draft.stage, task.id, attempt.number, error)
            self._wait_to_retry(attempt, error)
            return
        else:
            raise error
        if attempt.number != ALONE:
            self._queue.end(task)

    def _finish(self, attempt: _Attempt[T], record: Record) -> None:
        self._log.add(record)
        seconds = self._clock.now() - attempt.began if attempt.began is not None else 0.0
        self._longest = max(self._longest, seconds)
        self._rates.append(seconds / self._progress.weigh(attempt.task))
        self._progress.finish(attempt.task, record)
        self._progress.show(other.task for other in self._running.values())
        if self._copies[attempt.task.id]:
            for future, other in self._running.items():
                if other.task.id == attempt.task.id:
                    self._kill(future, other, _OVERTAKEN)

    def _wait_to_retry(self, attempt: _Attempt[T], error: BaseException) -> None:
        seconds, waits = attempt.number * self._limits.pause, ExitStack()
        what = f"{self._draft.stage} {attempt.task.id} failed, attempt {attempt.number + 1} of {ATTEMPTS} follows"
        waits.enter_context(waiting(f"{what}: {error}", until=time.time() + seconds))
        self._later.append((self._clock.now() + seconds, attempt, waits))

    def _look(self) -> None:
        """Look at the running attempts: which have begun, and which take too long."""
        self._looked = now = self._clock.now()
        for future, attempt in self._running.items():
            if attempt.began is None:
                attempt.began = now if future.running() else None
            elif self._limits.timeout and now - attempt.began > self._limits.timeout and not attempt.ended_for:
                why = f"a task took longer than execution.task_timeout ({self._limits.timeout:g} s)"
                self._kill(future, attempt, why)
        self._copy_slow(now)
        self._progress.show(attempt.task for attempt in self._running.values())

    def _copy_slow(self, now: float) -> None:
        """Start a second copy of tasks that take much longer than their like, where workers are free."""
        free = self._slots - len(self._running)
        few = len(self._rates) < max(1, self._limits.share * self._total)
        if free <= 0 or few or not self._order.copies or not isinstance(self._pool, TaskPool):
            return
        usual = self._limits.multiple * median(self._rates)
        slow = [
            attempt
            for attempt in self._running.values()
            if attempt.began is not None and attempt.number != ALONE and self._copies[attempt.task.id] == 1
            if self._copied[attempt.task.id] < COPIES
            if now - attempt.began > max(usual * self._progress.weigh(attempt.task), self._limits.least)
        ]
        for attempt in sorted(slow, key=lambda one: one.began or 0.0)[:free]:
            logger.warning(
                "%s %s: it takes %.0f s, much longer than its like: a second copy starts", self._draft.stage,
                attempt.task.id, now - (attempt.began or now),
            )  # fmt: skip
            self._copied[attempt.task.id] += 1
            self._submit(attempt.task, attempt.number)

    def _kill(self, future: Future[Record], attempt: _Attempt[T], why: str) -> None:
        attempt.ended_for = why
        if isinstance(self._pool, TaskPool):
            self._pool.kill(future)

    def _raise_failed(self) -> None:
        if self._failed:
            texts = [
                f"{', '.join(names[:5])}{' ...' * (len(names) > 5)}: {reason}" for reason, names in self._failed.items()
            ]
            raise JobFailed(
                f"{self._draft.stage}: two attempts of {sum(map(len, self._failed.values()))} of {self._total} tasks "
                f"failed, the second with no other task beside it: {'; '.join(texts[:5])}. All others are finished",
                exit_code=75,
            )


def _is_retryable(error: BaseException) -> bool:
    """Return whether another attempt may succeed. The store retries by itself; a lost lease or cluster stays lost."""
    if isinstance(error, StorageError | LeaseLost | ServiceError | JobFailed):
        return False
    return isinstance(error, PairmillError) and error.retryable


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
