"""Stores images as fetched, with their ETag and Last-Modified, so that a later run fetches only changed ones.

Shards hold resized images, which cannot serve another size. Where the config names a folder for originals, it gets one
file for each URL: the first line is the response's validators in JSON, the rest is the body. A later run sends
`If-None-Match` and `If-Modified-Since`, and reads the body from the folder on status 304.

Source: RFC 9110, section 13 (conditional requests), RFC 9111, sections 3 and 4.3.
"""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from email.message import Message
from pathlib import Path

_ETAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e]{0,400}"')
_DATE = re.compile(r"[A-Za-z0-9 ,:+-]{1,60}")
_TEMPORARY = ".tmp-"


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

    def get(self, url: str) -> Original | None:
        """Return the original of a URL; None where there is none, or its file is damaged."""
        try:
            head, _, body = self._path(url).read_bytes().partition(b"\n")
            found = Original(**json.loads(head), body=body)
        except (OSError, ValueError, TypeError):
            return None
        is_intact = found.url == url and hashlib.sha256(body).hexdigest() == found.sha256
        return found if is_intact and found.validators else None

    def put(self, url: str, body: bytes, headers: Message) -> None:
        """Store a body, if the response has a validator and does not forbid storing.

        Errors of the folder are ignored, since the image has been fetched anyway.
        """
        etag, modified = _match_header(_ETAG, headers["ETag"]), _match_header(_DATE, headers["Last-Modified"])
        if not (etag or modified) or "no-store" in (headers["Cache-Control"] or "").lower():
            return
        head = asdict(Original(url, etag, modified, hashlib.sha256(body).hexdigest()))
        del head["body"]
        path = self._path(url)
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(prefix=_TEMPORARY, dir=path.parent)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(json.dumps(head).encode("ascii") + b"\n" + body)
                Path(name).replace(path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise

    def drop(self, url: str) -> None:
        """Delete the original of a URL whose owner opted out, or that no longer exists."""
        with suppress(OSError):
            self._path(url).unlink(missing_ok=True)

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
                path.unlink(missing_ok=True)
                deleted += 1
        return deleted

    def confirm(self, url: str) -> None:
        """Set the file's time after the server confirmed that the image has not changed."""
        with suppress(OSError):
            os.utime(self._path(url))

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        for path in self._folder.glob("??/*"):
            with suppress(OSError):
                status = path.stat()
                yield status.st_mtime, status.st_size, path

    def _path(self, url: str) -> Path:
        name = hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()
        return self._folder / name[:2] / name[2:]


def _match_header(pattern: re.Pattern[str], value: str | None) -> str | None:
    return value if value is not None and pattern.fullmatch(value) else None
