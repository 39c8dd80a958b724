"""State of hosts that the processes of a machine share: turns, pauses, failures, IP addresses, robots.txt and its like.

It is one SQLite file in the home. Only one process of a run requests images from a host
(tasks/download/host_cut.py), so it is for what comes after it: the next shard of the host, a
process that replaces a dead one, a stage or run beside it. What moves to another machine is in
`HostState.export`. A process that needs a missing file of an origin locks its name, checks again,
and only then requests it. A file is kept for a day, a failure for a minute and then for twice as
long each time: a dead host costs its timeout now and then, not for each shard and process, and a
host that recovers is noticed.
"""

import fcntl
import json
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from socket import AddressFamily
from typing import Any
from urllib.parse import urlsplit

from dataops.archives.http_body import BadBody
from dataops.digest import text_sha256
from dataops.reasons import Reason
from dataops.rights.refusals import BOT_MANAGER, find_challenge
from dataops.rights.robots_txt import decode_file
from dataops.rights.signals import Agents, find_header_opt_outs
from tasks.web.address_policy import SocketAddresses
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
_FAILURE = "SELECT reason, detail, seconds, until FROM failures WHERE url = ? AND attempt = ?"
_TABLES = (
    "files (url TEXT PRIMARY KEY, answer TEXT, until REAL)",
    "failures (url TEXT PRIMARY KEY, attempt TEXT, reason TEXT, detail TEXT, seconds REAL, until REAL)",
    "pauses (host TEXT, run TEXT, reason TEXT, detail TEXT, until REAL, PRIMARY KEY (host, run))",
    "turns (host TEXT PRIMARY KEY, until REAL)",
    "addresses (host TEXT PRIMARY KEY, found TEXT, until REAL)",
    "lookups (found INTEGER PRIMARY KEY, number INTEGER, until REAL)",
)
_LONGEST_INTERVAL = 3_600.0
"""Seconds that a turn lies in the future at most; a longer one is from before a change of the clock."""
_LONGEST_PAUSE = 31 * 86_400.0
"""Seconds that a pause for which a host asks may last, likewise."""
EXPIRY = 86_400.0
"""Seconds for which a file is kept. Source: RFC 9309, section 2.4: not more than 24 hours."""


class HostState:
    """The shared file and its locks. Safe to use from many threads and processes.

    Args:
        folder: folder of the SQLite file and of the lock files, in the home or a temporary one.
    """

    def __init__(self, folder: Path):
        self.folder, self._lock = folder, threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)  # on another machine than the run's it does not exist yet
        self._database = sqlite3.connect(
            folder / "notes.sqlite", timeout=60, isolation_level=None, check_same_thread=False
        )
        weakref.finalize(self, self._database.close)
        with self.exclusive("create"):  # SQLite does not wait for another process here
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = OFF")  # after a power loss everything is asked again
            for table in _TABLES:
                self._database.execute(f"CREATE TABLE IF NOT EXISTS {table} WITHOUT ROWID")
            self._delete_expired(int(time.time()))

    def _delete_expired(self, now: int) -> None:
        """Delete what no longer holds, at most once an hour, and what a clock that has been set back since has written."""
        if 0 <= now - self._database.execute("PRAGMA user_version").fetchone()[0] < 3600:
            return
        for table in (table.split()[0] for table in _TABLES):
            longest = _LONGEST_PAUSE if table == "pauses" else 2 * EXPIRY
            self._database.execute(f"DELETE FROM {table} WHERE until NOT BETWEEN ? AND ?", [now, now + longest])
        self._database.execute(f"PRAGMA user_version = {now}")

    def execute(self, query: str, *values: object) -> tuple[Any, ...] | None:
        """Execute a statement and return the first row of its result, if it has one."""
        with self._lock:
            return self._database.execute(query, values).fetchone()

    def export(self, origins: Collection[str]) -> bytes:
        """Return what another machine must know of the hosts of origins: pauses, IP addresses and files, as JSON."""
        now = time.time()
        hosts = {urlsplit(origin).hostname or "" for origin in origins if "[" not in origin}
        rows: dict[str, list[Any]] = {"pauses": [], "addresses": [], "files": []}
        with self._lock:
            for host in sorted(hosts):
                query = "SELECT * FROM pauses WHERE host = ? AND run = '' AND until > ?"
                rows["pauses"] += self._database.execute(query, (host, now))
                rows["addresses"] += self._database.execute(
                    "SELECT * FROM addresses WHERE host = ? AND until > ?", (host, now)
                )
            for origin in sorted(origins):
                query = "SELECT * FROM files WHERE url >= ? AND url < ? AND until > ?"
                rows["files"] += self._database.execute(query, (f"{origin}/", f"{origin}0", now))
        return json.dumps(rows).encode()

    def load(self, exported: bytes) -> set[str]:
        """Take over what another machine has exported, where this one does not know more; return the origins of files."""
        found = json.loads(exported)
        for table, rows in found.items():
            for row in rows:
                self.execute(f"INSERT OR IGNORE INTO {table} VALUES ({', '.join('?' * len(row))})", *row)
        return {"/".join(url.split("/", 3)[:3]) for url, *_ in found["files"]}

    def find_addresses(self, host: str) -> tuple[SocketAddresses, float] | None:
        """Return the kept addresses of a host and the seconds for which they hold, or None."""
        now = time.time()
        with suppress(sqlite3.Error):  # of a temporary folder that is gone
            row = self.execute("SELECT found, until FROM addresses WHERE host = ? AND until > ?", host, now)
            if row:
                return [(AddressFamily(kind), tuple(at)) for kind, at in json.loads(row[0])], row[1] - now
        return None

    def put_addresses(self, host: str, found: SocketAddresses, seconds: float) -> None:
        """Keep the addresses of a host, and count the look-ups that found some and those that found none."""
        with suppress(sqlite3.Error):
            now = time.time()
            self.execute("INSERT OR REPLACE INTO addresses VALUES (?, ?, ?)", host, json.dumps(found), now + seconds)
            query = "INSERT INTO lookups VALUES (?, 1, ?) ON CONFLICT DO UPDATE SET number = number + 1"
            self.execute(query, bool(found), now + EXPIRY)

    @contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Hold the lock of this name alone among all threads and processes. Waits until it is free.

        The lock is fcntl's: filelock waits by polling, and the many threads of a download may wait for one host.
        """
        with (self.folder / f"lock-{name}").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


class MachinePace:
    """Turns at hosts and their pauses, of all processes of this machine.

    Args:
        run: name of the run, whose hosts that are given up are asked by others.
        on_pause: called after a pause was recorded, with its seconds.
    """

    def __init__(self, state: HostState, run: str = "", on_pause: Callable[[float], None] = lambda seconds: None):
        self._state, self._run, self._on_pause = state, run, on_pause

    def take_turn(self, host: str, interval: float) -> float:
        """Take a turn and return 0, or return the seconds until there is one."""
        if not interval:
            return 0.0
        now = time.time()
        taken = self._state.execute(
            "INSERT INTO turns VALUES (?, ?) ON CONFLICT DO UPDATE SET until = excluded.until "
            "WHERE until <= ? OR until > ? RETURNING 1", host, now + interval, now, now + _LONGEST_INTERVAL,
        )  # fmt: skip
        found = None if taken else self._state.execute("SELECT until FROM turns WHERE host = ?", host)
        return max(found[0] - now, 1e-3) if found else 0.0

    def put_pause(self, host: str, reason: str, detail: str, seconds: float) -> None:
        """Record a pause and the answer (reason, detail) by which a host requested it. The longest pause counts."""
        self._put(host, "", reason, detail, seconds)
        self._on_pause(seconds)

    def give_up(self, host: str, reason: str, detail: str) -> None:
        """Let this run request nothing more from a host."""
        self._put(host, self._run or "-", reason, detail, EXPIRY)

    def _put(self, host: str, run: str, reason: str, detail: str, seconds: float) -> None:
        self._state.execute(
            "INSERT INTO pauses VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET reason = excluded.reason, "
            "detail = excluded.detail, until = excluded.until WHERE excluded.until > until",
            host, run, reason, detail, time.time() + seconds,
        )  # fmt: skip

    def find_pause(self, host: str) -> tuple[str, str, float] | None:
        """Return the answer (reason, detail) and the remaining seconds of a host's pause, or None."""
        now = time.time()
        pause = self._state.execute(
            "SELECT reason, detail, until FROM pauses WHERE host = ? AND run IN ('', ?) AND until > ? "
            "ORDER BY until DESC", host, self._run or "-", now,
        )  # fmt: skip
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
        timeout: seconds for one file, redirects included.
        attempt: name of the run and the round of its download; failures of another one do not count.
    """

    def __init__(self, client: HttpClient, state: HostState, timeout: float, attempt: str = ""):
        self._client, self.state, self._timeout, self._attempt = client, state, timeout, attempt

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
        with self.state.exclusive(text_sha256(url)[:4]):
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
            values = (url, json.dumps(asdict(found)), found.fetched_at + EXPIRY)
            self.state.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", *values)
            return found

    def _kept(self, url: str) -> OriginFile | None:
        """Return the kept file, or None. Raises: FetchError if a failure is kept."""
        now = time.time()
        query = "SELECT answer FROM files WHERE url = ? AND until > ? AND until <= ?"
        row = self.state.execute(query, url, now, now + EXPIRY)
        failure = None if row else self.state.execute(_FAILURE, url, self._attempt)
        if failure and 0 < failure[3] - now <= MAX_FAILURE_EXPIRY:
            raise FetchError(failure[0], failure[1])
        return OriginFile(**json.loads(row[0])) if row else None

    def _keep_failure(self, url: str, error: FetchError) -> None:
        before = self.state.execute(_FAILURE, url, self._attempt)
        seconds = min(2 * before[2], MAX_FAILURE_EXPIRY) if before else FAILURE_EXPIRY
        values = (url, self._attempt, error.reason, error.detail, seconds, time.time() + seconds)
        self.state.execute("INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?, ?, ?)", *values)

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
