"""Resolve each host name once, with a deadline for each caller.

The system's getaddrinfo takes no deadline and may hang for as long as the system's settings allow. It therefore runs in a
bounded pool of threads, and each caller waits only until its own deadline. All callers of one DnsCache share its results.
"""

import socket
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from functools import lru_cache
from queue import SimpleQueue
from typing import Any

SocketAddresses = list[tuple[socket.AddressFamily, Any]]
"""Socket addresses with port 0; empty if the host has none."""

TTL = 300.0
"""Seconds for which a result is kept: getaddrinfo does not return the TTL of the record."""
FAILED_TTL = 30.0
"""Seconds for which the absence of an address is kept."""
MAX_WAIT = 5.0
"""Seconds that a caller waits for a host at most, whatever its deadline."""
THREADS = 32
_MAX_NAMES = 100_000


class DnsCache:
    """A cache in front of getaddrinfo. Safe to use from many threads."""

    def __init__(self, threads: int = THREADS):
        self._threads = threads
        self._lock = threading.Lock()
        self._cached: dict[str, tuple[float, SocketAddresses]] = {}
        self._pending: dict[str, Future[SocketAddresses]] = {}
        self._queue: SimpleQueue[str] = SimpleQueue()
        self._running = 0

    def resolve(self, host: str, deadline: float = float("inf")) -> SocketAddresses | None:
        """Return the addresses of a host, or None if they were not resolved in time.

        Args:
            deadline: time of time.monotonic().
        """
        with self._lock:
            cached = self._cached.get(host)
            if cached and cached[0] > time.monotonic():
                return cached[1]
            pending = self._pending.get(host) or self._start(host)
        try:
            return pending.result(max(0.0, min(MAX_WAIT, deadline - time.monotonic())))
        except FutureTimeout:
            return None

    def _start(self, host: str) -> "Future[SocketAddresses]":
        pending = self._pending[host] = Future()
        self._queue.put(host)
        if self._running < min(self._threads, len(self._pending)):
            self._running += 1
            # A daemon, so that a host that hangs does not delay the end of the process.
            threading.Thread(target=self._work, name="dns", daemon=True).start()
        return pending

    def _work(self) -> None:
        while True:
            host = self._queue.get()
            found = _addresses(host)
            with self._lock:
                if len(self._cached) >= _MAX_NAMES:
                    self._forget()
                self._cached[host] = (time.monotonic() + (TTL if found else FAILED_TTL), found)
                pending = self._pending.pop(host)
            pending.set_result(found)

    def _forget(self) -> None:
        """Drop the expired results, and the older half of the others if that is not enough."""
        now = time.monotonic()
        fresh = {host: result for host, result in self._cached.items() if result[0] > now}
        half = len(fresh) // 2 if len(fresh) > _MAX_NAMES // 2 else 0
        self._cached = dict(list(fresh.items())[half:])


@lru_cache(maxsize=1)
def shared_dns() -> DnsCache:
    """Return the cache of this process: its shards, made one after the other, resolve no host twice."""
    return DnsCache()


def _addresses(host: str) -> SocketAddresses:
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)  # noqa: TID251  resolves for the safe fetch
    except (OSError, UnicodeError):
        return []
    return [(family, address) for family, _, _, _, address in found]
