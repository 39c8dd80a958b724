"""Write Parquet with a checksum in each page, and compare the checksums when it is read.

So a flipped bit in a page is an error, and is not read as other data. Polars and DuckDB do not
compare checksums, so rows that become parts of a snapshot are read here. Footers have no checksum:
of flipped bits in the footer of a part, 5 of 1,500 changed the name or type of a column unseen, and
all others were errors or changed nothing (2026-11-29, pyarrow 25).
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dataops.errors import CorruptPart

ROW_GROUP = 1 << 16
"""Rows of a row group of a part."""


def encode_table(table: pa.Table, row_group_size: int | None = None) -> pa.Buffer:
    """Return the bytes of a table as Parquet. The same table gives the same bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=row_group_size, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def open_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Return a writer of one row group after the other."""
    return pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True)


@contextmanager
def naming_damage(where: str) -> Iterator[None]:
    """Raise CorruptPart with this name and the remedy where reading in the `with` fails because bytes are damaged."""
    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the operating system
            raise
        raise CorruptPart(f"{where} is damaged ({error}); `run --verify` remakes it") from error


def _without_python(source: Any) -> Any:
    """Return a source that Arrow reads into memory of its own: a file of the system, or a copy of bytes in memory.

    To free bytes of Python, a thread of Arrow needs the GIL, and aborts a process whose interpreter
    ends then ("terminate called without an active exception"). Of a file that is neither, such
    threads read, whatever `use_threads` is: so the launcher ends commands without ending the
    interpreter.
    """
    if isinstance(source, io.BytesIO):
        copy = pa.BufferOutputStream()
        copy.write(source.getbuffer())
        return pa.BufferReader(copy.getvalue())
    try:
        return pa.OSFile(f"/dev/fd/{source.fileno()}")
    except (AttributeError, io.UnsupportedOperation):  # a path, a file of Arrow, or one of neither
        return source


@contextmanager
def open_parquet(source: object, where: str) -> Iterator[pq.ParquetFile]:
    """Open a path or binary file to read it in the `with`. Raises: CorruptPart, also in the `with`, if it is damaged."""
    with naming_damage(where), pq.ParquetFile(_without_python(source), page_checksum_verification=True) as file:
        yield file


def read_parquet(
    source: object, where: str, columns: Sequence[str] | None = None, *, use_threads: bool = True
) -> pa.Table:
    """Return those of the columns that the source has, in its order. Raises: CorruptPart if it is damaged."""
    with open_parquet(source, where) as file:
        return file.read(columns if columns is None else list(columns), use_threads=use_threads)


def read_row_range(source: object, where: str, start: int, rows: int, columns: Sequence[str] | None = None) -> pa.Table:
    """Return consecutive rows of the source; only their row groups are read. Raises: CorruptPart if it is damaged."""
    with open_parquet(source, where) as file:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        groups, first, at = list[int](), 0, 0
        for group, size in enumerate(sizes):
            if at + size <= start:
                first = at + size
            elif at < start + rows:
                groups.append(group)
            at += size
        return file.read_row_groups(groups, columns if columns is None else list(columns)).slice(start - first, rows)
