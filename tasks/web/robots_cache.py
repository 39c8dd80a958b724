"""Fetch robots.txt and similar files of an origin once a run, for all its processes.

The files are kept in a folder that the processes share. A process that needs a missing one locks its name, checks again,
and only then requests it. A file is kept for a day, a failure for a minute and then for twice as long each time: a dead
host costs its timeout now and then, not for each shard and process, and a host that recovers is noticed.
"""

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

from dataops.digest import text_sha256
from dataops.rights.robots_txt import decode_file
from tasks.web.fetch_error import FetchError
from tasks.web.host_state import HostState
from tasks.web.request import (
    MAX_REDIRECTS,
    REDIRECTS,
    HttpClient,
    allow_body,
    read_body,
    resolve_redirect,
    split_url,
    translate_errors,
)

MAX_BYTES = 512_000
"""Maximum bytes read of a file; the rest is ignored. Source: RFC 9309, section 2.5: at least 500 KiB."""
EXPIRY = 86_400.0
"""Seconds for which a file is kept. Source: RFC 9309, section 2.4: not more than 24 hours."""
FAILURE_EXPIRY = 60.0
"""Seconds for which the first failure of a file is kept; each further one twice as long, up to MAX_FAILURE_EXPIRY."""
MAX_FAILURE_EXPIRY = 3_600.0
_ACCEPT = "text/plain,application/json,*/*;q=0.5"
_FAILURE = "SELECT reason, detail, seconds, until FROM failures WHERE url = ? AND round = ?"


@dataclass(frozen=True)
class OriginFile:
    """The response of a host to the request of one file."""

    url: str
    status: int
    text: str
    """Content of the file; empty unless the status is 200."""
    fetched_at: float
    """Time of the response, in seconds since the epoch."""


class OriginFiles:
    """The files of all origins. Safe to use from many threads and processes.

    Args:
        client: the client that makes the requests.
        folder: folder of the shared state (tasks.web.host_state).
        timeout: seconds for one file, redirects included.
        round_: number of the download round; failures of other rounds do not count.
    """

    def __init__(self, client: HttpClient, folder: Path, timeout: float, round_: int = 0):
        self._client, self._timeout, self._round = client, timeout, round_
        self._state = HostState(folder)

    def get(self, origin: str, path: str, turn: Callable[[], AbstractContextManager[None]] = nullcontext) -> OriginFile:
        """Return a file of an origin such as https://example.org, fetched or kept.

        Args:
            turn: context that is entered for the request, if one is made.

        Raises: FetchError if the host did not answer, or not as it should, now or a short time ago.
        """
        url = origin + path
        if kept := self._kept(url):
            return kept
        # One of 65,536 names: two URLs rarely share a lock, and a million hosts do not make a million lock files.
        with self._state.exclusive(text_sha256(url)[:4]):
            if kept := self._kept(url):
                return kept
            try:
                with turn(), translate_errors(self._timeout):
                    found = self._request(url)
            except FetchError as error:
                self._keep_failure(url, error)
                raise
            except Exception as error:  # whatever it is, it is not requested again for each row
                failure = FetchError("bad_response", type(error).__name__)
                self._keep_failure(url, failure)
                raise failure from error
            self._state.execute("INSERT OR REPLACE INTO files VALUES (?, ?)", url, json.dumps(asdict(found)))
            return found

    def _kept(self, url: str) -> OriginFile | None:
        """Return the kept file, or None. Raises: FetchError if a failure is kept."""
        row = self._state.execute("SELECT answer FROM files WHERE url = ?", url)
        failure = None if row else self._state.execute(_FAILURE, url, self._round)
        if failure and failure[3] > time.time():
            raise FetchError(failure[0], failure[1])
        kept = OriginFile(**json.loads(row[0])) if row else None
        return kept if kept and kept.fetched_at + EXPIRY > time.time() else None

    def _keep_failure(self, url: str, error: FetchError) -> None:
        """Keep a failure of the host. That this process got no turn (host_busy) is none."""
        if error.reason == "host_busy":
            return
        before = self._state.execute(_FAILURE, url, self._round)
        seconds = min(2 * before[2], MAX_FAILURE_EXPIRY) if before else FAILURE_EXPIRY
        values = (url, self._round, error.reason, error.detail, seconds, time.time() + seconds)
        self._state.execute("INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?, ?, ?)", *values)

    def _request(self, first: str) -> OriginFile:
        url, deadline, now = first, time.monotonic() + self._timeout, time.time()
        budget = allow_body(MAX_BYTES)
        for _ in range(MAX_REDIRECTS + 1):
            with self._client.get(split_url(url), deadline, budget, Accept=_ACCEPT) as response:
                if response.status in REDIRECTS:
                    url = resolve_redirect(url, response)
                    continue
                if response.status != 200:
                    return OriginFile(first, response.status, "", now)
                body = b"".join(read_body(response, MAX_BYTES, cut=True))
                return OriginFile(first, 200, decode_file(body), now)
        return OriginFile(first, 404, "", now)  # RFC 9309, 2.3.1.2: over five redirects count as if there were none
