"""torchrun that ends with the process that asked for it: `python -m training.torchrun PID ARGUMENTS`.

Ranks end with that process by themselves (training/process.py). An agent that outlived it would go on to meet the agents of
other machines, beside the one that takes its place, and no two rounds of theirs would agree on who takes part.
"""

import sys

from torch.distributed import run

from training.process import follow_parent


def main(arguments: list[str]) -> None:
    """Run torchrun with all arguments but the first, the number of the process to end with."""
    follow_parent(int(arguments[0]))
    run.main(arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
