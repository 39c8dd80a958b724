"""Implement the store in a local or mounted folder.

A write goes to a temporary file `.tmp-*` beside its target, which is synced to the disk before it
is renamed (scratch tables are not: see dataops.snapshot.Draft.put_scratch). The file of a killed
writer is never listed; `sweep` deletes it, in the next run that makes the same snapshot.
"""

import ctypes
import errno
import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, TypeVar

from dataops.errors import ConfigError, StorageError
from dataops.regular_files import NotRegularFileError, check_regular, open_regular, read_bytes, sync
from dataops.storage.base import Entry, ReadInto, Store, check_name, storage_errors

T = TypeVar("T")

TEMPORARY = ".tmp-"
KEPT_OPEN = 256
"""Maximum number of files that `open_reader` keeps open; the usual limit of a process is 1,024."""

_SYNC_FILE_RANGE_WRITE = 2
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)
"""Flag of Linux without a name in Python. It is a hint: only fsync guarantees that the data is on disk."""
if _sync_file_range is not None:
    _sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]

_DIRECT = getattr(os, "O_DIRECT", 0)
"""Flag of Linux for writes past the page cache, which take a quarter of the CPU time of cached writes."""

Data = bytes | memoryview | Path | Callable[[int], None]
"""Source of a write: bytes, a local file, or a function that writes to a file descriptor."""


class FolderStore(Store):
    """Store in a local or mounted folder."""

    window = 16 << 20  # enough that a call and the waking of a thread for each cost nothing

    def __init__(self, root: Path):
        self.root = root.expanduser().absolute()
        self.uri = self.where = str(self.root)

    @cached_property
    def _real_root(self) -> str:
        return os.path.realpath(self.uri)

    def _path(self, name: str) -> Path:
        path = os.path.join(self.uri, check_name(name))  # noqa: PTH118  # as text: every access goes through here
        if not f"{os.path.realpath(path)}/".startswith(
            self._real_root.rstrip("/") + "/"
        ):  # a link that someone planted
            raise StorageError(f"{path} is a link out of the store; remove it")
        return Path(path)

    def size(self, name: str) -> int | None:
        try:
            found = self._path(name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not stat.S_ISREG(found.st_mode):
            error = NotRegularFileError(self._path(name), found.st_mode)
            raise StorageError(f"cannot read {self.root / name}: {error.strerror}")
        return found.st_size

    def find(self, name: str) -> bytes | None:
        with (
            storage_errors(f"cannot read {self.root / name}", self.root),
            suppress(FileNotFoundError, NotADirectoryError),
        ):
            return read_bytes(self._path(name))
        return None

    def read_each(self, ranges: Sequence[tuple[str, int, int]]) -> Iterator[bytes]:
        for path, (_, offset, size) in zip(self.locals([name for name, _, _ in ranges]), ranges, strict=True):
            with self._open_at(path, offset) as file:
                data = file.read(size)  # also more than the 2 GiB of one system call
            yield data

    def read_each_into(self, ranges: Sequence[tuple[str, int, Sequence[memoryview]]]) -> Iterator[int]:
        for path, (_, offset, places) in zip(self.locals([name for name, _, _ in ranges]), ranges, strict=True):
            with self._open_at(path, offset) as file:
                size = sum(map(file.readinto, places))
            yield size

    @contextmanager
    def _open_at(self, path: Path, offset: int) -> Iterator[BufferedReader]:
        with storage_errors(f"cannot read {path}", self.root), open_regular(path) as file:
            file.seek(offset)
            yield file

    def read_into(self, name: str, places: Sequence[tuple[int, memoryview]]) -> None:
        with self.open(name) as file:
            self._fill(name, file.fileno(), places)

    @contextmanager
    def open_reader(self) -> Iterator[ReadInto]:
        with ExitStack() as stack:
            files: dict[str, BinaryIO] = {}

            def read_into(name: str, places: Sequence[tuple[int, memoryview]]) -> None:
                if name not in files:
                    if len(files) == KEPT_OPEN:
                        self.read_into(name, places)
                        return
                    files[name] = stack.enter_context(self.open(name))
                self._fill(name, files[name].fileno(), places)

            yield read_into

    def _fill(self, name: str, descriptor: int, places: Sequence[tuple[int, memoryview]]) -> None:
        with storage_errors(f"cannot read {self.uri}/{name}", self.root):
            for offset, memory in places:
                if os.preadv(descriptor, [memory], offset) != len(memory):
                    raise StorageError(f"{name} in {self.where} ends before byte {offset + len(memory):,}")

    def put(self, name: str, data: bytes | memoryview | Path) -> None:
        self._put(name, data)

    def put_chunks(
        self,
        name: str,
        pieces: Callable[[], Iterator[memoryview]],
        *,
        direct: bool = False,
        synced: bool = True,
        sha256: str | None = None,
    ) -> None:
        self._put(name, lambda descriptor: _write_pieces(descriptor, pieces(), direct=direct, synced=synced), synced)

    def _put(self, name: str, data: Data, synced: bool = True) -> None:
        target = self._path(name)
        with storage_errors(f"cannot write {target}", self.root):
            _write(target, data, lambda temporary: temporary.replace(target), synced)

    def create(self, name: str, data: bytes) -> bool:
        target = self._path(name)

        def name_if_new(temporary: Path) -> bool:
            try:
                os.link(temporary, target)  # fails where the name exists: the atomic "only if new"
            except FileExistsError:
                return False
            return True

        with storage_errors(f"cannot write {target}", self.root):
            return _write(target, data, name_if_new)

    def copy(self, source: str, target: str) -> None:
        origin, destination = self._path(source), self._path(target)
        with storage_errors(f"cannot copy {source} to {target} in {self.root}", self.root):
            check_regular(origin)
            temporary = reserve(destination)
            try:
                temporary.unlink()
                os.link(origin, temporary)
                temporary.replace(destination)
                sync(destination.parent)
            except OSError:  # a file system without hard links
                self.put(target, origin)
            finally:
                temporary.unlink(missing_ok=True)  # two links to one file: replacing did nothing

    def entries(self, prefix: str) -> list[Entry]:
        base = self._path(prefix) if prefix else self.root
        found: list[Entry] = []
        for folder, folders, files in os.walk(base):
            folders[:] = [name for name in folders if not name.startswith(TEMPORARY)]
            below = folder[len(self.uri) :].lstrip("/")
            for name in (name for name in files if not name.startswith(TEMPORARY)):
                with suppress(FileNotFoundError):  # deleted since the folder was listed
                    known = os.lstat(f"{folder}/{name}")
                    if not stat.S_ISLNK(known.st_mode):
                        found.append(Entry(f"{below}/{name}".lstrip("/"), known.st_size, known.st_mtime))
        return sorted(found)

    def delete(self, names: Sequence[str]) -> None:
        for name in names:
            with storage_errors(f"cannot delete {name} in {self.root}", self.root), suppress(NotADirectoryError):
                self._path(name).unlink(missing_ok=True)

    def delete_tree(self, prefix: str) -> None:
        with storage_errors(f"cannot delete {prefix} in {self.root}", self.root):
            path = self._path(prefix)
            if not path.exists():
                return
            doomed = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=path.parent))
            with suppress(FileNotFoundError):  # another process was faster
                path.rename(doomed / path.name)  # it is gone in one step, whatever ends us in the next
            shutil.rmtree(doomed, ignore_errors=True)  # what cannot be deleted now is swept later

    def sweep(self, prefix: str, older_than_seconds: float = 0.0) -> int:
        swept = 0
        for folder, folders, files in os.walk(self._path(prefix) if prefix else self.root):
            left = [Path(folder) / name for name in (*folders, *files) if name.startswith(TEMPORARY)]
            folders[:] = [name for name in folders if not name.startswith(TEMPORARY)]
            for path in left:
                with suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime >= older_than_seconds:
                        self._remove(path)
                        swept += 1
        return swept

    def _remove(self, path: Path) -> None:
        with storage_errors(f"cannot delete {path}", self.root):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def local(self, name: str, keep_in: Path | None = None) -> Path:
        path = self._path(name)
        try:
            check_regular(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise StorageError(f"no such object: {path}") from error
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
        return path

    def locals(self, names: Sequence[str]) -> list[Path]:
        folders = {name.rpartition("/")[0] for name in names}
        real = {folder: self._path(folder) if folder else self.root for folder in folders}  # each is looked at once
        paths = [real[name.rpartition("/")[0]] / check_name(name).rpartition("/")[2] for name in names]
        return [path if _is_plain(path) else self.local(name) for name, path in zip(names, paths, strict=True)]

    def download(self, name: str, path: Path) -> None:
        source = self.local(name)
        with storage_errors(f"cannot copy {source} to {path}", path.parent):
            shutil.copyfile(source, path)

    def check_readable(self) -> None:
        there = next(path for path in (self.root, *self.root.parents) if path.exists())
        if not there.is_dir():
            raise ConfigError(f"{there} is no folder; set store.uri to another place")
        if not os.access(there, os.W_OK | os.X_OK):
            raise ConfigError(
                f"{there} is not writable for this user; make it writable, or set store.uri to another place"
            )

    def check_writable(self) -> None:
        try:
            super().check_writable()
        except StorageError as error:
            if error.retryable:  # neither a full disk nor a missing permission: such as a folder in /proc
                raise ConfigError(str(error)) from error
            raise

    def delete_probe(self, name: str) -> None:
        with suppress(StorageError):  # the write's own error says more
            self.delete([name])
        with suppress(OSError):
            self._path(name).parent.rmdir()


def _is_plain(path: Path) -> bool:
    """Return whether a path is a file and not a link."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _write(target: Path, data: Data, give_name: Callable[[Path], T], synced: bool = True) -> T:
    """Write the data to a temporary file beside `target` and rename it; both are on the disk then, if `synced`."""
    for attempts_left in (2, 1, 0):
        try:
            with _temporary(target, data, synced) as temporary:
                result = give_name(temporary)
                if synced:
                    sync(target.parent)
                return result
        except FileNotFoundError:  # another process cleared or swept the folder at this moment
            if not attempts_left or (isinstance(data, Path) and not data.exists()):
                raise
    raise AssertionError


@contextmanager
def _temporary(target: Path, data: Data, synced: bool) -> Iterator[Path]:
    """Write the data to a file beside `target`. It is deleted at the end unless it was renamed."""
    temporary = reserve(target)
    try:
        with temporary.open("wb") as out:
            if isinstance(data, Path):
                with open_regular(data) as source:
                    shutil.copyfileobj(source, out, 1 << 20)
            elif callable(data):
                data(out.fileno())
            else:
                out.write(data)
            out.flush()
            if synced:
                os.fsync(out.fileno())
        temporary.chmod(0o644)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _write_pieces(descriptor: int, pieces: Iterator[memoryview], *, direct: bool, synced: bool) -> None:
    at, direct = 0, direct and _set_direct(descriptor, on=True)
    for piece in pieces:
        left = piece
        while left:
            try:
                left = left[os.write(descriptor, left) :]
            except OSError as error:
                if not direct or error.errno != errno.EINVAL:
                    raise
                # at the last piece, or of a file system that only said that it can
                direct = _set_direct(descriptor, on=False)
        if synced and not direct and _sync_file_range is not None:
            # begins with the way to the disk, else the last fsync waits for all of it
            _sync_file_range(descriptor, at, len(piece), _SYNC_FILE_RANGE_WRITE)
        at += len(piece)


def _set_direct(descriptor: int, *, on: bool) -> bool:
    """Turn writes past the page cache on or off for an open file; return whether the file system supports it."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | _DIRECT if on else flags & ~_DIRECT)
    except OSError:
        return False
    return on and bool(_DIRECT)


def reserve(target: Path) -> Path:
    """Create an empty file with a new temporary name beside `target`."""
    _make_folder(target.parent)
    handle, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=target.parent)
    os.close(handle)
    return Path(temporary)


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)
