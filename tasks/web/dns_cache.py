"""Host names resolved once each, by a bounded pool of threads that nobody has to wait for longer than they want.

The system's getaddrinfo cannot be given a deadline: it may hang for as long as its own settings say. So it runs in threads
of its own, and who asks waits only until its own deadline. Answers are shared by all who ask through one Dns.
"""

import socket
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from functools import lru_cache
from queue import SimpleQueue
from typing import Any

Found = list[tuple[socket.AddressFamily, Any]]
"""Socket addresses with port 0; empty where the name has none."""

TTL = 300.0
"""Seconds for which an answer holds: getaddrinfo does not tell the record's own."""
FAILED_TTL = 30.0
PATIENCE = 5.0
"""Seconds that a name may take, where the asker has longer."""
THREADS = 32
_MAX_NAMES = 100_000


class DnsCache:
    """A cache of names in front of getaddrinfo; for use from many threads."""

    def __init__(self, threads: int = THREADS):
        self._threads = threads
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, Found]] = {}
        self._asked: dict[str, Future[Found]] = {}
        self._queue: SimpleQueue[str] = SimpleQueue()
        self._running = 0

    def resolve(self, host: str, deadline: float = float("inf")) -> Found | None:
        """The addresses of a host, or None where there was no answer in time.

        Args:
            deadline: a time of time.monotonic().
        """
        with self._lock:
            known = self._known.get(host)
            if known and known[0] > time.monotonic():
                return known[1]
            answer = self._asked.get(host) or self._ask(host)
        try:
            return answer.result(max(0.0, min(PATIENCE, deadline - time.monotonic())))
        except NotInTime:
            return None

    def _ask(self, host: str) -> "Future[Found]":
        answer = self._asked[host] = Future()
        self._queue.put(host)
        if self._running < min(self._threads, len(self._asked)):
            self._running += 1
            # A daemon: a name that hangs must not hold up the end of the process.
            threading.Thread(target=self._work, name="dns", daemon=True).start()
        return answer

    def _work(self) -> None:
        while True:
            host = self._queue.get()
            found = _addresses(host)
            with self._lock:
                if len(self._known) >= _MAX_NAMES:
                    self._forget()
                self._known[host] = (time.monotonic() + (TTL if found else FAILED_TTL), found)
                answer = self._asked.pop(host)
            answer.set_result(found)

    def _forget(self) -> None:
        """Make room: what is out of date, or else the older half."""
        now = time.monotonic()
        fresh = {host: known for host, known in self._known.items() if known[0] > now}
        half = len(fresh) // 2 if len(fresh) > _MAX_NAMES // 2 else 0
        self._known = dict(list(fresh.items())[half:])


@lru_cache(maxsize=1)
def shared_dns() -> DnsCache:
    """The one of this process: shards that it makes one after the other ask no name twice."""
    return DnsCache()


def _addresses(host: str) -> Found:
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [(family, address) for family, _, _, _, address in found]
