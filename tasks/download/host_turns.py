"""Limits the requests to each host, and schedules the fetches of a shard, so that a slow host delays no other.

`HostPace` limits requests in parallel, per second, in pauses that a host requests, and once it seems dead. A thread that
waits for its turn at a host fetches nothing else; `HostPool` keeps such threads few. The wait for a turn is short, and a
host that has wasted its `patience` fails its other rows at once. The processes of a run share the pauses that hosts
request.

img2dataset's Downloader gives its URLs to a multiprocessing.pool.ThreadPool in a fixed order: rows of a slow host then
hold many threads, and the last of these rows delay the end of the shard. `HostPool` replaces this pool. It receives all
rows of the shard at the start, limits the threads of each host, and begins with the hosts that take longest: unknown
ones, slow ones, and those with many rows. Half of the threads are reserved for quick hosts.
"""

import heapq
import random
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Self

from dataops.messages.waiting import waiting
from dataops.reasons import Reason
from tasks.web.fetch_error import FetchError
from tasks.web.host_state import Pauses
from tasks.web.request import split_url

_LONGEST_PAUSE = 600.0
_DAY = 86_400.0
_PAUSE_REASONS = frozenset({"http_429", "http_503"})


@dataclass(frozen=True)
class PaceLimits:
    """Limits of one process for one host.

    Attributes:
        concurrency: parallel requests.
        interval: seconds between the starts of two requests, over all processes together.
        processes: number of processes that send requests; each waits this many times the interval.
        max_pause: longest pause in seconds for which a request waits; in a longer pause it fails with the error that
            caused the pause.
        first_pause: seconds of the pause after a 429 or 503 without Retry-After; each further one in a row doubles it.
        patience: seconds that a request waits for its turn before it fails as `host_busy`; and seconds that a host may
            waste with failed requests and pauses before its other rows fail without a request. A success halves what it
            has wasted.
    """

    concurrency: int = 4
    interval: float = 0.0
    processes: int = 1
    max_pause: float = 10.0
    first_pause: float = 1.0
    patience: float = 30.0


@dataclass
class _Host:
    changed: threading.Condition = field(default_factory=threading.Condition)
    running: int = 0
    next_at: float = 0.0
    """Time on the monotonic clock before which no request starts."""
    wasted: float = 0.0
    """Seconds of failed requests and pauses."""
    pauses_in_row: int = 0
    pause: FetchError | None = None
    """Error that caused the pause until `next_at`."""
    given_up: FetchError | None = None
    """Error with which all further requests fail."""


class HostPace:
    """The turns at the hosts of one shard; thread-safe.

    Args:
        pauses: pauses that hosts requested from any process of the run.
    """

    def __init__(self, limits: PaceLimits, pauses: Pauses | None = None):
        self.limits, self._pauses = limits, pauses
        self._hosts: defaultdict[str, _Host] = defaultdict(_Host)
        self._lock = threading.Lock()

    def give_up(self, name: str, error: FetchError) -> None:
        """Let all further requests to a host fail, in this and in the other processes of the run."""
        with self._lock:
            host = self._hosts[name]
        with host.changed:
            host.given_up = error
            host.changed.notify_all()
        if self._pauses:
            self._pauses.put(name, error.reason, error.detail, _DAY)

    @contextmanager
    def turn(self, name: str, interval: float = 0.0) -> Iterator[None]:
        """Wait for a turn at a host, and hold it until the block ends.

        Args:
            name: name of the host.
            interval: seconds between requests by its Crawl-delay; the configured interval holds where it is longer.

        Raises: FetchError when the wait would be too long or the host is given up. A FetchError of the block passes
        through, and counts against the host.
        """
        with self._lock:
            host = self._hosts[name]
        self._enter(host, name, max(interval, self.limits.interval) * self.limits.processes)
        started = time.monotonic()
        try:
            yield
        except FetchError as error:
            self._count_failure(host, name, error, time.monotonic() - started)
            raise
        else:
            with host.changed:
                host.wasted, host.pauses_in_row = host.wasted / 2, 0
        finally:
            with host.changed:
                host.running -= 1
                host.changed.notify_all()

    def _enter(self, host: _Host, name: str, interval: float) -> None:
        give_up = time.monotonic() + self.limits.patience
        with host.changed:
            self._take_over_pause(host, name)
            while True:
                now = time.monotonic()
                if host.given_up:
                    raise FetchError(host.given_up.reason, host.given_up.detail)
                pause = host.next_at - now
                if pause > (self.limits.max_pause if host.pause else give_up - now) or now >= give_up:
                    raise (host.pause if pause > 0 else None) or FetchError(Reason.HOST_BUSY, "no turn in time")
                is_free = host.running < self.limits.concurrency
                if is_free and pause <= 0:
                    break
                if host.pause and pause > 0:
                    reason = f"{name} asks to wait ({host.pause.reason})"
                    with waiting(reason, until=time.time() + pause):
                        host.changed.wait(pause if is_free else give_up - now)
                else:
                    host.changed.wait(pause if is_free else give_up - now)
                self._take_over_pause(host, name)
            host.running += 1
            host.next_at = now + interval
            host.pause = None

    def _take_over_pause(self, host: _Host, name: str) -> None:
        """Take over a pause that the host requested from another process."""
        if self._pauses and (found := self._pauses.remaining(name)):
            reason, detail, seconds = found
            host.pause = FetchError(reason, detail)
            host.next_at = max(host.next_at, time.monotonic() + seconds)

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
                host.next_at = max(host.next_at, time.monotonic() + pause)
                if self._pauses:
                    self._pauses.put(name, error.reason, error.detail, pause)
            if host.wasted >= self.limits.patience:
                host.given_up = FetchError(error.reason, error.detail)

    def _pause_seconds(self, host: _Host, error: FetchError) -> float:
        first = self.limits.first_pause
        pause = first * 2.0**host.pauses_in_row if error.retry_after is None else error.retry_after
        return min(
            pause * random.uniform(1.0, 1.25), _LONGEST_PAUSE
        )  # random, so that processes do not return together


SLOW = 1.0
"""Seconds of a request from which on its host is slow; a host without a request counts as slow."""

_Heap = list[tuple[float, str]]
UrlRow = tuple[int, str]
"""Index of a row in its shard, and its URL."""


class HostPool:
    """The methods of a ThreadPool that Downloader uses; for one shard.

    Args:
        threads: number of threads. At most twice as many results wait for the Downloader.
        per_host: maximum number of threads that fetch from one host.
    """

    def __init__(self, threads: int, per_host: int):
        self._threads, self._per_host = threads, per_host
        lock = threading.Lock()
        self._row_ready, self._result_ready = threading.Condition(lock), threading.Condition(lock)
        self._rows: defaultdict[str, deque[UrlRow]] = defaultdict(deque)
        self._left = 0
        self._ready: tuple[_Heap, _Heap] = [], []  # quick and slow hosts with rows left and fewer than per_host threads
        self._running: Counter[str] = Counter()
        self._slow_running = 0
        self._seconds: dict[str, float] = {}  # running average of a request to a host
        self._results: deque[tuple[str, Any]] = deque()
        self.current = ""
        """URL of the row whose result was returned last."""

    def imap_unordered(self, function: Callable[[UrlRow], Any], rows: Iterable[UrlRow]) -> Iterator[Any]:
        """Yield the function's result for each row, in any order. The function must not raise."""
        for row in rows:
            self._rows[parse_host(row[1])].append(row)
        total = self._left = sum(map(len, self._rows.values()))
        for host in self._rows:
            self._push_ready(host)
        for _ in range(min(self._threads, total)):
            threading.Thread(target=self._run_thread, args=(function,), name="fetch", daemon=True).start()
        for _ in range(total):
            with self._result_ready:
                while not self._results:
                    self._result_ready.wait()
                self.current, result = self._results.popleft()
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
            started = time.monotonic()
            result = function(row)
            self._put_result(host, time.monotonic() - started, is_slow, (row[1], result))

    def _pop_row(self) -> tuple[str, UrlRow, bool] | None:
        """Return the host of the next row, the row, and whether the host is slow; None when no row is left."""
        quick, slow = self._ready
        with self._row_ready:
            while self._left and (len(self._results) >= self._threads or not (quick or slow)):
                self._row_ready.wait()
            if not self._left:
                self._row_ready.notify_all()
                return None
            is_slow = bool(slow) and (not quick or 2 * self._slow_running < self._threads)
            _, host = heapq.heappop(slow if is_slow else quick)
            row = self._rows[host].popleft()
            self._left -= 1
            self._running[host] += 1
            self._slow_running += is_slow
            self._push_ready(host)
            return host, row, is_slow

    def _put_result(self, host: str, seconds: float, is_slow: bool, result: tuple[str, object]) -> None:
        with self._result_ready:
            self._seconds[host] = (self._seconds.get(host, seconds) + seconds) / 2
            self._running[host] -= 1
            self._slow_running -= is_slow
            if self._running[host] == self._per_host - 1:  # else the host is in the heap already
                self._push_ready(host)
            self._results.append(result)
            self._result_ready.notify()

    def _push_ready(self, host: str) -> None:
        """Add a host to its heap, if it has a row left and a free thread."""
        if (left := len(self._rows[host])) and self._running[host] < self._per_host:
            seconds = self._seconds.get(host, SLOW)
            heapq.heappush(self._ready[seconds >= SLOW], (-left * seconds, host))


CPU_SECONDS = 60.0
"""CPU time that the images of a host may cost in a shard, beyond what their size explains, in seconds."""
_SECONDS_PER_IMAGE, _SECONDS_PER_BYTE = 0.1, 0.5e-6


class CpuBudget:
    """Stops a host whose images cost far more CPU time than their size explains: 2.5 KB can keep a decoder for seconds.

    Args:
        pool: its current row is that of the image.
        pace: gives the host up.
        seconds: the budget of each host.
    """

    def __init__(self, pool: HostPool, pace: HostPace, seconds: float = CPU_SECONDS):
        self._pool, self._pace, self._seconds = pool, pace, seconds
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
            with suppress(FetchError):  # an image that no host serves
                self._pace.give_up(split_url(self._pool.current).hostname or "", FetchError(reason, detail))
        self._spent[host] += max(0.0, excess)

    def _message(self) -> str:
        over = f"over {self._seconds:g} s more CPU time than their size explains"
        return f"{Reason.HOST_CPU}: images of this host took {over}"


def parse_host(url: str) -> str:
    """Return the host and port of a URL, or "" for text without a host. Only the order of fetches depends on it."""
    return url.split("/", 3)[2].lower() if url.count("/") > 1 else ""
