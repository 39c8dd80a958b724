"""A run in a process of its own: its exit code, its JSON, its lines, and its end by a signal."""

import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from plugins.backfill.child_runs import KILLED, ChildRuns


def test_a_run_returns_its_exit_code_and_its_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.toml").write_text('name = "mine"\n')
    result = ChildRuns().run(tmp_path / "mine.toml", ["seed=-1"], "extract", "[a] ")
    assert result.exit_code == 2
    assert "seed: -1" in result.error
    assert "source: is required" in result.error
    assert result.key_of("pack") is None
    assert all(line.startswith("[a] ") for line in capsys.readouterr().err.splitlines())


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
