"""The progress of a map: finished tasks, the reports of running ones, and the maps of a stage."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from dataops.messages.waiting import current_waits, waiting
from dataops.snapshot import Counts, Record
from dataops.store import FolderStore
from tasks.engine.context import Context
from tasks.engine.map_progress import MapProgress, MapView, begin_task, describe_fetched, end_task, report_task


@dataclass(frozen=True)
class Rows:
    id: str
    rows: int


@pytest.fixture
def shown(tmp_path: Path) -> tuple[Context, list[tuple[float, int, str]]]:
    lines: list[tuple[float, int, str]] = []
    store = FolderStore(tmp_path / "store")
    return Context(store, tmp_path, progress=lambda *values: lines.append(values)), lines


def test_progress_counts_finished_and_running_tasks_by_their_rows(shown):
    context, lines = shown
    tasks = [Rows("a", 100), Rows("b", 300), Rows("c", 600)]
    records = {"a": Record(task="a", counts=Counts(input=100, kept=90, dropped={"http_404": 10}))}
    progress = MapProgress(tasks, records, context, MapView(lambda task: task.rows, describe_fetched))
    progress.show()
    with progress.reports_of_workers(shared_disk=True):
        begin_task(progress.reports, "b", 0)
        try:
            report_task(0.5, kept=120, dropped={"http_404": 20, "timeout": 10})
            with waiting("host limits", since=5.0):
                progress.show([tasks[1]])
                assert [wait.reason for wait in current_waits()] == ["host limits", "host limits"], "own and reported"
        finally:
            end_task()
        progress.finish(tasks[1], Record(task="b", counts=Counts(input=300, kept=300)))
        progress.show([tasks[2]])
    assert current_waits() == []
    assert lines == [
        (100.0, 1000, "90.0% fetched; http_404 10"),
        (250.0, 1000, "84.0% fetched; http_404 30, timeout 10"),
        (400.0, 1000, "97.5% fetched; http_404 10"),
    ]
