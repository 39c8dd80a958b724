"""Register what a process waits for, since when and until when, so that a display can show it.

`waiting` and `pause` are called where the wait is: a retry, a lease of another run, the start of a
server. The display of a run polls `current_waits`; a worker process passes its waits on to its
parent (tasks.engine.map_progress).
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

SHOWN_FROM_SECONDS = 2.0
"""A wait that is shorter is not shown."""


@dataclass(frozen=True)
class Wait:
    """One wait. All times are Unix times."""

    reason: str
    """What is waited for, and why: `data.commoncrawl.org: the name does not resolve`."""
    since: float
    """When the first of its attempts failed, or the wait began."""
    until: float | None = None
    """When the next attempt begins; None if that depends on others."""
    deadline: float | None = None
    """When the last attempt ends; None if there is no limit."""

    def describe(self, now: float, others: int = 0) -> str:
        """Return one line about the wait at a time.

        Args:
            others: number of other waits at this time.
        """
        texts = [self.reason, f"waiting for {format_duration(now - self.since)}"]  # a narrow terminal cuts the end
        if self.until is not None and self.until > now:
            texts.append(f"next attempt in {format_duration(self.until - now)}")
        if self.deadline is not None and self.deadline > now:
            texts.append(f"gives up in {format_duration(self.deadline - now)}")
        return "; ".join(texts) + (f" (and {others} more waits)" if others else "")

    def is_shown(self, now: float) -> bool:
        """Return whether it lasts, or will last, long enough to be shown."""
        return max(now, self.until or 0.0) - self.since >= SHOWN_FROM_SECONDS


_waits: dict[int, Wait] = {}
_worker_waits: tuple[Wait, ...] = ()
_lock = threading.Lock()
_listeners: list[Callable[[], None]] = []


@contextmanager
def waiting(
    reason: str, *, since: float | None = None, until: float | None = None, deadline: float | None = None
) -> Iterator[None]:
    """Register a wait for the time inside the `with`; the arguments are the fields of Wait, `since` is now by default."""
    wait = Wait(reason, time.time() if since is None else since, until, deadline)
    with _lock:
        _waits[id(wait)] = wait
    _notify()
    try:
        yield
    finally:
        with _lock:
            del _waits[id(wait)]
        _notify()


def pause(
    seconds: float,
    reason: str,
    *,
    since: float | None = None,
    deadline: float | None = None,
    sleep: Callable[[float], None] | None = None,
) -> None:
    """Sleep, and register the sleep as a wait until the next attempt."""
    with waiting(reason, since=since, until=time.time() + seconds, deadline=deadline):
        (sleep or time.sleep)(seconds)


def set_worker_waits(waits: Iterable[Wait]) -> None:
    """Replace the waits of this process's workers, which `current_waits` returns too."""
    global _worker_waits
    _worker_waits = tuple(waits)


def current_waits() -> list[Wait]:
    """Return the waits of this process and of its workers, the longest first."""
    with _lock:
        return sorted([*_waits.values(), *_worker_waits], key=lambda wait: wait.since)


def on_change(listener: Callable[[], None]) -> None:
    """Call a function after each begin and end of a wait of this process."""
    _listeners.append(listener)


def _notify() -> None:
    for listener in _listeners:
        listener()


def format_duration(seconds: float) -> str:
    """Return a duration as `0:07`, `12:40` or `3:05:00`."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
