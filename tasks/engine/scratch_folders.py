"""Make temporary folders, each with a lock that its live owner holds.

A killed process cannot delete its folder; `pairmill gc` does (plugins/retention/local_files.py). The kernel frees a lock
with its process, so this also works where pids mean nothing, as between containers that share a folder.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

PREFIX = "pairmill-scratch-"
LOCK = "lock"


@contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """Provide an empty folder under the system's temporary folder, which is deleted at the end of the `with`.

    Args:
        purpose: part of its name.
    """
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{purpose}-") as name, FileLock(Path(name) / LOCK):
        folder = Path(name) / "files"
        folder.mkdir()
        yield folder
