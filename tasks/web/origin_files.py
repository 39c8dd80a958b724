"""The files in which a host says what robots may do: robots.txt and its like, asked for once each run.

They are kept in a folder that the processes of a run share: who needs one that is not there locks its place, looks again,
and asks the host only where nobody has. Answers are kept for a day, failures for a minute and then ever longer: a dead host
costs its timeout now and then, not for each shard and process, and a host that comes back is found again.
"""

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

from dataops.digest import text_sha256
from tasks.web.host_state import HostState
from tasks.web.request import (
    MAX_REDIRECTS,
    REDIRECTS,
    FetchError,
    HttpClient,
    read_body,
    resolve_redirect,
    split_url,
    translate_errors,
)

MAX_BYTES = 512_000
"""Read of a file; the rest is left out. Source: RFC 9309, section 2.5: at least 500 KiB."""
EXPIRY = 86_400.0
"""Seconds that an answer is kept. Source: RFC 9309, section 2.4: not more than 24 hours."""
FAILURE_EXPIRY = 60.0
"""Seconds that the first failure to get a file is kept; each that follows twice as long as the one before, to an hour."""
_LONGEST_FAILURE = 3_600.0
_FAILURE = "SELECT reason, detail, seconds, until FROM failures WHERE url = ? AND round = ?"


@dataclass(frozen=True)
class OriginFile:
    """What a host answered."""

    url: str
    status: int
    text: str
    """Empty unless the status is 200."""
    fetched_at: float
    """Seconds since the epoch."""


class OriginFiles:
    """The files of all hosts; for use from many threads and processes.

    Args:
        wire: how to ask.
        folder: where they are kept (tasks.web.host_state).
        timeout: seconds for one file, redirects included.
        round_: of the download; a later one has nothing to do with the failures of those before.
    """

    def __init__(self, wire: HttpClient, folder: Path, timeout: float, round_: int = 0):
        self._wire, self._timeout, self._round = wire, timeout, round_
        self._notes = HostState(folder)

    def get(self, origin: str, path: str, turn: Callable[[], AbstractContextManager[None]] = nullcontext) -> OriginFile:
        """A file of an origin such as https://example.org.

        Args:
            turn: entered while the host is asked, where it must be.

        Raises: FetchError where there was no answer, or none a short time ago.
        """
        url = origin + path
        if known := self._known(url):
            return known
        # One of 65,536 names: two addresses rarely wait for each other, and a million hosts make no million files.
        with self._notes.exclusive(text_sha256(url)[:4]):
            if known := self._known(url):
                return known
            try:
                with turn(), translate_errors(self._timeout):
                    found = self._ask(url)
            except FetchError as error:
                self._remember(url, error)
                raise
            self._notes.row("INSERT OR REPLACE INTO files VALUES (?, ?)", url, json.dumps(asdict(found)))
            return found

    def _known(self, url: str) -> OriginFile | None:
        """What is kept of a file. Raises: FetchError where that is a failure."""
        row = self._notes.row("SELECT answer FROM files WHERE url = ?", url)
        failed = None if row else self._notes.row(_FAILURE, url, self._round)
        if failed and failed[3] > time.time():
            raise FetchError(failed[0], failed[1])
        known = OriginFile(**json.loads(row[0])) if row else None
        return known if known and known.fetched_at + EXPIRY > time.time() else None

    def _remember(self, url: str, error: FetchError) -> None:
        """Keep a failure of the host's; that we had no turn is none."""
        if error.reason == "host_busy":
            return
        before = self._notes.row(_FAILURE, url, self._round)
        seconds = min(2 * before[2], _LONGEST_FAILURE) if before else FAILURE_EXPIRY
        kept = (url, self._round, error.reason, error.detail, seconds, time.time() + seconds)
        self._notes.row("INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?, ?, ?)", *kept)

    def _ask(self, first: str) -> OriginFile:
        url, deadline, now = first, time.monotonic() + self._timeout, time.time()
        for _ in range(MAX_REDIRECTS + 1):
            with self._wire.get(split_url(url), deadline, Accept="text/plain,application/json,*/*;q=0.5") as response:
                if response.status in REDIRECTS:
                    url = resolve_redirect(url, response)
                    continue
                if response.status != 200:
                    return OriginFile(first, response.status, "", now)
                body = b"".join(read_body(response, MAX_BYTES, cut=True))
                return OriginFile(first, 200, body.decode("utf-8", "replace"), now)
        return OriginFile(first, 404, "", now)  # RFC 9309, 2.3.1.2: over five redirects count as if there were none
