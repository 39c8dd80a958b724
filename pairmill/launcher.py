"""Entry of the `pairmill` command: it finds the code beside this package, before any other code of the same names."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
CODE = HERE / "app" if (HERE / "app").is_dir() else HERE.parent
"""Folder of flows, tasks, training, dataops, infra and plugins: in the wheel, or the root of a checkout."""


def find_code() -> None:
    """Put the folder of the code first on the import path of this process."""
    if str(CODE) not in sys.path[:1]:
        sys.path.insert(0, str(CODE))


def main() -> None:
    """Run one command and exit with its code."""
    find_code()
    from flows import cli

    cli.main()
