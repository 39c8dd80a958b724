"""Where everything local lies."""

import os
from pathlib import Path


def home() -> Path:
    """The folder of everything local: `PAIRMILL_HOME`, else `.pairmill` in the working directory. Absolute."""
    return Path(os.environ.get("PAIRMILL_HOME") or ".pairmill").expanduser().resolve()
