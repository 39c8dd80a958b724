"""Files of this machine that can be rebuilt: mark and hold what is used, find what is not, and delete it.

A process holds a folder by a shared lock on the folder itself. The lock ends with the process,
however that ends. Files are not held: whoever opened one can read it after its deletion.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dataops.home import private_folder

SESSIONS = "browse/sessions"
"""Folder of the home with a folder of each process of `pairmill browse`, which holds it."""
_held: dict[Path, int] = {}
"""Descriptors of the folders that this process holds."""


def mark_used(path: Path) -> None:
    """Set the modification time of a file or a folder to now: file systems may not keep the time of an access."""
    with suppress(OSError):  # it is another user's, or was just deleted
        os.utime(path)


def hold(folder: Path) -> bool:
    """Mark a folder as used, and hold it until this process ends; return False if there is none.

    Waits while another process deletes the folder. A file system without locks has only the time of the use.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    mark_used(folder)
    if not _is_at(folder, descriptor):  # it was deleted before it was held
        os.close(descriptor)
        return hold(folder)
    before, _held[folder] = _held.get(folder), descriptor
    if before is not None:
        os.close(before)
    return True


def make_held(folder: Path) -> Path:
    """Make a folder for this user only if it is missing, hold it, and return it."""
    while not hold(private_folder(folder)):
        pass
    return folder


def is_held(path: Path) -> bool:
    """Return whether a process holds a folder."""
    with _locked(path) as is_free:
        return not is_free


def find_abandoned(home: Path) -> list[Path]:
    """Return the folders of SESSIONS whose processes have ended."""
    return [folder for folder in sorted((home / SESSIONS).glob("*")) if not is_held(folder)]


def delete_unheld(path: Path) -> bool:
    """Delete a file or a folder, as far as it can be deleted; return False if a process holds it."""
    with _locked(path) as is_free:
        if is_free and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif is_free:
            with suppress(OSError):
                path.unlink()
        return is_free


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Lock a folder, so that no process begins to hold it; yield False if a process holds it. A file is always free."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # a file, or deleted meanwhile
        yield True
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_free = True
        except BlockingIOError:
            is_free = False
        except OSError:  # a file system without locks
            is_free = True
        yield is_free
    finally:
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False
