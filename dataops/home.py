"""Locations on this machine: the checkout that runs, and the folder of everything local."""

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
"""Root of the checkout, or of the image's copy of it, that this process runs."""


def home() -> Path:
    """Return the folder of everything local: `PAIRMILL_HOME`, else `.pairmill` in the working directory. Absolute."""
    return Path(os.environ.get("PAIRMILL_HOME") or ".pairmill").expanduser().resolve()


def private_folder(path: Path) -> Path:
    """Make a folder, and those above it that are missing, for this user only; one that is there keeps its mode."""
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    return path
