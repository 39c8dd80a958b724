"""Schedules the fetches of a shard on threads, so that a slow host holds few of them and delays no shard.

img2dataset's Downloader gives its URLs to a multiprocessing.pool.ThreadPool in a fixed order: rows of a slow host then
hold many threads, and the last of these rows delay the end of the shard. `HostPool` replaces this pool. It receives all
rows of the shard at the start, limits the threads of each host, and begins with the hosts that take longest: unknown
ones, slow ones, and those with many rows. Half of the threads are reserved for quick hosts.
"""

import heapq
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

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
        self._results: deque[Any] = deque()

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
                result = self._results.popleft()
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
            self._put_result(host, time.monotonic() - started, is_slow, result)

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

    def _put_result(self, host: str, seconds: float, is_slow: bool, result: Any) -> None:
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


def parse_host(url: str) -> str:
    """Return the host and port of a URL, or "" for text without a host. Only the order of fetches depends on it."""
    return url.split("/", 3)[2].lower() if url.count("/") > 1 else ""
