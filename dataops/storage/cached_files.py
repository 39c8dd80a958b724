"""Files of this machine that can be computed again: mark one as used, and find those that were not used for long."""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

GROUPS = ("features", "features/towers", "overlap")
"""Folders of the home whose entries, a file or a folder each, can be computed again."""


def mark_used(path: Path) -> None:
    """Set the modification time of a file to now: file systems may not keep the time of an access."""
    with suppress(OSError):  # it is another user's, or was just deleted
        os.utime(path)


def find_unused(home: Path, seconds: float, now: float | None = None) -> list[Path]:
    """Return the files and folders of GROUPS that were not used for so many seconds."""
    limit, groups = (time.time() if now is None else now) - seconds, [home / group for group in GROUPS]
    entries = [path for group in groups if group.is_dir() for path in sorted(group.iterdir()) if path not in groups]
    return [path for path in entries if last_modified(path) < limit]


def last_modified(path: Path) -> float:
    """Return the newest modification time of a file, or of a folder and all that is in it."""
    return max(_times([path, *path.rglob("*")]), default=0.0)


def _times(paths: Sequence[Path]) -> list[float]:
    times = []
    for path in paths:
        with suppress(FileNotFoundError):  # deleted meanwhile
            times.append(path.lstat().st_mtime)
    return times
