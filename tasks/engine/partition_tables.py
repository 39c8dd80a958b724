"""Scratch tables of a stage, cut into numbered pieces: what lets a global step see one range of hashes at a time.

A map over the parts writes one such table a part, with a piece a range; a map over the ranges reads its piece of each.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from dataops.snapshot import Draft
from dataops.storage.partition_file import decode_partition, encode_partitions, series_from_numpy
from dataops.text.duplicates import partition_hashes

_OPEN = 128
"""Tables that are open at the same time; a process may often have 1,024 files."""


def table_name(kind: str, number: int) -> str:
    """Name of a scratch table."""
    return f"{kind}-{number:05d}.table"


def write_partitions(draft: Draft, name: str, rows: pl.DataFrame, sizes: Sequence[int] | None = None) -> None:
    """Write rows as the pieces 0, 1, ... of a scratch table.

    Args:
        sizes: rows of each piece; None is one piece of all.
    """
    blocks = encode_partitions(rows, [rows.height] if sizes is None else sizes)
    draft.store.put_chunks(draft.scratch(name), lambda: iter(blocks))


def read_one(draft: Draft, name: str, number: int) -> pl.DataFrame:
    """One piece of a scratch table. Raises: CorruptPart."""
    return decode_partition([draft.store.local(draft.scratch(name))], number)[0]


def read_partitions(draft: Draft, name: str, count: int) -> pl.DataFrame:
    """The first `count` pieces of a scratch table, one after the other. Raises: CorruptPart."""
    return pl.concat(read_one(draft, name, number) for number in range(count))


def read_partition(draft: Draft, names: Sequence[str], number: int) -> pl.DataFrame:
    """The same piece of several tables, one after the other, with the column `part`: the table's place among `names`.

    Raises: CorruptPart.
    """
    found = [
        decode_partition(draft.store.locals([draft.scratch(name) for name in names[start : start + _OPEN]]), number)
        for start in range(0, len(names), _OPEN)
    ]
    parts = np.repeat(np.arange(len(names), dtype=np.uint32), [size for _, sizes in found for size in sizes])
    return pl.concat([rows for rows, _ in found]).with_columns(part=series_from_numpy(parts))


def partition_by_hash(frame: pl.DataFrame, high: str, bits: int) -> tuple[pl.DataFrame, list[int]]:
    """The rows by 2^bits ranges of the column `high` of hashes, in their order in each; and how many each range has."""
    order, sizes = partition_hashes(frame[high], bits)
    return frame[order], sizes.tolist()


def partition_by_index(frame: pl.DataFrame, numbers: pl.Series, count: int) -> tuple[pl.DataFrame, list[int]]:
    """The rows by the numbers 0 to `count` - 1 that a series gives them, in their order in each; and how many have each."""
    given = numbers.to_numpy()
    return frame[np.argsort(given, kind="stable")], np.bincount(given, minlength=count).tolist()
