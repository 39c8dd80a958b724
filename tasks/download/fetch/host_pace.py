"""Limits the requests to each host: in parallel, per second, in pauses that it requests, and once it seems dead.

A thread that waits for its turn at a host fetches nothing else; tasks.download.fetch.host_pool keeps such threads few.
The wait for a turn is short, and a host that has wasted its `patience` fails its other rows at once. The processes of a
run share the pauses that hosts request.
"""

import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from dataops.messages.waiting import waiting
from tasks.web.fetch_error import FetchError
from tasks.web.host_state import Pauses

_FIRST_PAUSE = 1.0
"""Seconds of the pause after a 429 or 503 without Retry-After; each further one in a row doubles it."""
_LONGEST_PAUSE = 600.0
_PAUSE_REASONS = frozenset({"http_429", "http_503"})


@dataclass(frozen=True)
class PaceLimits:
    """Limits of one process for one host.

    Attributes: concurrency: parallel requests. interval: seconds between the starts of two requests, over all processes
        together. processes: number of processes that send requests; each waits this many times the interval. max_pause:
        longest pause in seconds for which a request waits; in a longer pause it fails with the error that caused
            the pause.
        patience: seconds that a request waits for its turn before it fails as `host_busy`; and seconds that a host may
            waste with failed requests and pauses before its other rows fail without a request. A success halves what it
            has wasted.
    """

    concurrency: int = 4
    interval: float = 0.0
    processes: int = 1
    max_pause: float = 10.0
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

    @contextmanager
    def turn(self, name: str, interval: float = 0.0) -> Iterator[None]:
        """Wait for a turn at a host, and hold it until the block ends.

        Args:
            name: name of the host.
            interval: seconds between requests by its Crawl-delay; the configured interval holds where it is longer.

        Raises: FetchError when the wait would be too long or the host is given up. A FetchError of the block passes
            through,
        and counts against the host.
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
                    raise (host.pause if pause > 0 else None) or FetchError("host_busy", "no turn in time")
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

    @staticmethod
    def _pause_seconds(host: _Host, error: FetchError) -> float:
        pause = _FIRST_PAUSE * 2.0**host.pauses_in_row if error.retry_after is None else error.retry_after
        return min(
            pause * random.uniform(1.0, 1.25), _LONGEST_PAUSE
        )  # random, so that processes do not return together
