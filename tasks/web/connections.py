"""Keeps the connections of whole responses, so that the next request to the same host needs no new one.

A connection serves only requests of its scheme, host and port, and only while the address that it is connected to is
among the checked ones of the request.
"""

import select
import threading
import time
from collections.abc import Collection
from typing import NamedTuple

from tasks.web.address_policy import Target
from tasks.web.bounded_socket import PlainSocket, TLSSocket

MAX_IDLE = 64
"""Maximum number of idle connections."""
IDLE_SECONDS = 4.0
"""Seconds after which an idle connection is closed: many servers close theirs after five."""

Socket = PlainSocket | TLSSocket
Origin = tuple[str, str, int]
"""Scheme, host and port."""


class _Idle(NamedTuple):
    origin: Origin
    sock: Socket
    until: float


class IdleConnections:
    """The idle connections of one client. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Idle] = []  # the one that was used last is at the end

    def take(self, origin: Origin, targets: Collection[Target]) -> Socket | None:
        """Return an open connection to one of `targets`, or None. Connections that the server closed are dropped."""
        while True:
            with self._lock:
                numbers = range(len(self._idle) - 1, -1, -1)
                found = next((n for n in numbers if self._idle[n].origin == origin), None)
                if found is None:
                    return None
                _, sock, until = self._idle.pop(found)
            if time.monotonic() < until and sock.target in targets and not _has_event(sock):
                return sock
            sock.close()

    def put(self, origin: Origin, sock: Socket) -> None:
        """Keep a connection whose last response was read to its end. Drop expired ones, and the oldest if too many."""
        now = time.monotonic()
        with self._lock:
            self._idle.append(_Idle(origin, sock, now + IDLE_SECONDS))
            expired = sum(one.until < now for one in self._idle)
            dropped = max(expired, len(self._idle) - MAX_IDLE)
            closed, self._idle = self._idle[:dropped], self._idle[dropped:]
        for one in closed:
            one.sock.close()

    def close(self) -> None:
        """Close all idle connections."""
        with self._lock:
            closed, self._idle = self._idle, []
        for one in closed:
            one.sock.close()


def _has_event(sock: Socket) -> bool:
    """Return whether the server closed an idle connection, or sent bytes that belong to no response."""
    if isinstance(sock, TLSSocket) and sock.pending():
        return True
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))
