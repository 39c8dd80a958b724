"""Entry of a run of a backfill: `python -m flows.backfill.child PID run CONFIG ...` ends when the process PID has ended."""

import sys

from flows.cli import main
from training.process import exit_with_parent

if __name__ == "__main__":
    exit_with_parent(int(sys.argv[1]))
    main(sys.argv[2:])
