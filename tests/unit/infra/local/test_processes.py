import os
import signal
import sys
import time

import pytest

from infra.local import supervisor as processes
from tests.concurrency import wait_for


def spawn(command, folder):
    env = {**os.environ, processes.MARK: str(folder)}
    return processes.spawn(command, cwd=folder, env=env, log=folder / "log")


def test_spawn_detaches_the_process_and_logs_its_output(tmp_path):
    report = (
        "import os; print(os.getsid(0) == os.getpid(), os.getcwd(), os.read(0, 1), flush=True); os.kill(os.getpid(), 9)"
    )
    pid = spawn([sys.executable, "-c", report], tmp_path)
    wait_for(lambda: processes.process_fingerprint(pid) is None)
    assert (tmp_path / "log").read_text() == f"True {tmp_path} b''\n"
    with pytest.raises(ChildProcessError):  # init's child, not ours: it never becomes our zombie
        os.waitpid(pid, os.WNOHANG)


def test_terminate_ends_the_group_and_processes_that_outlived_its_leader(tmp_path):
    child = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    family = f"import subprocess, sys, time; {child}; time.sleep(60)"
    leader = spawn([sys.executable, "-c", family], tmp_path)
    wait_for(lambda: len(processes.find_marked(str(tmp_path))) == 2)
    os.kill(leader, signal.SIGKILL)
    wait_for(lambda: processes.process_fingerprint(leader) is None)
    (orphan,) = processes.find_marked(str(tmp_path))
    processes.terminate(None, str(tmp_path), grace_s=3)
    assert processes.process_fingerprint(orphan) is None
    assert processes.find_marked(str(tmp_path)) == []


def test_terminate_kills_a_process_that_ignores_sigterm(tmp_path):
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
    )
    pid = spawn([sys.executable, "-c", stubborn], tmp_path)
    wait_for(lambda: "ready" in (tmp_path / "log").read_text())
    started = time.monotonic()
    processes.terminate(pid, str(tmp_path), grace_s=0.3)
    assert processes.process_fingerprint(pid) is None
    assert time.monotonic() - started >= 0.3
