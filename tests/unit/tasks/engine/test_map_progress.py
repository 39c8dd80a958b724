"""The file in which a task reports its progress and its waits."""

from dataops.messages.waiting import pause
from tasks.engine import map_progress


def test_task_that_ends_while_a_thread_reports_its_wait_fails_nothing(tmp_path, monkeypatch):
    def end_meanwhile():
        map_progress.end_task()
        return []

    monkeypatch.setattr(map_progress, "current_waits", end_meanwhile)
    map_progress.begin_task(str(tmp_path), "part-00000")
    pause(0, "a host asks to wait")
    assert map_progress.read_reports(tmp_path, ["part-00000"]).keys() == {"part-00000"}
