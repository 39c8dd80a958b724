"""A run in a process of its own: its exit code, its JSON, its lines, and its end by a signal."""

import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from plugins.backfill.child_runs import KILLED, ChildRuns


def test_end_stops_the_runs_that_work_and_starts_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\nexec sleep 60\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    runs, codes = ChildRuns(), list[int]()
    thread = threading.Thread(target=lambda: codes.append(runs.run(tmp_path / "c", (), "pack", "").exit_code))
    thread.start()
    while not (tmp_path / "started").exists():
        time.sleep(0.01)
    runs.end(signal.SIGTERM)
    thread.join(30)
    assert codes == [KILLED]
    assert runs.run(tmp_path / "c", (), "pack", "").exit_code == KILLED
