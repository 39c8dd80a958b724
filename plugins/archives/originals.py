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
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from email.message import Message
from itertools import accumulate

from dataops.errors import ConfigError, StorageError
from dataops.store import Entry, Store

_ETAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e]{0,400}"')
_DATE = re.compile(r"[A-Za-z0-9 ,:+-]{1,60}")
MARKER = ".pairmill-originals"
"""Name of the empty file that marks a folder of originals."""
_OBJECT_NAME = re.compile(r"[0-9a-f]{2}/[0-9a-f]{62}")


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
    """The originals below a store: a folder, or a prefix of S3. Safe for many threads, processes and machines."""

    def __init__(self, store: Store):
        self._store = store

    def claim(self) -> None:
        """Check that the store holds originals only, and mark it.

        Raises: ConfigError if it holds other files, or cannot be written; StorageError.
        """
        if self.is_claimed():
            return
        if stranger := self._find_stranger():
            raise ConfigError(
                f"download.originals: {self._store.uri} holds {stranger}, which is not an original, and pairmill deletes "
                "files there; name an empty or a new folder or prefix"
            )
        self._store.check_writable()
        self._store.put(MARKER, b"")

    def is_claimed(self) -> bool:
        """Return whether a run has marked the store."""
        return self._store.size(MARKER) is not None

    def _find_stranger(self) -> str | None:
        """Return the name of a file that is not ours; None if there is none. Only one file is read."""
        names = self._store.names("")
        strangers = [name for name in names if not _OBJECT_NAME.fullmatch(name)]
        return next(iter(strangers), None) or next((name for name in names[:1] if self._read(name) is None), None)

    def _read(self, name: str) -> Original | None:
        """Return the original in a file; None if the file is missing, damaged, or something else."""
        with suppress(StorageError):
            return _decode(self._store.find(name) or b"")
        return None

    def get(self, url: str) -> Original | None:
        """Return the original of a URL; None where there is none, or its file is damaged."""
        found = self._read(_name(url))
        return found if found is not None and found.url == url and found.validators else None

    def put(self, url: str, body: bytes, headers: Message) -> None:
        """Store a body, if the response has a validator and does not forbid storing.

        Errors of the store are ignored, since the image has been fetched anyway.
        """
        if (data := _encode(url, body, headers)) is not None:
            with suppress(StorageError):
                self._store.put_chunks(_name(url), lambda: iter([memoryview(data)]), synced=False)

    def drop(self, url: str) -> bool:
        """Delete the original of a URL whose owner opted out, or that no longer exists; return whether there was one."""
        return self._delete([_name(url)] if self._store.size(_name(url)) is not None else []) == 1

    def drop_matching(self, matches: Callable[[Original], bool]) -> int:
        """Delete the originals for which `matches` is true, and damaged ones, which may hold any; return their number."""
        found = ((entry.name, self._read(entry.name)) for entry in self._entries())
        return self._delete([name for name, kept in found if kept is None or matches(kept)])

    def shrink(self, limit: int) -> int:
        """Delete the originals that were written or confirmed the longest ago, and return their number.

        Args:
            limit: maximum bytes of those that remain.
        """
        newest_first = sorted(self._entries(), key=lambda entry: entry.modified, reverse=True)
        sizes = accumulate(entry.bytes for entry in newest_first)
        self._store.sweep("", older_than_seconds=86_400)
        return self._delete([entry.name for entry, size in zip(newest_first, sizes, strict=True) if size > limit])

    def confirm(self, url: str) -> None:
        """Set the file's time after the server confirmed that the image has not changed.

        An object of S3 keeps its time: to mark it as used would write it again.
        """
        if not self._store.is_remote:
            with suppress(StorageError, OSError):
                os.utime(self._store.local(_name(url)))

    def _entries(self) -> list[Entry]:
        return [entry for entry in self._store.entries("") if _OBJECT_NAME.fullmatch(entry.name)]

    def _delete(self, names: list[str]) -> int:
        self._store.delete(names)
        return len(names)


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


def _decode(data: bytes) -> Original | None:
    head, _, body = data.partition(b"\n")
    try:
        found = Original(**json.loads(head), body=body)
    except (ValueError, TypeError):
        return None
    return found if hashlib.sha256(body).hexdigest() == found.sha256 else None


def _match_header(pattern: re.Pattern[str], value: str | None) -> str | None:
    return value if value is not None and pattern.fullmatch(value) else None
