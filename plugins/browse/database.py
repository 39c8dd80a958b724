"""Run SQL over Parquet files with DuckDB, with limits of time, memory and files.

A query that takes longer than the limit is interrupted. DuckDB may read and write only below the folders that are named,
and loads no extension. Nothing is imported into a database: a query reads the columns that it needs from the parts.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataops.errors import PairmillError

if TYPE_CHECKING:
    import duckdb

QUERY_SECONDS = 20.0
"""Wall time after which a query is interrupted."""
WAIT_SECONDS = 30.0
"""Maximum wall time that a query waits for others."""
QUERIES_AT_ONCE = 3
MEMORY_BYTES = 2 << 30
SCRATCH_BYTES = 4 << 30
"""Maximum size of what DuckDB writes to the disk when a query needs more memory."""

Rows = list[dict[str, Any]]


class QueryFailed(PairmillError):
    """A query took too long, needed too much memory, or read a damaged part."""


def quote(name: str) -> str:
    """Return an identifier or a text as SQL quotes identifiers."""
    return '"' + name.replace('"', '""') + '"'


def quote_text(value: str) -> str:
    """Return a text as SQL quotes text, for statements that take no parameters."""
    return "'" + value.replace("'", "''") + "'"


class Database:
    """An in-memory DuckDB, for several threads.

    Args:
        folders: the only folders that it may read.
        scratch: folder for what does not fit into memory.
    """

    def __init__(self, folders: Sequence[Path], scratch: Path, *, seconds: float = QUERY_SECONDS):
        import duckdb

        self.seconds = seconds
        self._errors = (duckdb.Error,)
        self._interrupted, self._memory = duckdb.InterruptException, duckdb.OutOfMemoryException
        self._connection: duckdb.DuckDBPyConnection = duckdb.connect(":memory:")
        self._slots = threading.BoundedSemaphore(QUERIES_AT_ONCE)
        allowed = ", ".join(quote_text(str(folder.resolve())) for folder in (*folders, scratch))
        for setting in (
            f"memory_limit = '{MEMORY_BYTES // 1000**2}MB'",
            f"temp_directory = {quote_text(str(scratch.resolve() / 'duckdb'))}",
            f"max_temp_directory_size = '{SCRATCH_BYTES // 1000**2}MB'",
            "autoinstall_known_extensions = false",
            "autoload_known_extensions = false",
            "parquet_metadata_cache = true",
            f"allowed_directories = [{allowed}]",
            "enable_external_access = false",
            "lock_configuration = true",
        ):
            self._connection.execute(f"SET {setting}")

    def close(self) -> None:
        """Free the memory."""
        self._connection.close()

    @contextmanager
    def _cursor(self) -> Iterator["duckdb.DuckDBPyConnection"]:
        if not self._slots.acquire(timeout=WAIT_SECONDS):
            raise QueryFailed(f"other queries have run for {WAIT_SECONDS:.0f} s; repeat this one later")
        cursor = self._connection.cursor()
        timer = threading.Timer(self.seconds, cursor.interrupt)
        try:
            timer.start()
            yield cursor
        except self._interrupted as error:
            raise QueryFailed(
                f"the query was stopped after {self.seconds:.0f} s; narrow it with another filter, or remove the order"
            ) from error
        except self._memory as error:
            raise QueryFailed(f"the query needs more than {MEMORY_BYTES >> 30} GiB of memory; narrow it") from error
        except self._errors as error:
            raise QueryFailed(f"the query failed: {str(error).partition(chr(10))[0][:500]}") from error
        finally:
            timer.cancel()
            cursor.close()
            self._slots.release()

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        """Run a statement."""
        with self._cursor() as cursor:
            cursor.execute(sql, list(parameters))

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        """Return the rows of a query, by the names of its columns."""
        with self._cursor() as cursor:
            found = cursor.execute(sql, list(parameters))
            names = [column[0] for column in found.description or ()]
            return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

    def value(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """Return the first value of a query."""
        with self._cursor() as cursor:
            row = cursor.execute(sql, list(parameters)).fetchone()
            return None if row is None else row[0]

    def column(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """Return the only column of a query without nulls as an array of numpy."""
        with self._cursor() as cursor:
            found = cursor.execute(sql, list(parameters)).fetchnumpy()
            return next(iter(found.values()))

    def columns(self, view: str) -> dict[str, str]:
        """Return the names and types of the columns of a view."""
        return {row["column_name"]: row["column_type"] for row in self.rows(f"DESCRIBE {quote(view)}")}
