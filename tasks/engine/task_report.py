"""Report how far the running tasks of a map are, from its worker processes to the process that started them.

Each worker writes a small file for its task at most twice a second; the caller of `read_reports` polls them. Workers on Ray
have no folder in common with the caller: there, only finished tasks count.
"""

import json
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from dataops.messages.waiting import Wait, current_waits, on_change

WRITE_SECONDS = 0.5
"""Minimum time between two writes of a task's file."""


@dataclass(frozen=True)
class TaskReport:
    """How far one task is."""

    share: float = 0.0
    """Share of the task that is done, 0 to 1."""
    kept: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Number of dropped rows by reason."""
    waits: tuple[Wait, ...] = ()


class _Reporter:
    """Writes the reports of the task that this process executes."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.report = TaskReport()
        self.written, self.pause = 0.0, WRITE_SECONDS
        self._lock, self._scheduled = threading.Lock(), False

    def write_soon(self) -> None:
        """Write now, or as soon as `pause` seconds have passed since the last time: hundreds of threads may wait."""
        with self._lock:
            if self.path is None or self._scheduled:
                return
            delay = self.written + self.pause - time.monotonic()
            if delay <= 0:
                self._write()
                return
            self._scheduled = True
        timer = threading.Timer(delay, self.write)
        timer.daemon = True
        timer.start()

    def write(self) -> None:
        """Write the report and the waits of now."""
        with self._lock:
            self._scheduled = False
            self._write()

    def _write(self) -> None:
        if self.path is None:
            return
        waits = [[wait.reason, wait.since, wait.until, wait.deadline] for wait in current_waits()]
        values = [self.report.share, self.report.kept, dict(self.report.dropped), waits]
        temporary = self.path.with_suffix(".tmp")
        with suppress(OSError):  # a full disk, or the caller has ended: the task itself meets the problem or ends
            temporary.write_text(json.dumps(values), "utf-8")
            temporary.replace(self.path)
        self.written = time.monotonic()


_reporter = _Reporter()
on_change(_reporter.write_soon)


def begin_task(folder: str | None, task_id: str, pause: float = WRITE_SECONDS) -> None:
    """Begin to report about a task, every `pause` seconds; with no folder, reports are not written."""
    _reporter.path = Path(folder) / f"{task_id}.json" if folder else None
    _reporter.report, _reporter.written, _reporter.pause = TaskReport(), 0.0, pause


def end_task() -> None:
    """End the reports about a task."""
    _reporter.path = None


def report_task(share: float, kept: int = 0, dropped: Mapping[str, int] | None = None) -> None:
    """Report how far the task of this process is; the arguments are the fields of TaskReport. It is cheap to call often."""
    if _reporter.path is None:
        return
    _reporter.report = TaskReport(share, kept, dropped or {})
    if time.monotonic() - _reporter.written >= _reporter.pause:
        _reporter.write()


def read_reports(folder: Path, task_ids: Iterable[str]) -> dict[str, TaskReport]:
    """Return the newest reports of tasks, by their ids; a task without one is left out."""
    reports: dict[str, TaskReport] = {}
    for task_id in task_ids:
        with suppress(OSError, ValueError):
            share, kept, dropped, waits = json.loads((folder / f"{task_id}.json").read_text("utf-8"))
            reports[task_id] = TaskReport(share, kept, dropped, tuple(Wait(*wait) for wait in waits))
    return reports
