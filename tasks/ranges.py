"""Scratch tables of a stage, cut into numbered pieces: what lets a global step see one range of hashes at a time.

A map over the parts writes one such table a part, with a piece a range; a map over the ranges reads its piece of each. So
millions of pieces are read of tables that are few: where all columns are numbers, as they are of hashes, a table is its
columns as they lie in memory, behind a line that says what they are and the ends of the pieces. Others are Arrow files.
"""

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from dataops.duplicates import partition
from dataops.errors import CorruptPart
from dataops.snapshot import Draft

_MAGIC = b"numbers "
_LINE_BYTES = 1 << 10
"""Of the first line, at most."""
_OPEN = 128
"""Tables that are open at the same time; a process may often have 1,024 files."""


def table(kind: str, number: int) -> str:
    """Name of a scratch table."""
    return f"{kind}-{number:05d}.table"


def put_pieces(draft: Draft, name: str, rows: pl.DataFrame, sizes: Sequence[int] | None = None) -> None:
    """Write rows as the pieces 0, 1, ... of a scratch table.

    Args:
        sizes: rows of each piece; None is one piece of all.
    """
    ends = np.cumsum([0, *([rows.height] if sizes is None else sizes)], dtype=np.int64)
    numeric = all(column.dtype.is_integer() or column.dtype.is_float() for column in rows)
    blocks = _numbers(rows, ends) if numeric and not any(column.null_count() for column in rows) else _arrow(rows, ends)
    draft.store.put_pieces(draft.scratch(name), lambda: iter(blocks))


def get_piece(draft: Draft, name: str, number: int) -> pl.DataFrame:
    """One piece of a scratch table. Raises: CorruptPart."""
    return _read(draft, [name], number)[0]


def gathered(draft: Draft, names: Sequence[str], number: int) -> pl.DataFrame:
    """The same piece of several tables, one after the other, with the column `part`: the table's place among `names`.

    Raises: CorruptPart.
    """
    found = [_read(draft, names[start : start + _OPEN], number) for start in range(0, len(names), _OPEN)]
    frame = pl.concat([rows for rows, _ in found])
    parts = np.repeat(np.arange(len(names), dtype=np.uint32), [size for _, sizes in found for size in sizes])
    return frame.with_columns(part=_series(parts))


def by_range(frame: pl.DataFrame, high: str, bits: int) -> tuple[pl.DataFrame, list[int]]:
    """The rows by 2^bits ranges of the column `high` of hashes, in their order in each; and how many each range has."""
    order, sizes = partition(frame[high], bits)
    return frame[order], sizes.tolist()


def split(frame: pl.DataFrame, numbers: pl.Series, count: int) -> tuple[pl.DataFrame, list[int]]:
    """The rows by the numbers 0 to `count` - 1 that a series gives them, in their order in each; and how many have each."""
    given = numbers.to_numpy()
    return frame[np.argsort(given, kind="stable")], np.bincount(given, minlength=count).tolist()


def _numbers(rows: pl.DataFrame, ends: NDArray[np.int64]) -> list[memoryview]:
    columns = [column.to_numpy() for column in rows.rechunk()]
    types = {name: column.dtype.str for name, column in zip(rows.columns, columns, strict=True)}
    line = json.dumps({"columns": types, "rows": rows.height, "pieces": len(ends) - 1}).encode() + b"\n"
    return [memoryview(_MAGIC + line), *(np.ascontiguousarray(x).view(np.uint8).data for x in (ends, *columns))]


def _arrow(rows: pl.DataFrame, ends: NDArray[np.int64]) -> list[memoryview]:
    whole = rows.rechunk().to_arrow()
    # To make an empty batch of nothing, Arrow would import pandas where it is installed: 30 MB.
    batch = whole.to_batches()[0] if rows.height else pa.RecordBatch.from_pylist([], schema=whole.schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, whole.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        for start, end in pairwise(ends.tolist()):
            writer.write_batch(batch.slice(start, end - start))
    return [memoryview(sink.getvalue())]


class _Piece(NamedTuple):
    """Where a piece of a table of numbers lies in its file."""

    path: Path
    file: int
    columns: dict[str, str]
    """And their types, as numpy writes them."""
    at: int
    """Where the first column begins."""
    rows: int
    """Of the whole table."""
    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start

    def read_into(self, columns: Sequence[NDArray[np.generic]], row: int) -> None:
        """Fill columns from a row on."""
        at = self.at
        for column in columns:
            memory = column[row : row + self.size].view(np.uint8).data
            if os.preadv(self.file, [memory], at + self.start * column.itemsize) < len(memory):
                raise _broken(self.path)
            at += self.rows * column.itemsize


def _read(draft: Draft, names: Sequence[str], number: int) -> tuple[pl.DataFrame, list[int]]:
    """The same piece of several tables, and how many rows each has."""
    with ExitStack() as stack:
        paths = draft.store.locals([draft.scratch(name) for name in names])
        files = [stack.enter_context(path.open("rb", buffering=0)) for path in paths]
        places = [_place(path, file.fileno(), number) for path, file in zip(paths, files, strict=True)]
        pieces = [place for place in places if place is not None]
        if len(pieces) < len(places):
            frames = [
                _read_arrow(path, number) if p is None else _filled([p]) for path, p in zip(paths, places, strict=True)
            ]
            return pl.concat(frames), [frame.height for frame in frames]
        return _filled(pieces), [piece.size for piece in pieces]


def _place(path: Path, file: int, number: int) -> _Piece | None:
    """Where a piece lies; None where the table is an Arrow file."""
    line, newline, _ = os.pread(file, _LINE_BYTES, 0).partition(b"\n")
    if not line.startswith(_MAGIC):
        return None
    if not newline:
        raise _broken(path)
    said, begin = json.loads(line.removeprefix(_MAGIC)), len(line) + 1
    ends = os.pread(file, 16, begin + 8 * number)
    if number >= said["pieces"] or len(ends) < 16:
        raise _broken(path)
    start, end = np.frombuffer(ends, np.int64).tolist()
    return _Piece(path, file, said["columns"], begin + 8 * (said["pieces"] + 1), said["rows"], start, end)


def _filled(pieces: Sequence[_Piece]) -> pl.DataFrame:
    rows, row = sum(piece.size for piece in pieces), 0
    columns = {name: np.empty(rows, type_) for name, type_ in pieces[0].columns.items()}
    for piece in pieces:
        piece.read_into(list(columns.values()), row)
        row += piece.size
    return pl.DataFrame({name: _series(column) for name, column in columns.items()})


def _series(column: NDArray[Any]) -> pl.Series:
    """A column that is in memory once; Polars' own would be a copy."""
    array = pa.Array.from_buffers(pa.from_numpy_dtype(column.dtype), len(column), [None, pa.py_buffer(column)])
    return cast(pl.Series, pl.from_arrow(array))


def _read_arrow(path: Path, number: int) -> pl.DataFrame:
    try:
        with pa.OSFile(str(path)) as file:  # which reads no more than the piece
            batch = pa.ipc.open_file(file).get_batch(number)
    except (pa.ArrowException, ValueError) as error:
        raise _broken(path) from error
    return cast(pl.DataFrame, pl.from_arrow(pa.Table.from_batches([batch])))


def _broken(path: Path) -> CorruptPart:
    return CorruptPart(f"{path} is no whole scratch table; delete the folder that it is in, and run the stage again")
