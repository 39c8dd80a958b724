"""Run torchrun for one of several machines: `python -m training.torchrun PID [--allow-network] ARGUMENTS`.

The ranks end with the process PID by themselves (dataops/process.py). An agent that outlived them would join the agents
of other machines again, beside the agent that replaces it, so it must end first: at once where Linux's prctl exists.

torchrun's store listens on all interfaces, and the agents unpickle what they read there. Without
--allow-network the agents must therefore meet on loopback, and the store listens there alone.
"""

import ctypes
import os
import signal
import sys
from typing import Any

from torch.distributed import run
from torch.distributed.elastic.rendezvous import c10d_rendezvous_backend

from dataops.errors import ConfigError
from dataops.process import ELSEWHERE, exit_with_parent, select_job_environment
from training.distributed import open_loopback_store
from training.rendezvous import GUARDED, explain_refusal, is_loopback

PR_SET_PDEATHSIG = 1
"""The option that sends a signal when the parent thread ends. Source: linux/prctl.h.

The thread that started this process reads its output until the end, so it lives as long as its process."""
ALLOW_NETWORK = "--allow-network"


def main(arguments: list[str]) -> int:
    """Run torchrun with all arguments but the pid of the process to end with, and the permission to use a network."""
    pid, *options = arguments
    if sys.platform == "linux" and not os.environ.get(ELSEWHERE):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    exit_with_parent(int(pid), poll_seconds=0.1)
    allowed = select_job_environment(os.environ)
    os.environ.clear()
    os.environ.update(allowed)
    # torch 2.13 announces a shared store's address in the first round only: a machine that joins later would hang.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    os.environ[GUARDED] = "1"
    args = run.parse_args([option for option in options if option != ALLOW_NETWORK])
    if options[:1] != [ALLOW_NETWORK]:
        try:
            _stay_on_loopback(args)
        except ConfigError as error:
            sys.stderr.write(f"ConfigError: {error}\n")
            return error.exit_code
    run.run(args)
    return 0


def _stay_on_loopback(args: Any) -> None:
    """Make the store listen on loopback only. Raises: ConfigError if the machines meet elsewhere."""
    host = args.rdzv_endpoint.rpartition(":")[0]
    if args.rdzv_backend != "c10d" or args.standalone or not is_loopback(host):
        raise ConfigError(explain_refusal(f"torchrun's rendezvous at {args.rdzv_endpoint or 'all interfaces'}"))
    args.local_addr = args.local_addr or "127.0.0.1"
    c10d_rendezvous_backend.TCPStore = open_loopback_store  # pyright: ignore[reportPrivateImportUsage]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
