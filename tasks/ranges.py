"""Scratch tables of a stage, cut into numbered pieces: what lets a global step see one range of hashes at a time.

A map over the parts writes one such table a part, with a piece a range; a map over the ranges reads its piece of each.
"""

import io
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import polars as pl
import pyarrow as pa

from dataops.duplicates import partition
from dataops.snapshot import Draft


def put_pieces(draft: Draft, name: str, pieces: Sequence[pl.DataFrame]) -> None:
    """Write frames of one schema as the pieces 0, 1, ... of a scratch table."""
    schema = pieces[0].to_arrow().schema
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        for piece in pieces:
            batches = piece.rechunk().to_arrow().to_batches() or [pa.RecordBatch.from_pylist([], schema=schema)]
            writer.write_batch(batches[0])
    draft.store.put(draft.scratch(name), sink.getvalue())


def get_piece(draft: Draft, name: str, number: int) -> pl.DataFrame:
    """One piece of a scratch table."""
    with pa.memory_map(str(draft.store.local(draft.scratch(name)))) as file:
        batch = pa.ipc.open_file(file).get_batch(number)
        return pl.DataFrame(pl.from_arrow(pa.Table.from_batches([batch])))


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


def pieces_of(draft: Draft, names: Sequence[str], number: int) -> Iterator[pl.DataFrame]:
    """The same piece of several tables, one after the other, with the column `part`: the table's place among `names`."""
    for part, name in enumerate(names):
        yield get_piece(draft, name, number).with_columns(part=pl.lit(part, pl.UInt32))
