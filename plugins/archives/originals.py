"""Stores images as fetched, with their ETag and Last-Modified, so that a later run fetches only changed ones.

Shards hold resized images, which cannot serve another size. Where the config names a folder for originals, it gets one
file for each URL: the first line is the response's validators in JSON, the rest is the body. A later run sends
`If-None-Match` and `If-Modified-Since`, and reads the body from the folder on status 304.

Files in this folder are deleted, so it must belong to pairmill alone: `claim` marks it, and refuses one with other files.
In place of a folder it may be a prefix in S3, which all machines share.

Source: RFC 9110, section 13 (conditional requests), RFC 9111, sections 3 and 4.3.
"""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from email.message import Message
from itertools import accumulate, chain
from pathlib import Path

from dataops.errors import ConfigError
from dataops.regular_files import read_bytes
from dataops.store import Store

_ETAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e]{0,400}"')
_DATE = re.compile(r"[A-Za-z0-9 ,:+-]{1,60}")
_TEMPORARY = ".tmp-"
MARKER = ".pairmill-originals"
"""Name of the empty file that marks a folder of originals."""
_FOLDER_NAME = re.compile(r"[0-9a-f]{2}")
_OBJECT_NAME = re.compile(r"[0-9a-f]{2}/[0-9a-f]{62}")
_FILE_NAME = re.compile(rf"[0-9a-f]{{62}}|{re.escape(_TEMPORARY)}[a-z0-9_]{{8}}")


@dataclass(frozen=True)
class Original:
    """The stored image of one URL."""

    url: str
    etag: str | None
    last_modified: str | None
    sha256: str
    body: bytes = b""

    @property
    def validators(self) -> dict[str, str]:
        """Headers of a conditional request."""
        headers = {"If-None-Match": self.etag, "If-Modified-Since": self.last_modified}
        return {name: value for name, value in headers.items() if value is not None}


class Originals:
    """The folder of originals; safe for many threads and processes, and for many machines over a shared file system."""

    def __init__(self, folder: Path):
        self._folder = folder

    def claim(self) -> None:
        """Create the folder, or check that it holds originals only, and mark it.

        Raises: ConfigError if it holds other files, or cannot be written.
        """
        try:
            if (self._folder / MARKER).is_file():
                return
            self._folder.mkdir(parents=True, exist_ok=True)
            if stranger := self._find_stranger():
                raise ConfigError(
                    f"download.originals: {self._folder} holds {stranger}, which is not an original, and pairmill deletes "
                    "files in its folder of originals; name an empty or a new folder"
                )
            (self._folder / MARKER).touch()
        except OSError as error:
            raise ConfigError(
                f"download.originals: {self._folder} cannot be used ({error.strerror or error}); name a folder that this "
                "user may write"
            ) from error

    def _find_stranger(self) -> Path | None:
        """Return the path in the folder of an entry that is not ours; None if there is none. Only one file is read."""
        read = False
        for path in chain(self._folder.iterdir(), self._folder.glob("??/*")):
            is_file = path.parent != self._folder
            pattern = _FILE_NAME if is_file else _FOLDER_NAME
            is_ours = path.name == MARKER or (pattern.fullmatch(path.name) and not path.is_symlink())
            if is_ours and is_file and not read and not path.name.startswith(_TEMPORARY):
                read, is_ours = True, _read_original(path) is not None
            if not is_ours:
                return path.relative_to(self._folder)
        return None

    def get(self, url: str) -> Original | None:
        """Return the original of a URL; None where there is none, or its file is damaged."""
        found = _read_original(self._path(url))
        return found if found is not None and found.url == url and found.validators else None

    def put(self, url: str, body: bytes, headers: Message) -> None:
        """Store a body, if the response has a validator and does not forbid storing.

        Errors of the folder are ignored, since the image has been fetched anyway.
        """
        if (data := _encode(url, body, headers)) is None:
            return
        path = self._path(url)
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(prefix=_TEMPORARY, dir=path.parent)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                Path(name).replace(path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise

    def drop(self, url: str) -> bool:
        """Delete the original of a URL whose owner opted out, or that no longer exists; return whether there was a file."""
        with suppress(OSError):
            self._path(url).unlink()
            return True
        return False

    def drop_matching(self, matches: Callable[[Original], bool]) -> int:
        """Delete the originals for which `matches` is true, and damaged files, which may hold any; return their number."""
        deleted = 0
        for *_, path in self._files():
            kept = _read_original(path)
            if kept is None or matches(kept):
                with suppress(OSError):
                    path.unlink()
                    deleted += 1
        return deleted

    def shrink(self, limit: int) -> int:
        """Delete the files that were written or confirmed the longest ago, and return their number.

        Args:
            limit: maximum bytes of the files that remain.
        """
        files = sorted(self._files(), key=lambda found: found[0], reverse=True)
        kept = deleted = 0
        for _, size, path in files:
            kept += size
            if kept > limit:
                with suppress(OSError):
                    path.unlink()
                    deleted += 1
        return deleted

    def confirm(self, url: str) -> None:
        """Set the file's time after the server confirmed that the image has not changed."""
        with suppress(OSError):
            os.utime(self._path(url))

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """Yield time, size and path of each file that is named as an original, whole or half-written, without links."""
        with suppress(OSError), os.scandir(self._folder) as folders:
            for folder in folders:
                if not _FOLDER_NAME.fullmatch(folder.name) or not folder.is_dir(follow_symlinks=False):
                    continue
                with suppress(OSError), os.scandir(folder) as files:
                    for file in files:
                        if _FILE_NAME.fullmatch(file.name) and file.is_file(follow_symlinks=False):
                            status = file.stat(follow_symlinks=False)
                            yield status.st_mtime, status.st_size, Path(file.path)

    def _path(self, url: str) -> Path:
        return self._folder / _name(url)


class StoredOriginals:
    """Originals under a prefix of a store, each an object; see Originals. Errors of the store end the run.

    The objects that were written the longest ago are deleted first: to mark one as used would write it again.
    """

    def __init__(self, store: Store):
        self._store = store

    def claim(self) -> None:
        """Mark the prefix. Raises: ConfigError if it has other objects; StorageError."""
        if self.is_claimed():
            return
        if stranger := next((name for name in self._store.names("") if not _OBJECT_NAME.fullmatch(name)), None):
            raise ConfigError(
                f"download.originals: {self._store.uri} holds {stranger}, which is not an original, and pairmill deletes "
                "objects there; name an empty or a new prefix"
            )
        self._store.put(MARKER, b"")

    def is_claimed(self) -> bool:
        """Return whether a run has marked the prefix."""
        return self._store.size(MARKER) is not None

    def get(self, url: str) -> Original | None:
        """Return the original of a URL; None where there is none, or it is damaged."""
        found = _decode(self._store.find(_name(url)) or b"")
        return found if found is not None and found.url == url and found.validators else None

    def put(self, url: str, body: bytes, headers: Message) -> None:
        """Store a body, if the response has a validator and does not forbid storing."""
        if (data := _encode(url, body, headers)) is not None:
            self._store.put(_name(url), data)

    def drop(self, url: str) -> bool:
        """Delete the original of a URL; return whether there was one."""
        if self._store.size(_name(url)) is None:
            return False
        self._store.delete([_name(url)])
        return True

    def drop_matching(self, matches: Callable[[Original], bool]) -> int:
        """Delete the originals for which `matches` is true, and damaged ones, which may hold any; return their number."""
        names = [name for name in self._store.names("") if _OBJECT_NAME.fullmatch(name)]
        found = ((name, _decode(self._store.find(name) or b"")) for name in names)
        chosen = [name for name, kept in found if kept is None or matches(kept)]
        self._store.delete(chosen)
        return len(chosen)

    def shrink(self, limit: int) -> int:
        """Delete the oldest objects until so many bytes remain, and return their number."""
        entries = [entry for entry in self._store.entries("") if _OBJECT_NAME.fullmatch(entry.name)]
        newest_first = sorted(entries, key=lambda entry: entry.modified, reverse=True)
        sizes = accumulate(entry.bytes for entry in newest_first)
        chosen = [entry.name for entry, size in zip(newest_first, sizes, strict=True) if size > limit]
        self._store.delete(chosen)
        return len(chosen)

    def confirm(self, url: str) -> None:
        """Do nothing: the object stays as it is."""


def _name(url: str) -> str:
    name = hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{name[:2]}/{name[2:]}"


def _encode(url: str, body: bytes, headers: Message) -> bytes | None:
    """Return the content of a file; None if the response has no validator, or forbids to store it."""
    etag, modified = _match_header(_ETAG, headers["ETag"]), _match_header(_DATE, headers["Last-Modified"])
    if not (etag or modified) or "no-store" in (headers["Cache-Control"] or "").lower():
        return None
    head = asdict(Original(url, etag, modified, hashlib.sha256(body).hexdigest()))
    del head["body"]
    return json.dumps(head).encode("ascii") + b"\n" + body


def _read_original(path: Path) -> Original | None:
    """Return the original in a file; None if the file is missing, damaged, or something else."""
    try:
        return _decode(read_bytes(path))
    except OSError:
        return None


def _decode(data: bytes) -> Original | None:
    head, _, body = data.partition(b"\n")
    try:
        found = Original(**json.loads(head), body=body)
    except (ValueError, TypeError):
        return None
    return found if hashlib.sha256(body).hexdigest() == found.sha256 else None


def _match_header(pattern: re.Pattern[str], value: str | None) -> str | None:
    return value if value is not None and pattern.fullmatch(value) else None
