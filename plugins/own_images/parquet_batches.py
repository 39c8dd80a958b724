"""Read columns of a Parquet file in batches whose texts and images are bounded: compressed, they may be a thousandth."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

BATCH_BYTES = 1 << 26
"""Maximum size of the values of a batch of several rows."""


def iter_batches(
    path: Path, names: Sequence[str], rows: int, groups: Sequence[int] | None = None
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield the number of the first row of each batch, and the batch. Texts and bytes may be dictionaries.

    Args:
        rows: maximum number of rows of a batch.
        groups: row groups to read; all if None.
    """
    with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        chosen = range(len(sizes)) if groups is None else groups
        # A value that is repeated is one of a dictionary; decoded, it would be one for each row.
        chunks = (one for group in chosen for one in _chunks(file, group, names) if one.has_dictionary_page)
        repeated = sorted({one.path_in_schema for one in chunks if one.physical_type == "BYTE_ARRAY"})
    with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False, read_dictionary=repeated) as file:
        for group in chosen:
            number, size = sum(sizes[:group]), sum(one.total_uncompressed_size for one in _chunks(file, group, names))
            at_once = max(min(rows, BATCH_BYTES * sizes[group] // max(size, 1)), 1)
            for batch in file.iter_batches(at_once, row_groups=[group], columns=[*names], use_threads=False):
                cuts = np.flatnonzero(np.diff(np.cumsum(sum(map(_sizes, batch.columns))) // BATCH_BYTES)) + 1
                for start, end in pairwise([0, *cuts.tolist(), batch.num_rows]):
                    yield number + start, batch.slice(start, end - start)
                number += batch.num_rows


def _chunks(file: pq.ParquetFile, group: int, names: Sequence[str]) -> Iterator[Any]:
    """Yield the metadata of the chunks of some columns in a row group."""
    found = file.metadata.row_group(group)
    for one in map(found.column, range(found.num_columns)):
        if {one.path_in_schema, one.path_in_schema.partition(".")[0]} & {*names}:
            yield one


def _sizes(column: Any) -> NDArray[np.int64]:
    """Return the bytes of each row's values of dictionaries."""
    if isinstance(column, pa.StructArray):
        return sum((_sizes(one) for one in column.flatten()), np.zeros(len(column), np.int64))
    if isinstance(column, pa.ListArray | pa.LargeListArray):
        ends = np.concatenate([[0], np.cumsum(_sizes(column.values))])
        return np.diff(ends[column.offsets.to_numpy()])
    if not isinstance(column, pa.DictionaryArray) or pa.types.is_primitive(column.type.value_type):
        return np.zeros(len(column), np.int64)
    lengths = cast("Any", pc).binary_length(pc.cast(column.dictionary, pa.large_binary()))
    return pc.fill_null(lengths.take(column.indices), 0).to_numpy(zero_copy_only=False)
