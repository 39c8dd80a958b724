"""How often a host is asked: so many requests at a time and a second, longer pauses where it asks for them, not at all
where it is dead.

A thread that waits for its turn at one host asks no other; tasks.download.fetch.host_pool sees to it that few do. A turn is waited for,
but briefly; and a host that cost its patience in vain fails its remaining rows at once. A pause that a host asks for is
told to the other processes of the run.
"""

import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tasks.web.host_state import Pauses
from tasks.web.request import FetchError

_FIRST_PAUSE = 1.0  # seconds, after a 429 or 503 that does not say how long; doubled with each more
_LONGEST_PAUSE = 600.0
_PUSHED_BACK = frozenset({"http_429", "http_503"})


@dataclass(frozen=True)
class PaceLimits:
    """What one process may do to one host.

    Attributes:
        concurrency: requests at a time.
        interval: seconds between the starts of two, of all processes together.
        processes: how many ask beside each other; each keeps so many times the interval.
        max_pause: seconds that a host may ask to be left alone, for a request to wait; else it fails as the one did that
            made the pause.
        patience: seconds that a request waits for its turn, before it fails as `host_busy`; and that a host may cost in
            vain, failed requests and pauses together, before its other rows fail without being asked for. A success
            forgives half.
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
    lost: float = 0.0
    pushes: int = 0
    pause: FetchError | None = None
    """The answer that made the pause until `next_at`."""
    verdict: FetchError | None = None


class HostPace:
    """The turns of one shard; for use from many threads.

    Args:
        pauses: what hosts told the other processes of the run.
    """

    def __init__(self, limits: PaceLimits, pauses: Pauses | None = None):
        self.limits, self._pauses = limits, pauses
        self._hosts: defaultdict[str, _Host] = defaultdict(_Host)
        self._lock = threading.Lock()

    @contextmanager
    def turn(self, name: str, interval: float = 0.0) -> Iterator[None]:
        """Wait for a turn at a host, and have it until the block ends.

        Args:
            name: of the host.
            interval: seconds that the host wants between requests, where that is longer than ours.

        Raises: FetchError, where the wait would be too long or the host is given up; also passes on the block's own, of
        which it learns.
        """
        with self._lock:
            host = self._hosts[name]
        self._enter(host, name, max(interval, self.limits.interval) * self.limits.processes)
        started = time.monotonic()
        try:
            yield
        except FetchError as error:
            self._failed(host, name, error, time.monotonic() - started)
            raise
        else:
            with host.changed:
                host.lost, host.pushes = host.lost / 2, 0
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
                if host.verdict:
                    raise FetchError(host.verdict.reason, host.verdict.detail)
                pause = host.next_at - now
                if pause > (self.limits.max_pause if host.pause else give_up - now) or now >= give_up:
                    raise (host.pause if pause > 0 else None) or FetchError("host_busy", "no turn in time")
                free = host.running < self.limits.concurrency
                if free and pause <= 0:
                    break
                host.changed.wait(pause if free else give_up - now)
                self._take_over_pause(host, name)
            host.running += 1
            host.next_at = now + interval
            host.pause = None

    def _take_over_pause(self, host: _Host, name: str) -> None:
        """Take over a pause that another process was told."""
        if self._pauses and (found := self._pauses.remaining(name)):
            reason, detail, seconds = found
            host.pause = FetchError(reason, detail)
            host.next_at = max(host.next_at, time.monotonic() + seconds)

    def _failed(self, host: _Host, name: str, error: FetchError, seconds: float) -> None:
        """Learn from a failure that another try might mend; others say nothing of the host."""
        if not error.is_transient:
            return
        with host.changed:
            host.lost += seconds
            if error.reason in _PUSHED_BACK:
                pause = self._pause(host, error)
                host.pushes += 1
                host.lost += pause
                host.pause = FetchError(error.reason, error.detail)
                host.next_at = max(host.next_at, time.monotonic() + pause)
                if self._pauses:
                    self._pauses.put(name, error.reason, error.detail, pause)
            if host.lost >= self.limits.patience:
                host.verdict = FetchError(error.reason, error.detail)

    @staticmethod
    def _pause(host: _Host, error: FetchError) -> float:
        pause = _FIRST_PAUSE * 2.0**host.pushes if error.retry_after is None else error.retry_after
        return min(pause * random.uniform(1.0, 1.25), _LONGEST_PAUSE)  # so that processes do not come back together
