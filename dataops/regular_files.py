"""Read files that other people name or make: only regular ones. Opening a named pipe would wait without end for a writer.

Standard library only: a registered model ships this file.
"""

import errno
import io
import os
import stat

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NotRegularFileError(OSError):
    """A path is no regular file: a folder, named pipe, socket or device."""

    def __init__(self, path: str | os.PathLike[str], mode: int):
        kind = _KINDS.get(stat.S_IFMT(mode), "a special file")
        number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        name = os.path.basename(path)  # noqa: PTH119
        what = f"{name} is {kind}, not a regular file; put a regular file in its place"
        super().__init__(number, what, os.fspath(path))


def check_regular(path: str | os.PathLike[str]) -> None:
    """Check a file before a library opens it by its path.

    Raises: NotRegularFileError, also for a link to such a path; OSError if there is no file.
    """
    if not stat.S_ISREG(mode := os.stat(path).st_mode):  # noqa: PTH116
        raise NotRegularFileError(path, mode)


def open_descriptor(path: str | os.PathLike[str]) -> int:
    """Open a regular file for reading and return its descriptor. Raises: as check_regular."""
    check_regular(path)  # opening some devices has effects
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(mode := os.fstat(descriptor).st_mode):  # it was replaced since
        os.close(descriptor)
        raise NotRegularFileError(path, mode)
    return descriptor


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Open a regular file for reading bytes. Raises: as check_regular."""
    return os.fdopen(open_descriptor(path), "rb")


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of a regular file. Raises: as check_regular."""
    with open_regular(path) as file:
        return file.read()


def read_text(path: str | os.PathLike[str], encoding: str = "utf-8", errors: str = "strict") -> str:
    """Return the text of a regular file, its line ends as LF.

    Raises: as check_regular; UnicodeDecodeError, whose message names the line and the remedy.
    """
    with open_regular(path) as file, io.TextIOWrapper(file, encoding, errors) as text:
        try:
            return text.read()
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            error.reason += f" in line {line}; save the file in UTF-8"
            raise


def sync(path: str | os.PathLike[str]) -> None:
    """Wait until a file is on disk, or the names in a folder are: a new one then survives a power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
