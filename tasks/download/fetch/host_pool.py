"""The threads of a shard, which no host can hold: at most a few of them are at one host at a time, and none waits for it.

img2dataset's Downloader hands its addresses to a multiprocessing.pool.ThreadPool in a fixed order: rows of a slow host then
sit in many threads, and the last of them keep the shard from ending. `HostPool` takes that pool's place. It knows all rows
of the shard from the start, and begins with what will take longest: hosts that it does not know yet, those that are slow,
those with many rows. So slow hosts are through when the quick ones are; half of the threads are kept for these.
"""

import heapq
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

SLOW = 1.0
"""Seconds from which on a request counts as slow; a host that was not asked yet is taken to be so."""

_Heap = list[tuple[float, str]]
UrlRow = tuple[int, str]
"""A row's place in its shard, and its url."""


class HostPool:
    """What Downloader uses of a ThreadPool; for one shard.

    Args:
        threads: in all. So many results, and as many again, are held until the Downloader takes them.
        per_host: rows of one host that are in threads at a time.
    """

    def __init__(self, threads: int, per_host: int):
        self._threads, self._per_host = threads, per_host
        lock = threading.Lock()
        self._row_ready, self._result_ready = threading.Condition(lock), threading.Condition(lock)
        self._rows: defaultdict[str, deque[UrlRow]] = defaultdict(deque)
        self._left = 0
        self._ready: tuple[_Heap, _Heap] = [], []  # quick hosts and slow ones that have rows left and may be asked
        self._running: Counter[str] = Counter()
        self._slow_running = 0
        self._seconds: dict[str, float] = {}  # of a request to a host, lately
        self._results: deque[Any] = deque()

    def imap_unordered(self, function: Callable[[UrlRow], Any], rows: Iterable[UrlRow]) -> Iterator[Any]:
        """The function's result for each row, as they come. It must not raise."""
        for row in rows:
            self._rows[parse_host(row[1])].append(row)
        total = self._left = sum(map(len, self._rows.values()))
        for host in self._rows:
            self._offer(host)
        for _ in range(min(self._threads, total)):
            threading.Thread(target=self._work, args=(function,), name="fetch", daemon=True).start()
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
        """Begin no further row."""
        with self._row_ready:
            self._left = 0
            self._row_ready.notify_all()

    def join(self) -> None:
        """Nothing: when all results are out, no thread has work left."""

    def _work(self, function: Callable[[UrlRow], Any]) -> None:
        while taken := self._take():
            host, row, slow = taken
            started = time.monotonic()
            result = function(row)
            self._done(host, time.monotonic() - started, slow, result)

    def _take(self) -> tuple[str, UrlRow, bool] | None:
        """The row to be fetched next, its host, and whether that is slow; None where none is left."""
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
            self._offer(host)
            return host, row, is_slow

    def _done(self, host: str, seconds: float, slow: bool, result: Any) -> None:
        with self._result_ready:
            self._seconds[host] = (self._seconds.get(host, seconds) + seconds) / 2
            self._running[host] -= 1
            self._slow_running -= slow
            if self._running[host] == self._per_host - 1:  # else it is among the ready ones
                self._offer(host)
            self._results.append(result)
            self._result_ready.notify()

    def _offer(self, host: str) -> None:
        """Put a host among the ready ones, where it has a row left and may be asked."""
        if (left := len(self._rows[host])) and self._running[host] < self._per_host:
            seconds = self._seconds.get(host, SLOW)
            heapq.heappush(self._ready[seconds >= SLOW], (-left * seconds, host))


def parse_host(url: str) -> str:
    """A url's host and port, or anything else where it has none: only who waits for whom depends on it."""
    return url.split("/", 3)[2].lower() if url.count("/") > 1 else ""
