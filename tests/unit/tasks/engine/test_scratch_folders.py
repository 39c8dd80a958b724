import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from dataops.home import CHECKOUT
from tasks.engine.scratch_folders import UNLOCKED_SECONDS, find_abandoned_folders

HOLDER = """
import sys, time
from tasks.engine.scratch_folders import scratch_folder
with scratch_folder("test") as folder:
    (folder / "half").write_bytes(b"x")
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def age(folder: Path) -> None:
    past = time.time() - 2 * UNLOCKED_SECONDS
    os.utime(folder, (past, past))


def test_abandoned_folders_are_only_those_of_dead_processes(temporary):
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(CHECKOUT)}
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        folder = Path(process.stdout.readline().strip()).parent
        try:
            age(folder)
            assert find_abandoned_folders() == []
        finally:
            process.send_signal(signal.SIGKILL)
    assert find_abandoned_folders() == [folder]
    os.utime(folder)
    assert find_abandoned_folders() == []  # its owner might just have made it, and not locked it yet
