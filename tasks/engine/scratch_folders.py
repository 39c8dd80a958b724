"""Temporary folders that can be told from those of dead processes: each holds a lock for as long as its owner lives.

A process that is killed cannot tidy up; `pairmill gc` does, by `find_abandoned_folders`. The kernel frees a lock with its process, so
this holds also where pids mean nothing, as between containers that share a folder.
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
"""Younger folders are left alone: their owners may be about to lock them."""


@contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """An empty folder under the system's temporary folder, deleted at the end.

    Args:
        purpose: goes into its name.
    """
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{purpose}-") as name, FileLock(Path(name) / LOCK):
        folder = Path(name) / "files"
        folder.mkdir()
        yield folder


def find_abandoned_folders() -> list[Path]:
    """The scratch folders of this machine whose owners are gone."""
    found = []
    for path in sorted(Path(tempfile.gettempdir()).glob(f"{PREFIX}*")):
        try:
            if time.time() - path.stat().st_mtime > UNLOCKED_SECONDS and not _is_locked(path / LOCK):
                found.append(path)
        except OSError:  # it is gone now, or another user's
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
