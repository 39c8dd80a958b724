"""A cluster on a virtual clock, which drives the real scheduling of tasks.engine: workers die, join and slow down, the head
is lost, and the store is in memory, with latency and failures. All that happens follows from a seed.

A call of `map_parts` is made, by its real function and with a real Draft, at the virtual time at which its worker has done
it. A worker that dies may do so between two of the writes.
"""

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from unittest.mock import patch

from dataops.errors import ServiceError
from tasks.engine import map_parts
from tasks.engine.context import Clock, Context, LeaseTimes, OpenWorkers, TaskPool, begin
from tasks.engine.stage import make
from tests.memory_store import Killed, MemoryStore


class _SlowStore(MemoryStore):
    def __init__(self, before):
        super().__init__()
        self._before = before

    def request(self, kind):
        self._before(kind)
        super().request(kind)


@dataclass(frozen=True)
class Faults:
    """What goes wrong. Times are virtual seconds."""

    workers: int
    deaths_per_minute: float = 0.01
    """Share of the workers whose machine is lost in a minute; another one joins."""
    joins_after: float = 120.0
    """Mean time until that."""
    slow_per_minute: float = 0.001
    """Share of the workers that become ten times as slow in a minute."""
    hungry: float = 0.001
    """Share of the tasks whose worker runs out of memory once."""
    hung: float = 0.0005
    """Share of the tasks that never end in their first attempt."""
    doomed: Mapping[str, str] = field(default_factory=dict)
    """Tasks of which each attempt `hangs` or `dies`, or each but `submit_again`: `needs more memory`."""
    head_lost: tuple[float, ...] = ()
    """Times at which the head is lost, with all that runs."""
    outages: tuple[tuple[float, float], ...] = ()
    """Begin and end of each time in which the store answers no request; shorter than the time for which it is retried."""
    failures: float = 0.01
    """Share of the requests that fail and are repeated a second later."""
    latency: float = 0.03
    """Mean time of a request."""


@dataclass
class Span:
    """A call on a worker, for the timeline."""

    worker: int
    task: str
    began: float
    ended: float
    how: str
    """finished, machine lost, out of memory, stopped (by the scheduler), head lost, or failed."""


@dataclass
class _Worker:
    number: int
    factor: float
    future: Future[Any] | None = None
    is_lost: bool = False


@dataclass
class _Call:
    future: Future[Any]
    make: Callable[[], Any]
    task: str
    attempt: int
    worker: _Worker | None = None
    began: float = 0.0


@dataclass
class SimulatedCluster(TaskPool, Clock):
    """The cluster: pool, clock and executor of a context, with what happened.

    Args:
        seconds: time of a task, by its id.
    """

    faults: Faults
    seconds: Callable[[str], float]
    seed: int = 0
    spans: list[Span] = field(default_factory=list)
    events: list[tuple[float, str]] = field(default_factory=list)
    shares_disk = False

    def __post_init__(self):
        self._random, self._now, self._number = random.Random(self.seed), 0.0, 0
        self._due = list[tuple[float, int, Callable[[], None]]]()
        self._waiting, self._idle = deque(), deque()
        self._running, self._attempts = {}, Counter()
        self._alive, self._starved, self._fed = 0, set(), set()
        self._is_calling, self._is_down = False, False
        self.store = _SlowStore(self._request)
        for at in self.faults.head_lost:
            self._at(at, self._lose_head)
        for _ in range(self.faults.workers):
            self._join()

    @property
    def lost(self):
        """Share of the workers' time on tasks that was for nothing."""
        times = [(span.how == "finished", span.ended - span.began) for span in self.spans]
        return sum(time for is_finished, time in times if not is_finished) / sum(time for _, time in times)

    # The clock

    def now(self):
        return self._now

    def next_ended(self, ended, seconds):
        until = self._now + seconds
        while ended.empty() and self._due and self._due[0][0] <= until:
            at, _, happen = heapq.heappop(self._due)
            self._now = max(self._now, at)
            happen()
        if not ended.empty():
            return ended.get()
        self._now = max(self._now, until)
        return None

    def sleep(self, seconds):
        self.next_ended(SimpleQueue(), seconds)

    def _at(self, at, happen):
        self._number += 1
        heapq.heappush(self._due, (at, self._number, happen))

    # The store

    def _request(self, kind):
        """Take the time of a request of the driver; those of a worker are in the time of its task."""
        if not self._is_calling:
            repeated = 1.0 if self._random.random() < self.faults.failures else 0.0
            self._now = self._answers_at() + self._random.expovariate(1 / self.faults.latency) + repeated

    def _answers_at(self):
        """Return when the store answers: a request of now is repeated until then (dataops/storage/s3_requests.py)."""
        return next((end for start, end in self.faults.outages if start <= self._now < end), self._now)

    # Workers

    def _join(self):
        self._number += 1
        worker = _Worker(self._number, self._random.uniform(0.8, 1.3))
        self._alive += 1
        if self.faults.deaths_per_minute:
            lives = self._random.expovariate(self.faults.deaths_per_minute / 60)
            self._at(self._now + lives, lambda: self._lose(worker))
        if self.faults.slow_per_minute:
            fast = self._random.expovariate(self.faults.slow_per_minute / 60)
            self._at(self._now + fast, lambda: self._slow_down(worker))
        self._idle.append(worker)
        self.events.append((self._now, "join"))
        self._assign()

    @property
    def slots(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        return max(1, self._alive)

    def _slow_down(self, worker):
        if not worker.is_lost:
            worker.factor *= 10
            self.events.append((self._now, "slows down"))

    def _lose(self, worker):
        worker.is_lost = True
        self._alive -= 1
        self.events.append((self._now, "machine lost"))
        if worker in self._idle:
            self._idle.remove(worker)
        self._at(self._now + self._random.expovariate(1 / self.faults.joins_after), self._join)
        if worker.future is not None:
            call = self._running[worker.future]
            if self._random.random() < 0.3:  # it had begun to write
                self.store.writes = self._random.randrange(3)
                self._call(call)
                self.store.writes = None
            self._stop(call, "machine lost", map_parts.MachineLost("its machine was lost"))

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        if self._is_down:
            raise ServiceError("the cluster is lost")
        task = args[-1].id
        self._attempts[task] += 1
        self._waiting.append(_Call(future, lambda: fn(*args, **kwargs), task, self._attempts[task]))
        self._assign()
        return future

    def submit_again(self, fn, /, *args):
        self._fed.add(args[-1].id)
        return self.submit(fn, *args)

    def _assign(self):
        while self._idle and self._waiting:
            call = self._waiting.popleft()
            if not begin(call.future):
                continue
            worker = self._idle.popleft()
            worker.future, call.worker, call.began = call.future, worker, self._now
            self._running[call.future] = call
            chance, doom = random.Random(f"{self.seed} {call.task}"), self.faults.doomed.get(call.task)
            takes = self.seconds(call.task) * worker.factor + 6 * (self.faults.latency + self.faults.failures)
            hungry = chance.random() < self.faults.hungry and call.task not in self._starved
            if doom == "dies" or hungry or (doom == "needs more memory" and call.task not in self._fed):
                self._starved.add(call.task)
                self._at(
                    self._now + takes / 2, lambda call=call: self._stop(call, "out of memory", BrokenProcessPool())
                )
            elif doom != "hangs" and (chance.random() >= self.faults.hung or call.attempt > 1):
                self._at(self._now + takes, lambda call=call: self._finish(call))

    def _call(self, call):
        self._is_calling = True
        try:
            return call.make(), None
        except Killed:
            return None, None
        except Exception as error:
            return None, error
        finally:
            self._is_calling = False

    def _finish(self, call):
        if (answers := self._answers_at()) > self._now:
            self._at(answers, lambda: self._finish(call))
        elif call.future in self._running:
            result, error = self._call(call)
            self._stop(call, "failed" if error else "finished", error, result)

    def _stop(self, call, how, error, result=None):
        """End a call that runs."""
        if self._running.pop(call.future, None) is None or call.worker is None:
            return
        self.spans.append(Span(call.worker.number, call.task, call.began, self._now, how))
        call.worker.future = None
        if not call.worker.is_lost:
            self._idle.append(call.worker)
        if error is None:
            call.future.set_result(result)
        else:
            call.future.set_exception(error)
        self._assign()

    def kill(self, future):
        if not future.cancel() and future in self._running:
            self._stop(self._running[future], "stopped", BrokenProcessPool())

    def _lose_head(self):
        self.events.append((self._now, "head lost"))
        self._is_down = True
        waiting, self._waiting = list(self._waiting), deque()
        for call in list(self._running.values()):
            self._stop(call, "head lost", ServiceError("the cluster is lost"))
        for call in waiting:
            if begin(call.future):
                call.future.set_exception(ServiceError("the cluster is lost"))

    # The executor

    @contextmanager
    def open(self, workers, store):
        self._is_down = False
        with patch.object(map_parts, "open_store", lambda uri: self.store):
            yield OpenWorkers(self, self.slots, per_machine=1)

    def context(self, limits):
        never = LeaseTimes(beat=1e6)
        return Context(
            self.store, Path(), executor=self, clock=self, task_limits=limits, lease_times=never, inline_rows=0
        )


def make_at_any_price(planned, cluster, limits, delays):
    """Make a snapshot as a run does: an attempt that fails with a retryable error is followed by the next one."""
    for delay in delays:
        try:
            return make(planned, cluster.context(limits))
        except ServiceError as error:
            cluster.events.append((cluster.now(), f"retried: {error}"))
            cluster.sleep(delay)
    return make(planned, cluster.context(limits))
