"""Exchange rows between the tasks of a stage: scratch tables that are cut into numbered partitions.

A map over the parts writes one table per part, with one partition per range of hashes; a map over the partitions reads its
partition of each table.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from dataops.snapshot import Draft
from dataops.storage.partition_file import encode_partitions, series_from_numpy
from dataops.storage.partition_file import read_partitions as read_tables
from dataops.text.duplicates import partition_hashes


def table_name(kind: str, number: int) -> str:
    """Return the name of a scratch table."""
    return f"{kind}-{number:05d}.table"


def write_partitions(draft: Draft, name: str, rows: pl.DataFrame, sizes: Sequence[int] | None = None) -> None:
    """Write rows as the partitions 0, 1, ... of a scratch table.

    Args:
        sizes: number of rows of each partition; None: one partition with all rows.
    """
    counts = [rows.height] if sizes is None else sizes
    draft.store.put_chunks(draft.scratch(name), lambda: encode_partitions(rows, counts))


def read_one(draft: Draft, name: str, number: int) -> pl.DataFrame:
    """Return one partition of a scratch table. Raises: CorruptPart."""
    return read_tables(draft.store, [draft.scratch(name)], number, 1)[0]


def read_partitions(draft: Draft, name: str, count: int) -> pl.DataFrame:
    """Return the first `count` partitions of a scratch table, one after the other. Raises: CorruptPart."""
    return pl.concat(read_one(draft, name, number) for number in range(count))


def read_partition(draft: Draft, names: Sequence[str], number: int) -> pl.DataFrame:
    """Return one partition of several tables, one after the other, with the column `part`: the table's index in `names`.

    Raises: CorruptPart.
    """
    rows, sizes = read_tables(draft.store, [draft.scratch(name) for name in names], number, 1)
    parts = np.repeat(np.arange(len(names), dtype=np.uint32), sizes[:, 0])
    return rows.with_columns(part=series_from_numpy(parts))


def partition_by_hash(frame: pl.DataFrame, high: str, bits: int) -> tuple[pl.DataFrame, list[int]]:
    """Return the rows in the order of 2^bits ranges of the hashes in column `high`, and the number of rows of each."""
    order, sizes = partition_hashes(frame[high], bits)
    return frame[order], sizes.tolist()


def partition_by_index(frame: pl.DataFrame, numbers: pl.Series, count: int) -> tuple[pl.DataFrame, list[int]]:
    """Return the rows in the order of their numbers (0 to `count` - 1), and the number of rows of each."""
    keys = numbers.to_numpy()
    return frame[np.argsort(keys, kind="stable")], np.bincount(keys, minlength=count).tolist()
