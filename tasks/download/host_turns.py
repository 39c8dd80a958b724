"""Limits the requests to each host, and schedules the fetches of a shard, so that a slow host delays no other.

`HostPace` limits requests in parallel, per second, in pauses that a host requests, and once it seems dead. Only one process
at a time requests images from a host (host_cut.py), so it knows all of this itself; what the processes of a machine know
of a host is in tasks.web.host_state. A row waits for its turn as long as the pace needs: only the host's own answers make
it fail. A host that has wasted its `patience` fails its other rows at once.

img2dataset's Downloader gives its URLs to a multiprocessing.pool.ThreadPool in a fixed order: rows of a slow host then
hold many threads, and the last of these rows delay the end of the shard. `HostPool` replaces this pool. It receives all
rows of the shard at the start, limits the threads of each host, lets none wait for a turn that is far away, and begins with
the hosts that take longest: unknown ones, slow ones, and those with many rows. Half of the threads are reserved for quick
hosts.
"""

import heapq
import random
import re
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

from dataops.messages.waiting import waiting
from dataops.reasons import Reason
from dataops.web.urls import HOST
from tasks.web.fetch_error import FetchError
from tasks.web.host_state import MachinePace

_LONGEST_PAUSE = 600.0
SLOW = 1.0
"""Seconds of a request, or between two, from which on a host is slow; a host without a request counts as slow."""
_FAR = 0.25
"""Seconds until a turn from which on no thread waits for it."""
_PAUSE_REASONS = frozenset({"http_429", "http_503"})


@dataclass(frozen=True)
class PaceLimits:
    """Limits of one process for one host.

    Attributes:
        concurrency: parallel requests.
        interval: seconds between the starts of two requests.
        max_pause: longest pause in seconds for which a request waits; in a longer pause it fails with the error that
            caused the pause.
        first_pause: seconds of the pause after a 429 or 503 without Retry-After; each further one in a row doubles it.
        patience: seconds that a host may waste with failed requests and pauses before its other rows fail without a
            request. A success halves what it has wasted.
    """

    concurrency: int = 4
    interval: float = 0.0
    max_pause: float = 10.0
    first_pause: float = 1.0
    patience: float = 30.0


@dataclass
class _Host:
    changed: threading.Condition = field(default_factory=threading.Condition)
    running: int = 0
    interval: float = 0.0
    """The longest one that was used."""
    next_at: float = 0.0
    """Time on the monotonic clock before which no request starts, by the interval."""
    paused_until: float = 0.0
    wasted: float = 0.0
    """Seconds of failed requests and pauses."""
    seconds: float = 0.0
    """Running average of an answer; 0 before the first one."""
    pauses_in_row: int = 0
    pause: FetchError | None = None
    """Error that caused the pause until `paused_until`."""
    given_up: FetchError | None = None
    """Error with which all further requests fail."""


class HostPace:
    """The turns at the hosts of one shard; thread-safe.

    Args:
        machine: turns and pauses of the other processes of this machine.
        processes: number of processes that may request images from the same hosts; each waits this many times the interval.
    """

    def __init__(self, limits: PaceLimits, machine: MachinePace | None = None, processes: int = 1):
        self.limits, self._machine, self._processes = limits, machine, processes
        self._hosts: defaultdict[str, _Host] = defaultdict(_Host)
        self._lock = threading.Lock()

    def give_up(self, name: str, error: FetchError) -> None:
        """Let all further requests to a host fail, in this and in the other processes of the run."""
        host = self._find(name)
        with host.changed:
            host.given_up = error
            host.changed.notify_all()
        if self._machine:
            self._machine.give_up(name, error.reason, error.detail)

    def seconds_until_turn(self, name: str) -> tuple[float, bool]:
        """Return the seconds for which a host gets no request, and whether one thread suffices for its interval."""
        host = self._find(name)
        now = time.monotonic()
        pause = host.paused_until - now
        if host.given_up or pause > self.limits.max_pause:
            return 0.0, False  # its rows fail at once
        return max(host.next_at - now, pause, 0.0), host.interval >= SLOW

    def answer_seconds(self, name: str) -> float:
        """Return the running average of a host's answers in seconds; 0 for a host without any."""
        return self._find(name).seconds

    def _find(self, name: str) -> _Host:
        with self._lock:
            return self._hosts[name]

    @contextmanager
    def turn(self, name: str, interval: float = 0.0) -> Iterator[None]:
        """Wait for a turn at a host, and hold it until the block ends.

        Args:
            name: name of the host.
            interval: seconds between requests by its Crawl-delay; the configured interval holds where it is longer.

        Raises: FetchError when the host asked for a long pause or is given up. A FetchError of the block passes through,
        and counts against the host.
        """
        host = self._find(name)
        self._enter(host, name, max(interval, self.limits.interval))
        started = time.monotonic()
        try:
            yield
        except FetchError as error:
            self._count_failure(host, name, error, time.monotonic() - started)
            raise
        else:
            with host.changed:
                host.wasted, host.pauses_in_row = host.wasted / 2, 0
                took = time.monotonic() - started
                host.seconds = ((host.seconds or took) + took) / 2
        finally:
            with host.changed:
                host.running -= 1
                host.changed.notify_all()

    def _enter(self, host: _Host, name: str, interval: float) -> None:
        with host.changed:
            host.interval = max(host.interval, interval * self._processes)
            while True:
                self._take_over_pause(host, name)
                now = time.monotonic()
                if host.given_up:
                    raise FetchError(host.given_up.reason, host.given_up.detail)
                pause = host.paused_until - now
                if host.pause and pause > self.limits.max_pause:
                    raise FetchError(host.pause.reason, host.pause.detail)
                seconds = max(pause, host.next_at - now)
                is_free = host.running < self.limits.concurrency
                if is_free and seconds <= 0:
                    seconds = self._machine.take_turn(name, interval) if self._machine else 0.0
                    if seconds <= 0:
                        break
                    host.next_at = now + seconds  # another run has the turn
                if host.pause and pause > 0:
                    with waiting(f"{name} asks to wait ({host.pause.reason})", until=time.time() + pause):
                        host.changed.wait(seconds if is_free else None)
                else:
                    host.changed.wait(seconds if is_free else None)
            host.running += 1
            host.next_at = now + interval * self._processes
            host.pause = None

    def _take_over_pause(self, host: _Host, name: str) -> None:
        """Take over a pause that the host requested from another process."""
        if self._machine and (found := self._machine.find_pause(name)):
            reason, detail, seconds = found
            host.pause = FetchError(reason, detail)
            host.paused_until = max(host.paused_until, time.monotonic() + seconds)

    def _count_failure(self, host: _Host, name: str, error: FetchError, seconds: float) -> None:
        """Count a temporary failure against the host, and begin a pause where the host requests one."""
        if not error.is_transient:
            return
        with host.changed:
            host.wasted += seconds
            if error.reason in _PAUSE_REASONS:
                pause = self._pause_seconds(host, error)
                host.pauses_in_row += 1
                host.wasted += pause
                host.pause = FetchError(error.reason, error.detail)
                host.paused_until = max(host.paused_until, time.monotonic() + pause)
                if self._machine:
                    self._machine.put_pause(name, error.reason, error.detail, pause)
            if host.wasted >= self.limits.patience:
                host.given_up = FetchError(error.reason, error.detail)

    def _pause_seconds(self, host: _Host, error: FetchError) -> float:
        first = self.limits.first_pause
        pause = first * 2.0**host.pauses_in_row if error.retry_after is None else error.retry_after
        return min(
            pause * random.uniform(1.0, 1.25), _LONGEST_PAUSE
        )  # random, so that processes do not return together


_HOST = re.compile(HOST, re.IGNORECASE)
_Heap = list[tuple[float, str]]
UrlRow = tuple[int, str]
"""Index of a row in its shard, and its URL."""


class HostPool:
    """The methods of a ThreadPool that Downloader uses; for one shard.

    Args:
        threads: number of threads. At most twice as many results wait for the Downloader.
        pace: when hosts may be asked, and by how many threads at a time.
        find_url: returns the URL that is requested for that of a row.
    """

    def __init__(self, threads: int, pace: HostPace, find_url: Callable[[str], str] = lambda url: url):
        self._threads, self.pace, self._find_url = threads, pace, find_url
        lock = threading.Lock()
        self._row_ready, self._result_ready = threading.Condition(lock), threading.Condition(lock)
        self._rows: defaultdict[str, deque[UrlRow]] = defaultdict(deque)
        self._left = 0
        self._ready: tuple[_Heap, _Heap] = [], []  # quick and slow hosts with rows left that may get a thread
        self._later: _Heap = []  # times at which hosts may be asked, and the hosts
        self._queued: set[str] = set()  # hosts in one of the heaps
        self._running: Counter[str] = Counter()
        self._slow_running = 0
        self._results: deque[tuple[str, Any]] = deque()
        self.current = ""
        """URL that was requested for the row whose result was returned last."""

    def imap_unordered(self, function: Callable[[UrlRow], Any], rows: Iterable[UrlRow]) -> Iterator[Any]:
        """Yield the function's result for each row, in any order. The function must not raise."""
        for row in rows:
            self._rows[parse_host(self._find_url(row[1]))].append(row)
        total = self._left = sum(map(len, self._rows.values()))
        with self._row_ready:
            for host in self._rows:
                self._queue(host)
        for _ in range(min(self._threads, total)):
            threading.Thread(target=self._run_thread, args=(function,), name="fetch", daemon=True).start()
        for _ in range(total):
            with self._result_ready:
                while not self._results:
                    self._result_ready.wait()
                url, result = self._results.popleft()
                self.current = self._find_url(url)
                self._row_ready.notify()
            yield result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.terminate()

    def terminate(self) -> None:
        """Start no further row."""
        with self._row_ready:
            self._left = 0
            self._row_ready.notify_all()

    def join(self) -> None:
        """Do nothing: after the last result, no thread has work left."""

    def _run_thread(self, function: Callable[[UrlRow], Any]) -> None:
        while next_row := self._pop_row():
            host, row, is_slow = next_row
            self._put_result(host, is_slow, (row[1], function(row)))

    def _pop_row(self) -> tuple[str, UrlRow, bool] | None:
        """Return the host of the next row, the row, and whether the host is slow; None when no row is left."""
        quick, slow = self._ready
        with self._row_ready:
            while self._left:
                now = time.monotonic()
                while self._later and self._later[0][0] <= now:
                    self._queue(heapq.heappop(self._later)[1], again=True)
                if len(self._results) < self._threads and (quick or slow):
                    break
                self._row_ready.wait(self._later[0][0] - now if self._later else None)
            if not self._left:
                self._row_ready.notify_all()
                return None
            is_slow = bool(slow) and (not quick or 2 * self._slow_running < self._threads)
            _, host = heapq.heappop(slow if is_slow else quick)
            self._queued.discard(host)
            row = self._rows[host].popleft()
            self._left -= 1
            self._running[host] += 1
            self._slow_running += is_slow
            self._queue(host)
            return host, row, is_slow

    def _put_result(self, host: str, is_slow: bool, result: tuple[str, object]) -> None:
        with self._result_ready:
            self._running[host] -= 1
            self._slow_running -= is_slow
            self._queue(host)
            self._results.append(result)
            self._result_ready.notify()

    def _queue(self, host: str, *, again: bool = False) -> None:
        """Add a host to its heap, if it is in none, has a row left and a free thread."""
        if again:
            self._queued.discard(host)
        wait, is_rare = self.pace.seconds_until_turn(host)
        left, most = len(self._rows[host]), 1 if is_rare else self.pace.limits.concurrency
        if host in self._queued or not left or self._running[host] >= most:
            return
        self._queued.add(host)
        if wait >= _FAR:
            heapq.heappush(self._later, (time.monotonic() + wait, host))
        else:
            seconds = self.pace.answer_seconds(host) or SLOW
            heapq.heappush(self._ready[seconds >= SLOW], (-left * seconds, host))
        self._row_ready.notify()


CPU_SECONDS = 60.0
"""CPU time that the images of a host may cost in a shard, beyond what their size explains, in seconds."""
_SECONDS_PER_IMAGE, _SECONDS_PER_BYTE = 0.1, 0.5e-6


class CpuBudget:
    """Stops a host whose images cost far more CPU time than their size explains: 2.5 KB can keep a decoder for seconds.

    Args:
        pool: its current row is that of the image, and its pace gives the host up.
        seconds: the budget of each host.
    """

    def __init__(self, pool: HostPool, seconds: float = CPU_SECONDS):
        self._pool, self._seconds = pool, seconds
        self._spent: defaultdict[str, float] = defaultdict(float)

    def refusal(self) -> str | None:
        """Return why the image of the current row is not decoded, if its host has spent its budget."""
        return self._message() if self._spent[parse_host(self._pool.current)] > self._seconds else None

    def charge(self, cpu_seconds: float, size: int) -> None:
        """Charge an image of the current row to its host.

        Args:
            size: of the image as fetched, in bytes.
        """
        excess = cpu_seconds - _SECONDS_PER_IMAGE - _SECONDS_PER_BYTE * size
        host = parse_host(self._pool.current)
        if excess > 0 and self._spent[host] <= self._seconds < self._spent[host] + excess:
            reason, _, detail = self._message().partition(": ")
            self._pool.pace.give_up(host, FetchError(reason, detail))
        self._spent[host] += max(0.0, excess)

    def _message(self) -> str:
        over = f"over {self._seconds:g} s more CPU time than their size explains"
        return f"{Reason.HOST_CPU}: images of this host took {over}"


def parse_host(url: str) -> str:
    """Return the host of a URL as the pace of hosts names it, or "" for text without a host."""
    found = _HOST.match(url)
    return found[1].lower().strip("[]") if found else ""
