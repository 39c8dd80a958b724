"""The files in which a host says what robots may do: robots.txt and its like, asked for once each run.

They are kept in a folder that the processes of a run share: who needs one locks its place, looks, and asks the host only
where nobody has yet. Answers are kept, failures are not.
"""

import fcntl
import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

from dataops.digest import text_sha256
from tasks.wire import MAX_REDIRECTS, REDIRECTS, Wire, named_errors, read_body, redirect_target, split_url

MAX_BYTES = 512_000
"""Read of a file; the rest is left out. Source: RFC 9309, section 2.5: at least 500 KiB."""
EXPIRY = 86_400.0
"""Seconds that an answer is kept. Source: RFC 9309, section 2.4: not more than 24 hours."""


@dataclass(frozen=True)
class SiteFile:
    """What a host answered."""

    url: str
    status: int
    text: str
    """Empty unless the status is 200."""
    fetched_at: float
    """Seconds since the epoch."""


class SiteFiles:
    """The files of all hosts; for use from many threads and processes.

    Args:
        wire: how to ask.
        folder: where they are kept.
        timeout: seconds for one file, redirects included.
    """

    def __init__(self, wire: Wire, folder: Path, timeout: float):
        self._wire, self._folder, self._timeout = wire, folder, timeout

    def get(self, origin: str, path: str, turn: Callable[[], AbstractContextManager[None]] = nullcontext) -> SiteFile:
        """A file of an origin such as https://example.org.

        Args:
            turn: entered while the host is asked, where it must be.

        Raises: FetchError where there was no answer.
        """
        place = self._folder / text_sha256(origin + path)[:32]
        with place.open("a+", encoding="utf-8") as kept:
            fcntl.flock(kept, fcntl.LOCK_EX)  # waits for one who asks, who has a deadline
            kept.seek(0)
            if (known := _read(kept.read())) and known.fetched_at + EXPIRY > time.time():
                return known
            with turn(), named_errors(self._timeout):
                found = self._ask(origin + path)
            kept.truncate(0)
            kept.write(json.dumps(asdict(found)))
            return found

    def _ask(self, first: str) -> SiteFile:
        url, deadline, now = first, time.monotonic() + self._timeout, time.time()
        for _ in range(MAX_REDIRECTS + 1):
            with self._wire.get(split_url(url), deadline, Accept="text/plain,application/json,*/*;q=0.5") as response:
                if response.status in REDIRECTS:
                    url = redirect_target(url, response)
                    continue
                if response.status != 200:
                    return SiteFile(first, response.status, "", now)
                body = b"".join(read_body(response, MAX_BYTES, cut=True))
                return SiteFile(first, 200, body.decode("utf-8", "replace"), now)
        return SiteFile(first, 404, "", now)  # RFC 9309, 2.3.1.2: over five redirects count as if there were none


def _read(text: str) -> SiteFile | None:
    try:
        return SiteFile(**json.loads(text))
    except (ValueError, TypeError):  # nothing yet, or its writer was killed
        return None
