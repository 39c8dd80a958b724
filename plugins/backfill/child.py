"""Entry of a run: `python -m plugins.backfill.child PID run CONFIG ...` ends when the process PID has ended."""

import runpy
import sys

from dataops.process import exit_with_parent

if __name__ == "__main__":
    exit_with_parent(int(sys.argv.pop(1)))
    runpy.run_module("flows.cli", run_name="__main__")  # the command imports this package
