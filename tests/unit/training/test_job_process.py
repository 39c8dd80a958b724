"""How the process of a job ends."""

import os
import subprocess
import sys

import pytest

from dataops.home import CHECKOUT

JOB = """
import ctypes
from training.job import run_process

def main(arguments):
    libc = ctypes.CDLL(None)
    libc.__cxa_atexit(libc.abort, None, None)  # as a native thread that runs when Python has ended
    print("done", flush=False)
    return 3

run_process(main)
"""


@pytest.mark.parametrize(("rank", "code"), [({"RANK": "0"}, 3), ({}, -6)])
def test_a_rank_that_is_done_is_not_aborted_by_native_libraries(rank: dict[str, str], code: int) -> None:
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), **rank}
    done = subprocess.run([sys.executable, "-c", JOB], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout) == (code, "done\n"), done.stderr
    assert ("SIGABRT" in done.stderr and "frame #0" in done.stderr) == (code == -6)
