"""Define the interface of a store: immutable objects under relative names, written whole or not at all.

Objects are immutable once a manifest names them, so readers take no lock: `put` is atomic (a reader
sees all of an object or nothing of it), `create` lets exactly one of several writers win. Names are
relative, `/`-separated, and can never leave the store.
"""

import io
import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from dataops.digest import file_sha256
from dataops.errors import DISK_FULL, FORBIDDEN, ConfigError, StorageError
from dataops.regular_files import open_regular


def check_name(name: str) -> str:
    """Return `name` when it is a plain relative object name, else raise StorageError: nothing escapes its folder."""
    parts = name.rstrip("/").split("/")  # of an absolute path the first is empty
    if "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise StorageError(f"object name {name!r} is not a plain relative path")
    return name


PROBES = "_probe"
"""Prefix of the objects that test a store. A killed or interrupted test leaves one, which gc deletes."""

PAGE = 4096
"""Bytes; a multiple of the block size of every disk."""

ReadInto = Callable[[str, Sequence[tuple[int, memoryview]]], None]

AHEAD = 1 << 16
"""Bytes that a small read fetches: a Parquet reader reads the footer's length, the footer, then neighbouring columns."""


SMALL_BYTES = 1 << 20
"""Maximum size of an object of which all is requested where a part is needed."""


class Entry(NamedTuple):
    """An object in a listing."""

    name: str
    bytes: int
    modified: float
    """Modification time in seconds since 1970, by the clock of the store's server."""


class Store(ABC):
    """Interface of a store. A failure names the object: a ConfigError of what a user must mend, else a StorageError."""

    uri: str
    where: str
    """URI and server of the store, for messages."""
    window: int = 8 << 20
    """Bytes to write in one call."""
    is_remote: bool = False
    """Whether each read is a request to a server, which costs time and money."""

    @contextmanager
    def retrying_for(self, seconds: float) -> Iterator[None]:
        """Retry transient failures for this time at most inside the `with`; a folder retries none."""
        yield

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Return the size of the object in bytes, or None if it does not exist."""

    def sha256(self, name: str) -> str | None:
        """Return the sha256 of an existing object; None if a remote store does not keep it."""
        return file_sha256(self.local(name))

    def read(self, name: str) -> bytes:
        """Return the whole object."""
        if (data := self.find(name)) is None:
            raise StorageError(f"no such object: {name} in {self.where}")
        return data

    @abstractmethod
    def find(self, name: str) -> bytes | None:
        """Return the whole object, or None if it does not exist, by one request."""

    @abstractmethod
    def put(self, name: str, data: bytes | memoryview | Path) -> None:
        """Write the object atomically and replace an older one; `data` is bytes or a local file."""

    @abstractmethod
    def put_chunks(
        self,
        name: str,
        pieces: Callable[[], Iterator[memoryview]],
        *,
        direct: bool = False,
        synced: bool = True,
        sha256: str | None = None,
    ) -> None:
        """Write the object atomically from its chunks, one after the other.

        Args:
            pieces: starts again with each call; a chunk is not used any more after the next one is requested.
            direct: write past the page cache if possible, for large data that is not read again soon. It is possible if
                each chunk begins and ends at a multiple of PAGE, in the object and in memory; the last may end anywhere.
            synced: return only when a power loss cannot lose the object any more. A remote store always does.
            sha256: digest of the bytes. A remote store keeps it, and compares what is read with it; without it, reads
                are not checked.
        """

    @abstractmethod
    def create(self, name: str, data: bytes) -> bool:
        """Write the object only if it does not exist. Return False if another writer was first."""

    @abstractmethod
    def copy(self, source: str, target: str) -> None:
        """Make `target` the same object as `source`, if possible without moving bytes through this machine."""

    @abstractmethod
    def entries(self, prefix: str) -> list[Entry]:
        """Return the objects below a folder-like prefix ('' is the whole store), sorted by name."""

    def names(self, prefix: str) -> list[str]:
        """Return the sorted names below a folder-like prefix ('' is the whole store)."""
        return [entry.name for entry in self.entries(prefix)]

    @abstractmethod
    def delete(self, names: Sequence[str]) -> None:
        """Delete these objects, in any order. A missing one is no error."""

    @abstractmethod
    def delete_tree(self, prefix: str) -> None:
        """Delete all objects below a folder-like prefix. An empty prefix is no error."""

    @abstractmethod
    def sweep(self, prefix: str, older_than_seconds: float = 0.0) -> int:
        """Delete what killed writers left unfinished below a folder-like prefix; return the number of files and uploads.

        Args:
            older_than_seconds: keep younger ones, which a running writer may still write.
        """

    @abstractmethod
    def local(self, name: str, keep_in: Path | None = None) -> Path:
        """Return a read-only local file with the object's bytes: the object itself, or a cached copy.

        Args:
            keep_in: a local folder. The cache may delete a file an hour after its last use; a file that is needed for
                longer is linked into this folder, and stays as long as it does.
        """

    def locals(self, names: Sequence[str]) -> list[Path]:
        """Return `local` of each of several objects."""
        return [self.local(name) for name in names]

    @abstractmethod
    def download(self, name: str, path: Path) -> None:
        """Write the object's bytes to a local file of the caller, verified if the store keeps their digest."""

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Open the object as a seekable binary file."""
        with open_regular(self.local(name)) as file:
            yield file

    @contextmanager
    def open_sized(self, name: str, size: int) -> Iterator[BinaryIO]:
        """Open an object of this size as `open` does; a small one by one request."""
        with io.BytesIO(self.read(name)) if size <= SMALL_BYTES else self.open(name) as file:
            yield file

    @contextmanager
    def open_once(self, name: str) -> Iterator[BinaryIO]:
        """Open the object as `open` does, for large data that is not read again soon: no cache keeps a copy."""
        with self.open(name) as file:
            yield file

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """Return ranges of the object, each an offset and a number of bytes, in their order.

        Raises: StorageError when the object ends before.
        """
        with self.open(name) as file:
            for offset, size in ranges:
                yield self._whole(name, os.pread(file.fileno(), size, offset), offset, size)

    def read_each(self, ranges: Sequence[tuple[str, int, int]]) -> Iterator[bytes]:
        """Return a range of each of several objects, by one request each, in their order.

        Args:
            ranges: name, offset and maximum number of bytes; fewer are returned where the object ends before.
        """
        for name, offset, size in ranges:
            with self.open(name) as file:
                file.seek(offset)
                yield file.read(size)

    def read_each_into(self, ranges: Sequence[tuple[str, int, Sequence[memoryview]]]) -> Iterator[int]:
        """Fill memory with a range of each of several objects, by one request each, in their order.

        Args:
            ranges: name, offset, and the memory for the bytes from there on.

        Returns: the number of bytes read of each; fewer than the memory has where the object ends before.
        """
        found = self.read_each([(name, offset, sum(map(len, places))) for name, offset, places in ranges])
        for (_, _, places), data in zip(ranges, found, strict=True):
            yield copy_into(data, places)

    def read_into(self, name: str, places: Sequence[tuple[int, memoryview]]) -> None:
        """Fill memory with ranges of the object, each an offset and the memory for the bytes from there on.

        Raises: StorageError when the object ends before.
        """
        ranges = [(offset, len(memory)) for offset, memory in places]
        for (_, memory), data in zip(places, self.read_ranges(name, ranges), strict=True):
            memory[:] = data

    @contextmanager
    def open_reader(self) -> Iterator[ReadInto]:
        """Return `read_into` for many calls, which may keep objects open until the end of the `with`."""
        yield self.read_into

    def _whole(self, name: str, data: bytes, offset: int, size: int) -> bytes:
        if len(data) != size:
            raise StorageError(f"{name} in {self.where} ends before byte {offset + size:,}")
        return data

    def check_readable(self) -> None:
        """List a folder of the store, and write nothing.

        Raises: ConfigError with the remedy if it fails until something is corrected; StorageError if the store does not
            respond now.
        """
        self.names(PROBES)

    def check_writable(self) -> None:
        """Write, read, create and delete a small object.

        Raises: ConfigError with the remedy if it fails until something is corrected; StorageError if the store does not
            respond now.
        """
        name, data = f"{PROBES}/{secrets.token_hex(8)}", secrets.token_bytes(16)
        self.put(name, data)
        try:
            same, second = self.read(name) == data, self.create(name, b"another")
        finally:
            self.delete_probe(name)
        if not same:
            raise ConfigError(
                f"{self.where}: it cannot be a store: it returns other bytes than were written. "
                "Correct store.uri or the endpoint"
            )
        if second:
            raise ConfigError(
                f"{self.where}: the server ignores If-None-Match (conditional puts), so two runs could overwrite each "
                "other's snapshots. Use a server that honours it"
            )

    def delete_probe(self, name: str) -> None:
        """Delete an object that tested the store."""
        self.delete([name])


class RangeFile(io.RawIOBase):
    """Seekable, read-only file over `Store.read_each`, which keeps the last range in memory."""

    def __init__(self, store: Store, name: str, size: int):
        super().__init__()
        self._store, self._name, self._size = store, name, size
        self._at, self._start, self._piece = 0, 0, b""

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position of the next read."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position of the next read."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, or all that remain if no size is given."""
        left = max(self._size - self._at, 0)
        size = left if size < 0 else min(size, left)
        if not self._start <= self._at <= self._at + size <= self._start + len(self._piece):
            start = self._at if size >= AHEAD else max(min(self._at, self._size - AHEAD), 0)
            length = min(max(size + self._at - start, AHEAD), self._size - start)
            self._piece = next(iter(self._store.read_each([(self._name, start, length)])))
            self._start = start
        begin = self._at - self._start
        self._at += size
        return self._piece[begin : begin + size]


def open_ranges(store: Store, name: str, size: int) -> AbstractContextManager[BinaryIO | RangeFile]:
    """Open an object of which parts are read: by ranges where each read is a request, else the file itself."""
    return RangeFile(store, name, size) if store.is_remote else store.open(name)


def copy_into(data: bytes, places: Sequence[memoryview]) -> int:
    """Fill memory with the bytes, one place after the other; return the number of all bytes."""
    rest = memoryview(data)
    for place in places:
        part = rest[: len(place)]
        place[: len(part)] = part
        rest = rest[len(part) :]
    return len(data)


@contextmanager
def storage_errors(what: str, where: Path) -> Iterator[None]:
    """Translate an OSError into an error with the cause and the remedy.

    Args:
        where: a path on the file system of the error.

    Raises: ConfigError for a missing permission, which no rerun mends; StorageError.
    """
    try:
        yield
    except OSError as error:
        what += f": {error.strerror or error}"
        if error.errno in FORBIDDEN:
            what += f". Make {where} writable for this user, or set store.uri to another place"
            raise ConfigError(what) from error
        if error.errno in DISK_FULL:
            what += f". Free some space on the disk of {where}, then rerun: what is finished is kept"
        raise StorageError(what, retryable=error.errno not in DISK_FULL) from error
