"""Test that a kill of benchmarks/chaos.py comes in time."""

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.kills.loop import Chaos, RunPosition
from dataops.store import FolderStore


def test_kill_of_a_stage_that_is_faster_than_usual_comes_in_the_next_stage(tmp_path: Path, monkeypatch) -> None:
    environment: Any = SimpleNamespace(home=tmp_path / "home", temporary=tmp_path / "tmp", faults=None)
    chaos = Chaos(environment, seed=0)
    chaos.typical = {"evaluate": 3600.0}
    stages = iter(["evaluate"] * 3)

    def read(store: FolderStore, pid: int) -> RunPosition:
        return RunPosition(next(stages, "register"), "", time.time())

    monkeypatch.setattr(RunPosition, "read", read)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        try:
            found = chaos._wait(process, FolderStore(tmp_path), "evaluate")
        finally:
            process.kill()
    assert found is not None
    assert found.stage == "register"
