"""Cached files that nothing uses and scratch folders of dead processes are found."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from dataops.home import CHECKOUT
from dataops.storage.cached_files import hold, mark_used
from plugins.retention.local_files import GROUPS, UNLOCKED_SECONDS, find_abandoned_folders, find_unused

HOLDER = """
import sys, time
from tasks.engine.scratch_folders import scratch_folder
with scratch_folder("test") as folder:
    (folder / "half").write_bytes(b"x")
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


DAY = 86_400.0


def test_entry_of_each_group_is_found_when_it_was_not_used_for_so_long_and_no_process_holds_it(temporary):
    home = temporary / "home"
    for path in (home / group / name / "file" for group in GROUPS for name in ("old", "used", "held")):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
    for group in GROUPS:
        assert hold(home / group / "held")
    for path in home.rglob("*"):
        os.utime(path, (time.time() - 40 * DAY,) * 2)
    for group in GROUPS:
        mark_used(home / group / "used" / "file")
    assert sorted(find_unused(home, 30 * DAY)) == sorted(home / group / "old" for group in GROUPS)
    assert find_unused(home, 50 * DAY) == []
    assert find_unused(home / "missing", 30 * DAY) == []


def age(folder):
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
