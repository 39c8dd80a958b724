"""Pictures' own bytes, kept with what their servers call them by, so that a later run need not fetch what did not change.

Shards hold resized pictures, which stand for no other size. So the bytes as fetched are kept, where the config names a
folder for them: one file an address, its first line the response's validators in JSON, then the body. A later run over the
same address, in whatever size, asks `If-None-Match` and `If-Modified-Since`, and on 304 takes the bytes from here.

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
    """What is kept of one address."""

    url: str
    etag: str | None
    last_modified: str | None
    sha256: str
    body: bytes = b""

    @property
    def validators(self) -> dict[str, str]:
        """The headers of a request that wants the bytes only if they changed."""
        given = {"If-None-Match": self.etag, "If-Modified-Since": self.last_modified}
        return {name: value for name, value in given.items() if value is not None}


class Originals:
    """The folder; for use from many threads and processes, and over a shared file system from many machines."""

    def __init__(self, folder: Path):
        self._folder = folder

    def get(self, url: str) -> Original | None:
        """What is kept of an address, whole and unharmed; else None."""
        try:
            head, _, body = self._place(url).read_bytes().partition(b"\n")
            found = Original(**json.loads(head), body=body)
        except (OSError, ValueError, TypeError):
            return None
        unharmed = found.url == url and hashlib.sha256(body).hexdigest() == found.sha256
        return found if unharmed and found.validators else None

    def put(self, url: str, body: bytes, headers: Message) -> None:
        """Keep a body, where its server gave it a validator and did not forbid to store it.

        Errors of the folder are let pass: the picture is there all the same.
        """
        etag, modified = _match_header(_ETAG, headers["ETag"]), _match_header(_DATE, headers["Last-Modified"])
        if not (etag or modified) or "no-store" in (headers["Cache-Control"] or "").lower():
            return
        head = asdict(Original(url, etag, modified, hashlib.sha256(body).hexdigest()))
        del head["body"]
        place = self._place(url)
        with suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(prefix=_TEMPORARY, dir=place.parent)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(json.dumps(head).encode("ascii") + b"\n" + body)
                Path(name).replace(place)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise

    def drop(self, url: str) -> None:
        """Keep nothing of an address: its owner forbids the use, or it is gone."""
        with suppress(OSError):
            self._place(url).unlink(missing_ok=True)

    def shrink(self, limit: int) -> int:
        """Delete the files that were made or confirmed the longest ago, until the rest is small enough; how many.

        Args:
            limit: bytes.
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
        """Note that an address still has these bytes."""
        with suppress(OSError):
            os.utime(self._place(url))

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        for path in self._folder.glob("??/*"):
            with suppress(OSError):
                known = path.stat()
                yield known.st_mtime, known.st_size, path

    def _place(self, url: str) -> Path:
        name = hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()
        return self._folder / name[:2] / name[2:]


def _match_header(pattern: re.Pattern[str], value: str | None) -> str | None:
    return value if value is not None and pattern.fullmatch(value) else None
