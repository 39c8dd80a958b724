"""Run torchrun, and end with the process that started it: `python -m training.torchrun PID ARGUMENTS`.

The ranks end with that process by themselves (training/process.py). An agent that outlived them would join the agents
of other machines again, beside the agent that replaces it, so it must end first: at once where Linux's prctl exists.
"""

import ctypes
import os
import signal
import sys

from torch.distributed import run

from training.process import ELSEWHERE, exit_with_parent

PR_SET_PDEATHSIG = 1
"""The option that sends a signal when the parent thread ends. Source: linux/prctl.h.

The thread that started this process reads its output until the end, so it lives as long as its process."""


def main(arguments: list[str]) -> None:
    """Run torchrun with all arguments but the first, the pid of the process to end with."""
    if sys.platform == "linux" and not os.environ.get(ELSEWHERE):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    exit_with_parent(int(arguments[0]), poll_seconds=0.1)
    if "--standalone" not in arguments:
        # torch 2.13 announces a shared store's address in the first round only: a machine that joins later would hang.
        os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    run.main(arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
