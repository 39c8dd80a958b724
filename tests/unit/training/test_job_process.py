"""How the process of a job ends."""

from tests.python_code import run_python

JOB = """
import ctypes, os
from training.job import run_process

def main(arguments):
    libc = ctypes.CDLL(None)
    libc.__cxa_atexit(libc.abort, None, None)  # as a native thread that runs when Python has ended
    print("done", flush=False)
    return 3

for rank in ({"RANK": "0"}, {}):
    os.environ.pop("RANK", None)
    os.environ |= rank
    if not (child := os.fork()):  # torch is imported once, and has no thread yet
        run_process(main)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_a_rank_that_is_done_is_not_aborted_by_native_libraries():
    done = run_python(JOB)
    assert done.stdout.split() == ["done", "3", "done", "-6"], done.stderr
    assert (done.stderr.count("SIGABRT"), "frame #0" in done.stderr) == (1, True)
