"""Fingerprints of processes, and jobs that end with their parent, with and without a /proc."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dataops.home import CHECKOUT
from training import process

NO_PROC = "process._PROC = __import__('pathlib').Path('/nowhere')\n"


@pytest.fixture(params=["proc", "ps"])
def system(request, monkeypatch) -> str:
    if request.param == "ps":
        if shutil.which("ps") is None:
            pytest.skip("no ps here")
        monkeypatch.setattr(process, "_PROC", Path("/nowhere"))
    return request.param


def test_fingerprint_is_stable_and_none_for_a_dead_process(system):
    assert process.process_fingerprint(os.getpid()) == process.process_fingerprint(os.getpid()) is not None
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        assert process.process_fingerprint(child.pid) is not None
        child.kill()
        deadline = time.monotonic() + 3
        while process.process_fingerprint(child.pid) is not None:  # a zombie is dead, though its pid exists
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_pid_namespace_names_the_process_table(system):
    assert process.pid_namespace() == process.pid_namespace()
    if system == "ps":
        assert process.pid_namespace() == socket.gethostname()
    else:
        assert "pid:[" in process.pid_namespace()


def test_a_job_ends_with_its_parent(system):
    """Follow a process that is not the direct parent, since torchrun is between them."""
    code = "import sys, time\nfrom training import process\n" + (NO_PROC if system == "ps" else "")
    code += "process.exit_with_parent(int(sys.argv[1]))\nprint('follows', flush=True)\ntime.sleep(60)\n"
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as master:
        command = [sys.executable, "-c", code, str(master.pid)]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as job:
            assert job.stdout is not None
            assert job.stdout.readline() == "follows\n"
            assert job.poll() is None
            master.kill()  # and not waited for
            assert job.wait(4) == process.RETRYABLE
