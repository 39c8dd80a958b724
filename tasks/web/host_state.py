"""What the processes of a download tell each other of hosts: one SQLite file in a scratch folder, gone with the run."""

import fcntl
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_TABLES = (
    "files (url TEXT PRIMARY KEY, answer TEXT)",
    "failures (url TEXT PRIMARY KEY, round INT, reason TEXT, detail TEXT, seconds REAL, until REAL)",
    "pauses (host TEXT PRIMARY KEY, reason TEXT, detail TEXT, until REAL)",
)


class HostState:
    """The file and its locks; for use from many threads and processes.

    Args:
        folder: of the SQLite file, and of empty ones to lock.
    """

    def __init__(self, folder: Path):
        self._folder, self._lock = folder, threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)  # on another machine than that of the run, it is not there yet
        self._kept = sqlite3.connect(folder / "notes.sqlite", timeout=60, isolation_level=None, check_same_thread=False)
        weakref.finalize(self, self._kept.close)
        with self.exclusive("create"):  # SQLite itself does not wait here
            self._kept.execute("PRAGMA journal_mode = WAL")
            self._kept.execute("PRAGMA synchronous = OFF")  # it lasts as long as the run
            for table in _TABLES:
                self._kept.execute(f"CREATE TABLE IF NOT EXISTS {table} WITHOUT ROWID")

    def row(self, query: str, *values: Any) -> tuple[Any, ...] | None:
        """The first row of a query's result; also for statements that have none."""
        with self._lock:
            return self._kept.execute(query, values).fetchone()

    @contextmanager
    def exclusive(self, what: str) -> Iterator[None]:
        """Alone among all threads and processes with one of these names; waits for whoever has it."""
        with (self._folder / f"lock-{what}").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


class Pauses:
    """Until when a host wants to be left alone, as it told any process of the run."""

    def __init__(self, folder: Path):
        self._notes = HostState(folder)

    def put(self, host: str, reason: str, detail: str, seconds: float) -> None:
        """Note that a host pushed back, by which answer, and how long it is to be left alone."""
        self._notes.row(
            "INSERT INTO pauses VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET reason = excluded.reason, "
            "detail = excluded.detail, until = excluded.until WHERE excluded.until > until",
            host, reason, detail, time.time() + seconds,
        )  # fmt: skip

    def remaining(self, host: str) -> tuple[str, str, float] | None:
        """The answer (reason, detail) and the seconds that are left, where a host has a pause."""
        now = time.time()
        found = self._notes.row("SELECT reason, detail, until FROM pauses WHERE host = ? AND until > ?", host, now)
        return (found[0], found[1], found[2] - now) if found else None
