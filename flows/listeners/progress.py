"""Measure and format the progress of one stage: what is done, the rate, the time that is left, and waits."""

import time
from collections import deque
from collections.abc import Callable, Sequence

from dataops.messages.waiting import Wait, format_duration

UNITS = {"extract": "files", "download": "images", "train": "steps", "evaluate": "tasks"}
"""What a stage's progress counts; the others count per cent of their work."""
WINDOW_SECONDS = 60.0
"""Time over which the rate is measured."""
IDLE_SECONDS = 2.0
"""Time without progress after which waits are shown: one slow host does not hold up a download."""
_MIN_SECONDS = 2.0
"""Time after which a rate is shown."""
_MIN_SAMPLES, _MIN_SHARE = 4, 0.01
"""Measurements, or share of the work, after which the time left is shown."""


class StageProgress:
    """The progress of one stage, as its `context.progress` reports it."""

    def __init__(self, stage: str, clock: Callable[[], float] = time.monotonic):
        self.stage, self._clock, self._began = stage, clock, clock()
        self.done, self.total, self.line = 0.0, 0, ""
        self._moved = self._began
        self._samples: deque[tuple[float, float]] = deque()

    def update(self, done: float, total: int, line: str) -> None:
        """Set the progress. A smaller `done` or another `total` begins a new measurement of the rate."""
        if total != self.total or done < self.done:
            self._samples.clear()
        self.done, self.total, self.line = done, total, line
        if not self._samples or self._samples[-1][1] != done:
            self._samples.append((self._clock(), done))
            self._moved = self._clock()
        while len(self._samples) > 2 and self._samples[1][0] <= self._clock() - WINDOW_SECONDS:
            self._samples.popleft()

    @property
    def seconds(self) -> float:
        """Seconds since the stage began."""
        return self._clock() - self._began

    def select_waits(self, waits: Sequence[Wait], now: float) -> list[Wait]:
        """Return the waits to show, one of each reason: those that last, while nothing else continues.

        Args:
            now: Unix time.
        """
        if self._clock() - self._moved < IDLE_SECONDS:
            return []
        return list({wait.reason: wait for wait in reversed(waits) if wait.is_shown(now)}.values())[::-1]

    @property
    def rate(self) -> float | None:
        """Units per second over the last minute; None if it is not known yet."""
        if len(self._samples) < 2:
            return None
        seconds = self._clock() - self._samples[0][0]
        return (self.done - self._samples[0][1]) / seconds if seconds >= _MIN_SECONDS else None

    @property
    def seconds_left(self) -> float | None:
        """Estimate of the seconds until the stage is done; None if it is not known yet."""
        if not self.total or not self.rate:
            return None
        # The first unit of much work also has the time of the workers' start, so it gives no estimate.
        is_early = len(self._samples) < _MIN_SAMPLES and self.done - self._samples[0][1] < _MIN_SHARE * self.total
        return None if is_early else (self.total - self.done) / self.rate

    def format_done(self) -> str:
        """Return how much is done: `2,310/4,423 images`, or `34%`."""
        if not self.total:
            return ""
        if (unit := UNITS.get(self.stage)) is None:
            return f"{100 * self.done / self.total:.0f}%"
        return f"{int(self.done):,}/{self.total:,} {unit}"

    def format_rate(self) -> str:
        """Return the rate: `210/s`, or `12/min` below one a second; nothing where only per cent are counted."""
        if not self.rate or self.stage not in UNITS:
            return ""
        return f"{self.rate:,.0f}/s" if self.rate >= 10 else f"{self.rate:.1f}/s" if self.rate >= 1 else self._slow()

    def _slow(self) -> str:
        return f"{60 * (self.rate or 0):.1f}/min"

    def format_left(self) -> str:
        """Return the time that is left: `ETA 0:10`, or nothing while it is not known."""
        return f"ETA {format_duration(left)}" if (left := self.seconds_left) is not None else ""

    def describe(self, waits: Sequence[Wait], now: float) -> str:
        """Return one line for a log.

        Args:
            waits: what is being waited for; it takes the place of rate and time left.
            now: Unix time.
        """
        numbers = [self.format_done() or f"at work for {format_duration(self.seconds)}"]
        if self.total and self.stage in UNITS:
            numbers[0] += f" ({100 * self.done / self.total:.0f}%)"
        detail = describe_waits(waits, now) if waits else self.line
        if not waits:
            numbers += [self.format_rate(), self.format_left()]
        return f"{self.stage}: {', '.join(filter(None, numbers))}" + (f"; {detail}" if detail else "")


def describe_waits(waits: Sequence[Wait], now: float) -> str:
    """Return the longest wait, with the number of the others."""
    return waits[0].describe(now, len(waits) - 1)
