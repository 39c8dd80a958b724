"""Locations on this machine: the checkout that runs, and the folder of everything local."""

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
"""Root of the checkout, or of the image's copy of it, that this process runs."""


def home() -> Path:
    """The folder of everything local: `PAIRMILL_HOME`, else `.pairmill` in the working directory. Absolute."""
    return Path(os.environ.get("PAIRMILL_HOME") or ".pairmill").expanduser().resolve()
