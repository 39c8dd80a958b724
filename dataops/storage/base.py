"""Define the interface of a store: immutable objects under relative names, written whole or not at all.

Objects are immutable once a manifest names them, so readers take no lock: `put` is atomic (a reader sees all of an object
or nothing of it), `create` lets exactly one of several writers win. Names are relative, `/`-separated, and can never
leave the store.
"""

import errno
import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from dataops.errors import ConfigError, StorageError


def check_name(name: str) -> str:
    """Return `name` when it is a plain relative object name, else raise StorageError: nothing escapes its folder."""
    parts = name.rstrip("/").split("/")  # of an absolute path the first is empty
    if "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise StorageError(f"object name {name!r} is not a plain relative path")
    return name


PAGE = 4096
"""Bytes; a multiple of the block size of every disk."""

ReadInto = Callable[[str, Sequence[tuple[int, memoryview]]], None]


class Entry(NamedTuple):
    """An object in a listing."""

    name: str
    bytes: int
    modified: float
    """Seconds since 1970, by the clock of whoever keeps the store."""


class Store(ABC):
    """Interface of a store. All failures are StorageError and name the object."""

    uri: str
    where: str
    """URI and server of the store, for messages."""
    window: int = 1 << 40
    """Bytes to read or write in one call; over a network all at once, since each call costs time."""

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Bytes of the object, or None where there is none."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The whole object."""

    @abstractmethod
    def put(self, name: str, data: bytes | memoryview | Path) -> None:
        """Write the object atomically, over an older one; `data` is bytes or a local file."""

    def put_chunks(self, name: str, pieces: Callable[[], Iterator[memoryview]], *, direct: bool = False) -> None:
        """Write the object atomically from its pieces, one after the other.

        Args:
            pieces: begins anew with each call; a piece is not looked at any more when the next one is asked for.
            direct: past the system's cache where that can be, for what is large and not read again soon. It can be where
                each piece begins and ends at a multiple of PAGE, in the object and in memory; the last may end anywhere.
        """
        copies = [bytes(piece) for piece in pieces()]
        self.put(name, copies[0] if len(copies) == 1 else b"".join(copies))

    @abstractmethod
    def create(self, name: str, data: bytes) -> bool:
        """Write the object only where there is none yet. False when another writer was first."""

    @abstractmethod
    def copy(self, source: str, target: str) -> None:
        """Make `target` the same object as `source`, without moving bytes through this machine where that can be."""

    @abstractmethod
    def entries(self, prefix: str) -> list[Entry]:
        """The objects below a folder-like prefix ('' is the whole store), sorted by name."""

    def names(self, prefix: str) -> list[str]:
        """Sorted names below a folder-like prefix ('' is the whole store)."""
        return [entry.name for entry in self.entries(prefix)]

    @abstractmethod
    def delete(self, names: Sequence[str]) -> None:
        """Delete these objects, in no order; one that is not there is no error."""

    @abstractmethod
    def delete_tree(self, prefix: str) -> None:
        """Delete all below a folder-like prefix; nothing there is no error."""

    @abstractmethod
    def sweep(self, prefix: str, older_than_seconds: float = 0.0) -> int:
        """Remove what killed writers left unfinished below a folder-like prefix; how many pieces.

        Args:
            older_than_seconds: leave younger ones, which a living writer may still write.
        """

    @abstractmethod
    def local(self, name: str, keep_in: Path | None = None) -> Path:
        """A local file with the object's bytes, to be read and never written: the object itself, or a cached copy.

        Args:
            keep_in: a local folder. The cache may drop a file an hour after it was asked for; one that is needed for
                longer is linked into this folder, and stays as long as it does.
        """

    def locals(self, names: Sequence[str]) -> list[Path]:
        """`local` of each of several objects."""
        return [self.local(name) for name in names]

    @abstractmethod
    def download(self, name: str, path: Path) -> None:
        """Write the object's bytes, checked where the store knows their digest, into a local file that is the caller's."""

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """The object as a seekable binary file."""
        with self.local(name).open("rb") as file:
            yield file

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """Parts of the object in the order of `ranges`, each an offset and a number of bytes.

        Raises: StorageError when the object ends before.
        """
        with self.open(name) as file:
            for offset, size in ranges:
                yield self._whole(name, os.pread(file.fileno(), size, offset), offset, size)

    def read_into(self, name: str, places: Sequence[tuple[int, memoryview]]) -> None:
        """Fill memory with parts of the object: each place is an offset and the memory for the bytes from there on.

        Raises: StorageError when the object ends before.
        """
        ranges = [(offset, len(memory)) for offset, memory in places]
        for (_, memory), data in zip(places, self.read_ranges(name, ranges), strict=True):
            memory[:] = data

    @contextmanager
    def open_reader(self) -> Iterator[ReadInto]:
        """`read_into` for many calls: what is read may stay open until the end of the `with`."""
        yield self.read_into

    def _whole(self, name: str, data: bytes, offset: int, size: int) -> bytes:
        if len(data) != size:
            raise StorageError(f"{name} in {self.where} ends before byte {offset + size:,}")
        return data

    def check_writable(self) -> None:
        """Write, read, create and delete a small object.

        Raises: ConfigError with the remedy when that cannot be before somebody corrects something; StorageError when the
            store does not answer now.
        """
        name, data = f"_probe/{secrets.token_hex(8)}", secrets.token_bytes(16)
        self.put(name, data)
        try:
            same, second = self.read(name) == data, self.create(name, b"another")
        finally:
            self._forget(name)
        if not same:
            raise ConfigError(
                f"{self.where}: what was written does not come back, so it is no store. Correct store.uri or the endpoint"
            )
        if second:
            raise ConfigError(
                f"{self.where}: the server ignores If-None-Match (conditional puts), so two runs could overwrite each "
                "other's snapshots. Use a server that honours it"
            )

    def _forget(self, name: str) -> None:
        self.delete([name])


@contextmanager
def storage_errors(what: str, where: Path) -> Iterator[None]:
    """Turn an OSError into a StorageError that says what failed, and the remedy.

    Args:
        where: a path on the file system that it happened on.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(f"{what}: {error.strerror or error}{_remedy(error, where)}") from error


def _remedy(error: OSError, where: Path) -> str:
    if error.errno in DISK_FULL:
        return f". Free some space on the disk of {where}, then rerun: what is finished is kept"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f". Make {where} writable for this user, or set store.uri to another place"
    return ""


DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Error numbers of a full disk, quota or file."""
