"""State of hosts that the processes of a download share: robots.txt and similar files, failures and pauses.

It is one SQLite file in a scratch folder, deleted with the run. A process that needs a missing file of an origin locks its
name, checks again, and only then requests it. A file is kept for a day, a failure for a minute and then for twice as long
each time: a dead host costs its timeout now and then, not for each shard and process, and a host that recovers is noticed.
"""

import fcntl
import json
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dataops.archives.http_body import BadBody
from dataops.digest import text_sha256
from dataops.reasons import Reason
from dataops.rights.refusals import BOT_MANAGER, find_challenge
from dataops.rights.robots_txt import decode_file
from dataops.rights.signals import Agents, find_header_opt_outs
from tasks.web.connection import Response
from tasks.web.fetch_error import FetchError
from tasks.web.request import (
    MAX_REDIRECTS,
    REDIRECTS,
    HttpClient,
    allow_body,
    read_challenge,
    read_decoded,
    resolve_redirect,
    split_url,
    translate_errors,
)

MAX_BYTES = 512_000
"""Maximum bytes read of a file; the rest is ignored. Source: RFC 9309, section 2.5: at least 500 KiB."""
FAILURE_EXPIRY = 60.0
"""Seconds for which the first failure of a file is kept; each further one twice as long, up to MAX_FAILURE_EXPIRY."""
MAX_FAILURE_EXPIRY = 3_600.0
_ACCEPT = "text/plain,application/json,*/*;q=0.5"
_FAILURE = "SELECT reason, detail, seconds, until FROM failures WHERE url = ? AND round = ?"
_TABLES = (
    "files (url TEXT PRIMARY KEY, answer TEXT)",
    "failures (url TEXT PRIMARY KEY, round INT, reason TEXT, detail TEXT, seconds REAL, until REAL)",
    "pauses (host TEXT PRIMARY KEY, reason TEXT, detail TEXT, until REAL)",
)


class HostState:
    """The shared file and its locks. Safe to use from many threads and processes.

    Args:
        folder: folder of the SQLite file and of the lock files.
    """

    def __init__(self, folder: Path):
        self._folder, self._lock = folder, threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)  # on another machine than the run's it does not exist yet
        self._database = sqlite3.connect(
            folder / "notes.sqlite", timeout=60, isolation_level=None, check_same_thread=False
        )
        weakref.finalize(self, self._database.close)
        with self.exclusive("create"):  # SQLite does not wait for another process here
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = OFF")  # the file ends with the run
            for table in _TABLES:
                self._database.execute(f"CREATE TABLE IF NOT EXISTS {table} WITHOUT ROWID")

    def execute(self, query: str, *values: object) -> tuple[Any, ...] | None:
        """Execute a statement and return the first row of its result, if it has one."""
        with self._lock:
            return self._database.execute(query, values).fetchone()

    @contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Hold the lock of this name alone among all threads and processes. Waits until it is free.

        The lock is fcntl's: filelock waits by polling, and the many threads of a download may wait for one host.
        """
        with (self._folder / f"lock-{name}").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


class Pauses:
    """Pauses that hosts requested, shared by all processes of the run."""

    def __init__(self, folder: Path):
        self._state = HostState(folder)

    def put(self, host: str, reason: str, detail: str, seconds: float) -> None:
        """Record a pause and the answer (reason, detail) by which a host requested it. The longest pause counts."""
        self._state.execute(
            "INSERT INTO pauses VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET reason = excluded.reason, "
            "detail = excluded.detail, until = excluded.until WHERE excluded.until > until",
            host, reason, detail, time.time() + seconds,
        )  # fmt: skip

    def remaining(self, host: str) -> tuple[str, str, float] | None:
        """Return the answer (reason, detail) and the remaining seconds of a host's pause, or None."""
        now = time.time()
        pause = self._state.execute("SELECT reason, detail, until FROM pauses WHERE host = ? AND until > ?", host, now)
        return (pause[0], pause[1], pause[2] - now) if pause else None


@dataclass(frozen=True)
class OriginFile:
    """The response of a host to the request of one file."""

    url: str
    status: int
    text: str
    """Content of the file; empty unless the status is 2xx (RFC 9309, section 2.3.1.1)."""
    fetched_at: float
    """Time of the response, in seconds since the epoch."""
    refusal: str = ""
    """How a bot manager refused the file, if one did."""


class OriginFiles:
    """The files of all origins. Safe to use from many threads and processes.

    Args:
        client: the client that makes the requests.
        folder: folder of the shared state.
        timeout: seconds for one file, redirects included.
        round_: number of the download round; failures of other rounds do not count.
        expiry: seconds for which a file is kept. Source: RFC 9309, section 2.4: not more than 24 hours.
    """

    def __init__(self, client: HttpClient, folder: Path, timeout: float, round_: int = 0, expiry: float = 86_400.0):
        self._client, self._timeout, self._round, self._expiry = client, timeout, round_, expiry
        self._state = HostState(folder)

    def get(self, origin: str, path: str, turn: Callable[[], AbstractContextManager[None]] = nullcontext) -> OriginFile:
        """Return a file of an origin such as https://example.org, fetched or kept.

        Args:
            turn: context that is entered for the request, if one is made.

        Raises: FetchError if the host did not answer, or not as it should, now or a short time ago; with the reason
            unreadable if it sent the file, and nobody can read it.
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
                failure = FetchError(Reason.BAD_RESPONSE, type(error).__name__)
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
        return kept if kept and kept.fetched_at + self._expiry > time.time() else None

    def _keep_failure(self, url: str, error: FetchError) -> None:
        """Keep a failure of the host. That this process got no turn (host_busy) is none."""
        if error.reason == Reason.HOST_BUSY:
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
                refusals = find_header_opt_outs(response.headers, Agents(""), url, "")
                refusal = next((one.detail for one in refusals if one.signal == BOT_MANAGER.name), "")
                if refusal or not 200 <= response.status < 300:
                    return OriginFile(
                        first, response.status, "", now, refusal or read_challenge(response, response.status)
                    )
                return _read_file(first, response, now)
        return OriginFile(first, 404, "", now)  # RFC 9309, 2.3.1.2: over five redirects count as if there were none


def _read_file(url: str, response: Response, now: float) -> OriginFile:
    try:
        body = read_decoded(response, MAX_BYTES)
        refusal = find_challenge(response.status, response.headers.get("Content-Type"), lambda: body)
        return OriginFile(url, response.status, decode_file(body), now, refusal)
    except (FetchError, BadBody, UnicodeError) as error:
        raise FetchError("unreadable", str(error)) from None
