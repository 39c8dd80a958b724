"""Temporary folders that can be told from those of dead processes: each holds a lock for as long as its owner lives.

A process that is killed cannot tidy up; `pairmill gc` does, by `abandoned`. The kernel frees a lock with its process, so
this holds also where pids mean nothing, as between containers that share a folder.
"""

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
    with (
        tempfile.TemporaryDirectory(prefix=f"{PREFIX}{purpose}-") as name,
        (Path(name) / LOCK).open("w") as lock,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = Path(name) / "files"
        folder.mkdir()
        yield folder


def abandoned() -> list[Path]:
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
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
