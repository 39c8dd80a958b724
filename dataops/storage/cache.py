"""Cache objects of a remote store on this machine, for all its processes and bounded in size.

The copies are stored in `PAIRMILL_HOME/cache`. When a new copy makes them larger than
`PAIRMILL_CACHE_BYTES` (50 GiB by default), the least recently used ones are deleted. A copy that
was used in the last hour stays, so a machine that works on more than the limit at once needs the
disk for it.
"""

import fcntl
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dataops.errors import ConfigError, StorageError
from dataops.home import home, private_folder
from dataops.regular_files import check_regular
from dataops.storage.base import storage_errors
from dataops.storage.folder import TEMPORARY, reserve

DEFAULT_BYTES = 50 << 30
KEEP_SECONDS = 3600.0
TRIMMED_SHARE = 0.01
"""Share of the limit that a process adds between two trims, each of which lists all copies."""
_LOCK = ".lock"


@dataclass(frozen=True)
class Version:
    """Identity of one version of a remote object."""

    size: int
    modified: int
    """Modification time in seconds since 1970, by the clock of the server."""
    etag: str

    @property
    def mtime_ns(self) -> int:
        """Return the copy's modification time: the object's own, with a fingerprint of its ETag for nanoseconds."""
        fingerprint = int.from_bytes(hashlib.sha256(self.etag.encode()).digest()[:8], "big") % 1_000_000_000
        return self.modified * 1_000_000_000 + fingerprint


class Cache:
    """Copies of the objects of one server. The size limit counts the copies of all servers.

    Args:
        server: names the server's folder.

    Raises: ConfigError when PAIRMILL_CACHE_BYTES is not a number.
    """

    def __init__(self, server: str):
        self.root = home() / "cache"
        self._server = server.replace("/", "_").replace(":", "_")
        text = os.environ.get("PAIRMILL_CACHE_BYTES", "")
        try:
            self.limit = int(text) if text else DEFAULT_BYTES
        except ValueError as error:
            raise ConfigError(f"PAIRMILL_CACHE_BYTES={text!r} is not a number of bytes") from error
        self._added = self.limit  # since the last trim: the first copy of each process begins one

    def get(self, name: str, version: Version, fetch: Callable[[Path], object], keep_in: Path | None) -> Path:
        """Return the copy of this version of an object, and fetch it if there is none.

        Args:
            name: with the bucket.
            fetch: writes the object's bytes, checked, to the path that it is given.
            keep_in: also link the copy into this folder, and return that link.
        """
        path = self.root / self._server / name
        for _ in range(3):  # a copy may be replaced by another process, by that of a newer version, before it is kept
            if self._touch(path, version, keep_in):
                return path if keep_in is None else keep_in / path.name
            self._add(path, version, fetch)
        raise StorageError(
            f"{path}: its file system does not keep times to the nanosecond; set PAIRMILL_HOME to a local disk"
        )

    def _touch(self, path: Path, version: Version, keep_in: Path | None) -> bool:
        """Mark a valid copy as used and link it into `keep_in`; False if there is none. Waits for a running trim."""
        with self._lock(fcntl.LOCK_SH):
            try:
                found = path.stat()
            except (FileNotFoundError, NotADirectoryError):
                return False
            if not stat.S_ISREG(found.st_mode) or (found.st_size, found.st_mtime_ns) != (
                version.size,
                version.mtime_ns,
            ):
                return False
            os.utime(path, ns=(time.time_ns(), version.mtime_ns))
            if keep_in is not None:
                keep_in.mkdir(parents=True, exist_ok=True)
                (keep_in / path.name).unlink(missing_ok=True)
                try:
                    os.link(path, keep_in / path.name)
                except OSError:  # another disk
                    shutil.copyfile(path, keep_in / path.name)
            return True

    def _add(self, path: Path, version: Version, fetch: Callable[[Path], object]) -> None:
        private_folder(self.root)
        temporary = reserve(path)
        try:
            fetch(temporary)
            self._added += temporary.stat().st_size
            os.utime(temporary, ns=(time.time_ns(), version.mtime_ns))
            with storage_errors(f"cannot write {path}; delete {self.root}, which is only a cache", self.root):
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        if self._added > TRIMMED_SHARE * self.limit:  # a trim lists all copies
            self._added = 0
            self.trim()

    def trim(self) -> None:
        """Delete the least recently used copies until the rest is within the limit."""
        with self._lock(fcntl.LOCK_EX):
            now = time.time()
            files = [found for path in self.root.rglob("*") if (found := _used(path))]
            total = sum(size for _, size, _ in files)
            for used, size, path in sorted(files):
                half = path.name.startswith(TEMPORARY)
                if now - used >= KEEP_SECONDS and (half or total > self.limit):  # of the halves the writers were killed
                    path.unlink(missing_ok=True)
                    total -= size

    @contextmanager
    def _lock(self, kind: int) -> Iterator[None]:
        """Hold the lock of the cache. It is fcntl's, which can be shared: filelock's shared lock needs a database file."""
        private_folder(self.root)
        lock = self.root / _LOCK
        with storage_errors(f"cannot lock {self.root}", self.root):
            if lock.exists():  # opening a named pipe would wait for a reader
                check_regular(lock)
            file = lock.open("a")
        with file:
            fcntl.flock(file, kind)
            yield


def _used(path: Path) -> tuple[float, int, Path] | None:
    """Return when a copy was last used, its size and its path; None if it is not a copy, or was just deleted."""
    try:
        found = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode) or path.name == _LOCK:
        return None
    if path.name.startswith(TEMPORARY):  # its time is that of the last write, and then the object's
        return max(found.st_atime, found.st_mtime), found.st_size, path
    return found.st_atime, found.st_size, path
