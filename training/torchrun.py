"""torchrun that ends with the process that asked for it: `python -m training.torchrun PID ARGUMENTS`.

Ranks end with that process by themselves (training/process.py). An agent that outlived them would meet the agents of other
machines anew, beside the one that takes its place. So it ends before they do: at once where there is Linux's prctl.
"""

import ctypes
import os
import signal
import sys

from torch.distributed import run

from training.process import ELSEWHERE, exit_with_parent

PR_SET_PDEATHSIG = 1
"""Source: linux/prctl.h. It tells of the thread that started this process, which reads its output until the end."""


def main(arguments: list[str]) -> None:
    """Run torchrun with all arguments but the first, the number of the process to end with."""
    if sys.platform == "linux" and not os.environ.get(ELSEWHERE):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    exit_with_parent(int(arguments[0]), poll_seconds=0.1)
    if "--standalone" not in arguments:
        # A shared store's address is told in the first round alone (torch 2.13): who comes later would wait in vain.
        os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    run.main(arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
