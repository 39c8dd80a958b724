"""Scratch tables of a stage, cut into numbered pieces: what lets a global step see one range of hashes at a time.

A map over the parts writes one such table a part, with a piece a range; a map over the ranges reads its piece of each.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import polars as pl
import pyarrow as pa

from dataops.duplicates import partition
from dataops.snapshot import Draft


def table(kind: str, number: int) -> str:
    """Name of a scratch table."""
    return f"{kind}-{number:05d}.arrow"


def put_pieces(draft: Draft, name: str, pieces: Sequence[pl.DataFrame], *, packed: bool = True) -> None:
    """Write frames of one schema as the pieces 0, 1, ... of a scratch table.

    Args:
        packed: compress them; of hashes nothing would be gained.
    """
    schema = pieces[0].to_arrow().schema
    filled = [piece.rechunk().to_arrow().to_batches()[0] for piece in pieces if piece.height]
    # To make an empty batch of nothing, Arrow would import pandas where it is installed: 30 MB.
    empty = filled[0].slice(0, 0) if filled else pa.RecordBatch.from_pylist([], schema=schema)
    sink, rest = pa.BufferOutputStream(), iter(filled)
    options = pa.ipc.IpcWriteOptions(compression="lz4" if packed else None)
    with pa.ipc.new_file(sink, schema, options=options) as writer:
        for piece in pieces:
            writer.write_batch(next(rest) if piece.height else empty)
    draft.store.put(draft.scratch(name), memoryview(sink.getvalue()))


def get_piece(draft: Draft, name: str, number: int) -> pl.DataFrame:
    """One piece of a scratch table."""
    return pl.DataFrame(pl.from_arrow(pa.Table.from_batches([_batch(draft, name, number)])))


def _batch(draft: Draft, name: str, number: int) -> pa.RecordBatch:
    with pa.OSFile(str(draft.store.local(draft.scratch(name)))) as file:  # which reads no more than the piece
        return pa.ipc.open_file(file).get_batch(number)


def gathered(draft: Draft, names: Sequence[str], number: int) -> pl.DataFrame:
    """The same piece of several tables, one after the other, with the column `part`: the table's place among `names`."""
    batches = [_batch(draft, name, number) for name in names]
    frame = pl.DataFrame(pl.from_arrow(pa.Table.from_batches(batches)))
    parts = np.repeat(np.arange(len(names), dtype=np.uint32), [batch.num_rows for batch in batches])
    return frame.with_columns(part=pl.Series(parts))


def by_range(frame: pl.DataFrame, high: str, bits: int) -> list[pl.DataFrame]:
    """The rows of each of 2^bits ranges of the column `high` of hashes, in their order."""
    order, sizes = partition(frame[high], bits)
    grouped, ends = frame[order], np.cumsum(sizes)
    return [grouped.slice(int(end - size), int(size)) for end, size in zip(ends, sizes, strict=True)]


def split(frame: pl.DataFrame, numbers: pl.Series, count: int) -> list[pl.DataFrame]:
    """The rows of each of the numbers 0 to `count` - 1 that a series gives them, in their order."""
    order = np.argsort(numbers.to_numpy(), kind="stable")
    grouped, ends = frame[order], np.bincount(numbers.to_numpy(), minlength=count).cumsum().tolist()
    return [grouped.slice(start, end - start) for start, end in pairwise([0, *ends])]
