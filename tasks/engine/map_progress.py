"""Add up the progress of a map from its finished and its running tasks, and that of a stage from its maps."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from dataops.formatting import format_counts, format_share
from dataops.messages.waiting import Wait, current_waits, on_change, set_worker_waits
from dataops.snapshot import Counts, Record
from tasks.engine.context import Context
from tasks.engine.scratch_folders import scratch_folder

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
        self.written = 0.0
        self._lock, self._scheduled = threading.Lock(), False

    def write_soon(self) -> None:
        """Write now, or as soon as WRITE_SECONDS have passed since the last time: hundreds of threads may wait."""
        with self._lock:
            if self.path is None or self._scheduled:
                return
            delay = self.written + WRITE_SECONDS - time.monotonic()
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
        if (path := self.path) is None:  # read once: another thread may end the task at any moment
            return
        waits = [[wait.reason, wait.since, wait.until, wait.deadline] for wait in current_waits()]
        values = [self.report.share, self.report.kept, dict(self.report.dropped), waits]
        temporary = path.with_suffix(".tmp")
        with suppress(OSError):  # a full disk, or the caller has ended: the task itself meets the problem or ends
            temporary.write_text(json.dumps(values), "utf-8")
            temporary.replace(path)
        self.written = time.monotonic()


_reporter = _Reporter()
on_change(_reporter.write_soon)


def begin_task(folder: str | None, task_id: str) -> None:
    """Begin to report about a task, every WRITE_SECONDS; with no folder, reports are not written."""
    _reporter.path = Path(folder) / f"{task_id}.json" if folder else None
    _reporter.report, _reporter.written = TaskReport(), 0.0


def end_task() -> None:
    """End the reports about a task."""
    _reporter.path = None


def report_task(share: float, kept: int = 0, dropped: Mapping[str, int] | None = None) -> None:
    """Report how far the task of this process is; the arguments are the fields of TaskReport. It is cheap to call often."""
    if _reporter.path is None:
        return
    _reporter.report = TaskReport(share, kept, dropped or {})
    if time.monotonic() - _reporter.written >= WRITE_SECONDS:
        _reporter.write()


def read_reports(folder: Path, task_ids: Iterable[str]) -> dict[str, TaskReport]:
    """Return the newest reports of tasks, by their ids; a task without one is left out."""
    reports: dict[str, TaskReport] = {}
    for task_id in task_ids:
        with suppress(OSError, ValueError):
            share, kept, dropped, waits = json.loads((folder / f"{task_id}.json").read_text("utf-8"))
            reports[task_id] = TaskReport(share, kept, dropped, tuple(Wait(*wait) for wait in waits))
    return reports


SHOW_SECONDS = 1.0
"""Time between two looks at the reports of running tasks."""
REASONS_SHOWN = 3


class Task(Protocol):
    """A picklable value. Its `id` names its record and is unique in the stage."""

    @property
    def id(self) -> str:
        """For example `part-00017`."""
        ...


T = TypeVar("T", bound=Task)


def describe_counts(counts: Counts) -> str:
    """Return how many rows were kept, and the most frequent drop reasons."""
    return _describe(counts, f"kept {counts.kept:,} of {counts.input:,}", "most dropped: ")


def describe_fetched(counts: Counts) -> str:
    """Return the share of images that were fetched, and the most frequent reasons of failures."""
    return _describe(counts, f"{format_share(counts.kept, counts.input)} fetched", "")


def _describe(counts: Counts, kept: str, dropped: str) -> str:
    top = Counter(counts.dropped).most_common(REASONS_SHOWN)
    return kept + (f"; {dropped}{format_counts(top)}" if top else "") if counts.input else ""


@dataclass(frozen=True)
class MapView(Generic[T]):
    """What the progress of a map counts and shows."""

    weigh: Callable[[T], int] = lambda task: 1
    """Returns how much a task counts: its rows, or 1."""
    describe: Callable[[Counts], str] = describe_counts
    """Returns the line for the counts so far."""


class MapProgress(Generic[T]):
    """The progress of one map.

    Args:
        records: those of the finished tasks, to which `finish` adds.
    """

    def __init__(self, tasks: Sequence[T], records: dict[str, Record], context: Context, view: MapView[T]):
        self._records, self._context, self._view = records, context, view
        self._total = sum(map(view.weigh, tasks))
        self._done = sum(view.weigh(task) for task in tasks if task.id in records)
        self._counts = sum((record.counts for record in records.values()), Counts())
        self.reports: str | None = None
        """Folder to which workers write reports; None if they share no disk with this process."""

    @contextmanager
    def reports_of_workers(self, *, shared_disk: bool) -> Iterator[None]:
        """Provide the folder of the reports inside the `with`."""
        if not shared_disk:
            yield
            return
        with scratch_folder("reports") as folder:
            self.reports = str(folder)
            try:
                yield
            finally:
                self.reports = None
                set_worker_waits(())

    def weigh(self, task: T) -> int:
        """Return how much a task counts, at least 1."""
        return max(1, self._view.weigh(task))

    def finish(self, task: T, record: Record) -> None:
        """Add the record of a finished task."""
        self._records[task.id] = record
        self._done += self._view.weigh(task)
        self._counts += record.counts

    def show(self, running: Iterable[T] = ()) -> None:
        """Pass the progress on, with that of the running tasks."""
        done, counts = float(self._done), self._counts
        if self.reports:
            weights = {task.id: self._view.weigh(task) for task in running}
            reports = read_reports(Path(self.reports), weights)
            done += sum(report.share * weights[name] for name, report in reports.items())
            for report in reports.values():
                dropped = dict(report.dropped)
                counts += Counts(input=report.kept + sum(dropped.values()), kept=report.kept, dropped=dropped)
            set_worker_waits(wait for report in reports.values() for wait in report.waits)
        self._context.progress(done, self._total, self._view.describe(counts))


class StageProgress:
    """The progress of a stage with several maps, one after the other.

    Args:
        total: sum of the weights of all maps, known or estimated before the first one.
    """

    def __init__(self, context: Context, total: float):
        self._context, self._total = context, total
        self._before, self._weight = 0.0, 0.0

    def of_map(self, name: str, weight: float) -> Context:
        """Begin the next map, and return the context whose progress counts as a part of the stage.

        Args:
            name: what the map does, for people.
            weight: its share of `total`.
        """
        self._before, self._weight = self._before + self._weight, weight
        before, total = self._before, max(self._total, self._before + weight)

        def show(done: float, map_total: int, line: str) -> None:
            share = done / map_total if map_total else 1.0
            text = f"{name}: {line}" if line else name
            self._context.progress(100 * (before + weight * share) / max(total, 1e-9), 100, text)

        show(0, 1, "")
        return replace(self._context, progress=show)
