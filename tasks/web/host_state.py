"""State of hosts that the processes of a download share: one SQLite file in a scratch folder, deleted with the run."""

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

    def execute(self, query: str, *values: Any) -> tuple[Any, ...] | None:
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
