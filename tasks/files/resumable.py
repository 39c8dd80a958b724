"""Read a remote file as one stream that reconnects where the connection broke, without reading bytes twice."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from dataops.errors import SourceError

BACK_OFF = 1.0
"""Seconds before the first retry; each later one without progress waits twice as long, up to LONGEST_BACK_OFF."""
LONGEST_BACK_OFF = 60.0


class ConnectionBroken(Exception):
    """The connection was refused or broke, and a retry may succeed.

    Args:
        why: the cause, for the message if no retry succeeds.
        retry_after: seconds that the server requests to wait.
    """

    def __init__(self, why: str, retry_after: float | None = None):
        super().__init__(why)
        self.retry_after = retry_after


@dataclass(frozen=True)
class RetryLimit:
    """Limits on the waiting for a file."""

    max_wait: float
    """Seconds of consecutive waiting without a byte, after which the file counts as failed."""
    sleep: Callable[[float], None] = time.sleep


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
        self._tries, self._waited = 0, 0.0

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
        longest = min(LONGEST_BACK_OFF, BACK_OFF * 2**self._tries)
        # Jitter, so that workers that were refused together do not come back together.
        seconds = random.uniform(longest / 2, longest)
        if broken.retry_after is not None:
            seconds = max(seconds, broken.retry_after)
        self._tries += 1
        self._waited += seconds
        if self._waited > self._patience.max_wait:
            msg = f"{self.name}: {broken}; gave up after {self._tries} tries"
            if broken.retry_after is not None:
                msg += f": the server asks to wait {broken.retry_after:g} s, over source.max_wait"
            raise SourceError(msg) from broken
        self._patience.sleep(seconds)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> "ResumableStream":
        return self

    def __exit__(self, kind: object, error: object, trace: object, /) -> None:
        self.close()
