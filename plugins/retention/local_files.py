"""Find what no process of this machine uses: cached files, and the scratch folders of dead processes."""

import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from dataops.storage.cached_files import is_held
from tasks.engine.scratch_folders import LOCK, PREFIX

GROUPS = (
    "browse/features",
    "browse/indexes",
    "browse/models",
    "features",
    "features/towers",
    "models",
    "overlap",
    "pages",
)
"""Folders of the home whose entries, a file or a folder each, can be rebuilt."""
UNLOCKED_SECONDS = 600
"""Minimum age of an abandoned folder, in seconds: the owner of a younger one may not have locked it yet."""


def find_unused(home: Path, seconds: float) -> list[Path]:
    """Return the files and folders of GROUPS that were not used for so many seconds, and that no process holds."""
    limit, groups = time.time() - seconds, [home / group for group in GROUPS]
    entries = [path for group in groups if group.is_dir() for path in sorted(group.iterdir()) if path not in groups]
    return [path for path in entries if last_modified(path) < limit and not is_held(path)]


def last_modified(path: Path) -> float:
    """Return the newest modification time of a file, or of a folder and all that is in it."""
    return max(_times([path, *path.rglob("*")]), default=0.0)


def _times(paths: Sequence[Path]) -> list[float]:
    times = []
    for path in paths:
        with suppress(FileNotFoundError):  # deleted meanwhile
            times.append(path.lstat().st_mtime)
    return times


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
