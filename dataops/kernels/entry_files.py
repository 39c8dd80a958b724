"""Read and write the files of compiled code, in a folder that no other user can write to.

The content of an entry is a pickle, and to load a pickle may run code that it names. So an entry is read only if the folder
and the file belong to this user or to root, and no other user may write to them.
"""

import hashlib
import logging
import os
import stat
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

logger = logging.getLogger(__name__)

_DIGEST_BYTES = 32
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_reported: set[str] = set()
"""Folders for which this process has logged that they are not used."""


def caches() -> Path:
    """Return this user's folder of what all homes and checkouts share: below `NUMBA_CACHE_DIR`, else below `~/.cache`.

    Raises: RuntimeError if the user has no home folder.
    """
    named = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
    return (Path(named) if named else Path("~/.cache").expanduser()) / "pairmill"


def cache_folder() -> Path:
    """Return the folder of the entries. Raises: RuntimeError if the user has no home folder."""
    return caches() / "kernels"


def distrust(path: Path) -> str | None:
    """Return why a folder is not used, or None if it may be: it is missing, or only this user and root may write to it."""
    with suppress(FileNotFoundError):
        return _distrust(path.stat())
    return None


def read_entry(name: str) -> bytes | None:
    """Return the content of an entry, or None if there is none that is whole and to be trusted."""
    with suppress(OSError, RuntimeError), _open_folder() as folder:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        with os.fdopen(file, "rb") as opened:
            if _distrust(os.fstat(file)):
                return None
            digest, content = opened.read(_DIGEST_BYTES), opened.read()
        if digest == hashlib.sha256(content).digest():
            return content
        logger.warning("%s: the compiled code of %s is damaged; it is compiled again", cache_folder(), name)
    return None


def write_entry(name: str, content: bytes) -> bool:
    """Write an entry atomically. Return False if that is not possible: then each process compiles the code."""
    with suppress(OSError, RuntimeError):
        path = cache_folder()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    with suppress(OSError, RuntimeError), _open_folder() as folder:
        temporary = f".{name}.{os.getpid()}-{os.urandom(4).hex()}"
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=folder)
        try:
            with os.fdopen(file, "wb") as opened:
                opened.write(hashlib.sha256(content).digest() + content)
            os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
            raise
        return True
    return False


def list_entries() -> list[str]:
    """Return the names of all entries; none if the folder is not to be trusted."""
    with suppress(OSError, RuntimeError), _open_folder() as folder:
        return _names(folder)
    return []


def delete_old_entries(days: float, keep: Container[str]) -> None:
    """Delete the entries that were written more than so many days ago, and what killed processes left."""
    with suppress(OSError, RuntimeError), _open_folder() as folder:
        for name in _names(folder):
            with suppress(OSError):
                if name not in keep and os.stat(name, dir_fd=folder).st_mtime < time.time() - days * 86_400:
                    os.unlink(name, dir_fd=folder)


@contextmanager
def _open_folder() -> Iterator[int]:
    """Yield the descriptor of the folder, so that the folder that is checked is the one that is used.

    Raises: OSError if it cannot be opened or is not to be trusted.
    """
    path = cache_folder()
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if reason := _distrust(os.fstat(folder)):
            if str(path) not in _reported:
                _reported.add(str(path))
                logger.warning("%s %s: compiled code is not kept, so each process compiles it again", path, reason)
            raise PermissionError(f"{path} {reason}")
        yield folder
    finally:
        os.close(folder)


def _distrust(state: os.stat_result) -> str | None:
    if state.st_uid not in (os.geteuid(), 0):
        return f"belongs to another user (uid {state.st_uid})"
    return "is writable by other users" if state.st_mode & _OTHERS_WRITE else None


def _names(folder: int) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries]
