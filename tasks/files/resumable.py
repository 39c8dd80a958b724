"""Read a remote file as one stream that reconnects where the connection broke, without reading bytes twice."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from dataops.errors import SourceError, SourceUnreachable
from dataops.messages.waiting import pause

LONGEST_BACK_OFF = 60.0
UNREACHABLE_SECONDS = 30.0
"""Maximum waiting for a host that this process has never reached: its name does not resolve, or nothing answers there."""
_REACHED: set[str] = set()
"""Hosts that have answered this process."""


def mark_reached(host: str) -> None:
    """Record that a host has answered this process: a later failure to connect is then waited for in full."""
    _REACHED.add(host)


class ConnectionBroken(Exception):
    """The connection was refused or broke, and a retry may succeed.

    Args:
        why: the cause, for the message if no retry succeeds.
        retry_after: seconds that the server requests to wait.
        unreachable: the host that could not be connected to.
    """

    def __init__(self, why: str, retry_after: float | None = None, unreachable: str | None = None):
        super().__init__(why)
        self.retry_after, self.unreachable = retry_after, unreachable


@dataclass(frozen=True)
class RetryLimit:
    """Limits on the waiting for a file."""

    max_wait: float
    """Seconds of consecutive waiting without a byte, after which the file counts as failed."""
    sleep: Callable[[float], None] = time.sleep
    back_off: float = 1.0
    """Seconds of the first wait; the next ones double."""


class Connection(Protocol):
    """An open response, from the requested byte on."""

    size: int | None
    """Size of the whole file in bytes, if the server states it."""

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes; none at the end of the response. Raises: ConnectionBroken."""
        ...

    def close(self) -> None:
        """Close the response."""


class ResumableStream:
    """Binary stream for one reading from start to end.

    Args:
        name: name of the file, for messages.
        connect: opens the file at a byte. Raises: ConnectionBroken, and SourceError if a retry cannot succeed.
    """

    def __init__(self, name: str, connect: Callable[[int], Connection], patience: RetryLimit):
        self.name, self.position = name, 0
        self._connect, self._patience = connect, patience
        self._connection: Connection | None = None
        self._size: int | None = None
        self._tries, self._waited, self._since = 0, 0.0, 0.0

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes; none at the end. Raises: SourceError when the retries are used up."""
        while True:
            try:
                data = self._read(size)
            except ConnectionBroken as broken:
                self.close()
                self._wait(broken)
            else:
                if data:
                    self._tries, self._waited = 0, 0.0
                self.position += len(data)
                return data

    def _read(self, size: int) -> bytes:
        if self._connection is None:
            if self._size is not None and self.position == self._size:
                return b""
            self._connection = self._connect(self.position)
            self._size = self._connection.size if self._size is None else self._size
        data = self._connection.read(size)
        if not data and self._size is not None and self.position < self._size:
            raise ConnectionBroken(f"the answer ended after {self.position:,} of {self._size:,} bytes")
        return data

    def _wait(self, broken: ConnectionBroken) -> None:
        longest = min(LONGEST_BACK_OFF, self._patience.back_off * 2**self._tries)
        # Jitter, so that workers that were refused together do not come back together.
        seconds = random.uniform(longest / 2, longest)
        if broken.retry_after is not None:
            seconds = max(seconds, broken.retry_after)
        if not self._tries:
            self._since = time.time()
        self._tries += 1
        self._waited += seconds
        limit = self._patience.max_wait
        if broken.unreachable and broken.unreachable not in _REACHED:
            limit = min(limit, UNREACHABLE_SECONDS)
        if self._waited > limit:
            tries = f"{self.name}: {broken}; gave up after {self._tries} {'try' if self._tries == 1 else 'tries'}"
            if broken.unreachable:
                raise SourceUnreachable(f"{tries} in {time.time() - self._since:.0f} s: check the network and the URL")
            if broken.retry_after is not None:
                tries += f": the server asks to wait {broken.retry_after:g} s, over source.max_wait"
            raise SourceError(tries) from broken
        reason = str(broken) if self.name in str(broken) else f"{self.name}: {broken}"
        deadline = time.time() + seconds + limit - self._waited
        pause(seconds, reason, since=self._since, deadline=deadline, sleep=self._patience.sleep)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> "ResumableStream":
        return self

    def __exit__(self, kind: object, error: object, trace: object, /) -> None:
        self.close()
