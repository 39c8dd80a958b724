"""Start the ranks of a job on this machine: `python -m training.launch NUMBER -m MODULE JOB.json`.

Unlike torchrun's, they meet in a file beside JOB.json that only this user can read, so that nothing
listens for them. If a rank fails, the others are ended, and the exit code is that of the first that
failed; 75 if a signal killed it.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from dataops.process import RETRYABLE, select_job_environment
from training.rendezvous import LAUNCHER_PID, MEETING_FILE

POLL_SECONDS = 0.05
SETTLE_SECONDS = 10
"""Seconds that the rank with the cause of a failure has to end, after another one ended because of it: a busy machine, and
freeing the memory of a GPU, take several."""
GRACE_SECONDS = 30
"""Seconds that the other ranks have to end after one failed."""


def launch(number: int, arguments: Sequence[str]) -> int:
    """Run `python ARGUMENTS` as `number` ranks until all have ended; return the exit code.

    Args:
        arguments: arguments of Python; the last is the path of the job file.
    """
    shared = {"OMP_NUM_THREADS": "1"} if number > 1 else {}  # as torchrun: several ranks share the cores
    shared |= select_job_environment(os.environ) | {"WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number)}
    folder = Path(arguments[-1]).absolute().parent
    # mkdtemp gives it the mode 0700, whatever the mode of the job's folder.
    with TemporaryDirectory(prefix=".ranks-", dir=folder, ignore_cleanup_errors=True) as meeting:
        shared |= {MEETING_FILE: str(Path(meeting, "store")), LAUNCHER_PID: str(os.getpid())}
        ranks: list[subprocess.Popen[bytes]] = []
        stopped: list[int] = []

        def forward(signum: int, frame: object) -> None:
            stopped.append(signum)
            _send(ranks, signum)

        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, forward)
        for rank in range(number):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            ranks.append(subprocess.Popen([sys.executable, *arguments], env=shared | own))
        if stopped:  # a signal that arrived before the last rank had started
            _send(ranks, stopped[-1])
        return _wait(ranks)


def _wait(ranks: Sequence["subprocess.Popen[bytes]"]) -> int:
    while None in (codes := [rank.poll() for rank in ranks]) and not any(codes):
        time.sleep(POLL_SECONDS)
    # A rank that lost its connection to another ends with 75 or 1: the cause is a rank that ended in another way.
    deadline = time.monotonic() + SETTLE_SECONDS
    while None in codes and {*codes} <= {None, 0, 1, RETRYABLE} and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        codes = [rank.poll() for rank in ranks]
    failed = [(rank, code) for rank, code in enumerate(codes) if code]
    if not failed:
        return 0
    rank, code = min(failed, key=lambda pair: (pair[1] > 0, pair[1] == 1, pair[1] == RETRYABLE))
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    sys.stderr.write(f"rank {rank} of {len(ranks)} {how}\n")
    _end(ranks)
    return RETRYABLE if code < 0 else code


def _end(ranks: Sequence["subprocess.Popen[bytes]"]) -> None:
    """End the ranks that are left: with SIGTERM, and with SIGKILL after GRACE_SECONDS."""
    _send(ranks, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while any(rank.poll() is None for rank in ranks) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    _send(ranks, signal.SIGKILL)
    for rank in ranks:
        rank.wait()


def _send(ranks: Sequence["subprocess.Popen[bytes]"], signum: int) -> None:
    for rank in ranks:
        rank.send_signal(signum)  # does nothing for a rank that has ended


if __name__ == "__main__":
    sys.exit(launch(int(sys.argv[1]), sys.argv[2:]))
