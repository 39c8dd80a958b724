"""Make temporary folders, and find those of dead processes: each folder has a lock that its live owner holds.

A killed process cannot delete its folder; `pairmill gc` does (`find_abandoned_folders`). The kernel frees a lock with its
process, so this also works where pids mean nothing, as between containers that share a folder.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = "pairmill-scratch-"
LOCK = "lock"
UNLOCKED_SECONDS = 600
"""Minimum age of an abandoned folder, in seconds: the owner of a younger one may not have locked it yet."""


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


def find_abandoned_folders() -> list[Path]:
    """Return the scratch folders of this machine whose owners have ended."""
    found = []
    for path in sorted(Path(tempfile.gettempdir()).glob(f"{PREFIX}*")):
        try:
            if time.time() - path.stat().st_mtime > UNLOCKED_SECONDS and not _is_locked(path / LOCK):
                found.append(path)
        except OSError:  # deleted meanwhile, or another user's
            continue
    return found


def _is_locked(path: Path) -> bool:
    if not path.exists():  # a lock would create it
        return False
    try:
        with FileLock(path, blocking=False):
            return False
    except Timeout:
        return True
