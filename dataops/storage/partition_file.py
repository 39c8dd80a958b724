"""Tables that are cut into numbered partitions, one object each; a reader fetches neighbouring partitions in one request.

    head     a line of JSON (names and types of the columns), then the end of each partition's block (uint64)
    blocks   for each partition with rows: a checksum (8 bytes), then its columns, one after the other

A table whose columns are all numbers, such as hashes, is stored as it is in memory. The blocks of
other tables are Arrow record batches, compressed with LZ4.
"""

import base64
import json
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from typing import Any, NamedTuple, cast

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray
from xxhash import xxh3_64, xxh3_64_digest

from dataops.errors import CorruptPart
from dataops.storage.base import Store, copy_into

_MAGIC = b"partitions "
HEAD_BYTES = 1 << 15
"""Bytes of the first request, which returns the whole of a small table."""
_CHUNK_BYTES = 1 << 20
"""Minimum size of a chunk that is written."""
_TRUSTED_BYTES = 1 << 26
"""Maximum size of blocks for which memory is reserved without a request for the size of the table."""
_CHECKSUM_BYTES = 8
_LZ4 = pa.Codec("lz4")
Buffer = bytes | memoryview
_Encoded = tuple[dict[str, Any], list[int], Iterator[Sequence[Buffer]]]


class BrokenTable(CorruptPart):
    """A table is empty, cut off or changed, as after a power loss.

    Args:
        name: name of the table in the store.
    """

    def __init__(self, name: str):
        super().__init__(f"{name} is not a whole scratch table; delete its folder and run the stage again")
        self.name = name


def encode_partitions(rows: pl.DataFrame, sizes: Sequence[int]) -> Iterator[memoryview]:
    """Yield the bytes of a table whose partitions have these numbers of rows, in large chunks."""
    numeric = all(column.dtype.is_integer() or column.dtype.is_float() for column in rows)
    is_plain = numeric and not any(column.null_count() for column in rows)
    about, lengths, blocks = (_encode_numbers if is_plain else _encode_arrow)(rows, sizes)
    ends = np.cumsum([0, *(length and length + _CHECKSUM_BYTES for length in lengths)], dtype=np.uint64)
    waiting: list[Buffer] = [_MAGIC, json.dumps(about | {"partitions": len(sizes)}).encode(), b"\n", ends.tobytes()]
    size = 0
    for block, length in zip(blocks, lengths, strict=True):
        if not length:
            continue
        digest = xxh3_64()
        for buffer in block:
            digest.update(buffer)
        waiting.append(digest.digest())
        if length >= _CHUNK_BYTES:  # written from where it is, without a copy
            yield memoryview(b"".join(waiting))
            yield from map(memoryview, block)
            waiting, size = [], 0
            continue
        waiting += block
        size += length
        if size >= _CHUNK_BYTES:
            yield memoryview(b"".join(waiting))
            waiting, size = [], 0
    yield memoryview(b"".join(waiting))


def _encode_numbers(rows: pl.DataFrame, sizes: Sequence[int]) -> _Encoded:
    columns = [np.ascontiguousarray(column.to_numpy()) for column in rows.rechunk()]
    types = {name: column.dtype.str for name, column in zip(rows.columns, columns, strict=True)}
    row_bytes = sum(column.itemsize for column in columns)
    bounds = pairwise(np.cumsum([0, *sizes]).tolist())
    blocks = ([column[start:end].view(np.uint8).data for column in columns] for start, end in bounds)
    return {"columns": types}, [size * row_bytes for size in sizes], blocks


def _encode_arrow(rows: pl.DataFrame, sizes: Sequence[int]) -> _Encoded:
    whole = rows.rechunk().to_arrow()
    # To make an empty batch of nothing, Arrow would import pandas where it is installed: 30 MB.
    batch = whole.to_batches()[0] if rows.height else pa.RecordBatch.from_pylist([], schema=whole.schema)
    bounds = pairwise(np.cumsum([0, *sizes]).tolist())
    blocks = [_compress(batch.slice(start, end - start)) if end > start else b"" for start, end in bounds]
    schema = base64.b64encode(whole.schema.serialize().to_pybytes()).decode()
    return {"schema": schema}, list(map(len, blocks)), ([block] for block in blocks)


def _compress(batch: pa.RecordBatch) -> bytes:
    plain = batch.serialize()
    return len(plain).to_bytes(8, "little") + _LZ4.compress(plain, asbytes=True)


def read_partitions(
    store: Store, names: Sequence[str], first: int, count: int, head_bytes: int = HEAD_BYTES
) -> tuple[pl.DataFrame, NDArray[np.int64]]:
    """Return some neighbouring partitions of several tables with the same columns, and the rows that each has.

    Args:
        head_bytes: size of the first request for each table.

    Returns: the rows of the first table by partition, then those of the next one; the numbers of rows (tables, count).

    Raises: BrokenTable, also if a table has no such partition.
    """
    heads = store.read_each([(name, 0, head_bytes) for name in names])
    return _read_blocks(store, names, heads, first, count, head_bytes)


def read_only_partition(store: Store, name: str) -> pl.DataFrame:
    """Return the rows of a table that has one partition, by one request. Raises: BrokenTable."""
    return _read_blocks(store, [name], iter([store.read(name)]), 0, 1, None)[0]


def _read_blocks(
    store: Store, names: Sequence[str], heads: Iterator[bytes], first: int, count: int, head_bytes: int | None
) -> tuple[pl.DataFrame, NDArray[np.int64]]:
    tables = [
        _parse(store, name, head, first, count, is_whole=len(head) != head_bytes)
        for name, head in zip(names, heads, strict=True)
    ]
    _check_lengths(store, tables)
    if all(table.columns for table in tables):
        return _fill(store, tables)
    rest = store.read_each([table.place for table in tables if table.data is None])
    blocks = (next(rest) if table.data is None else table.data for table in tables)
    read = [
        _fill(store, [table._replace(data=data)]) if table.columns else _decode_arrow(table, data)
        for table, data in zip(tables, blocks, strict=True)
    ]
    return pl.concat([rows for rows, _ in read]), np.concatenate([sizes for _, sizes in read])


def series_from_numpy(column: NDArray[Any]) -> pl.Series:
    """Return a column over memory that exists once; Polars would copy it."""
    array = pa.Array.from_buffers(pa.from_numpy_dtype(column.dtype), len(column), [None, pa.py_buffer(column)])
    return cast(pl.Series, pl.from_arrow(array))


class _Table(NamedTuple):
    """The requested partitions of a table."""

    name: str
    columns: dict[str, str]
    """Types of the columns, as numpy writes them; empty for a table of Arrow."""
    schema: str
    ends: NDArray[np.int64]
    """Start of the first block, and the end of each."""
    place: tuple[str, int, int]
    """Name, offset and number of bytes of the blocks."""
    data: bytes | None
    """The blocks, if the first request has returned them."""

    def split(self, data: bytes) -> Iterator[memoryview]:
        """Yield the content of each block, which is empty if the partition has no rows. Raises: BrokenTable."""
        if len(data) != self.place[2]:
            raise BrokenTable(self.name)
        for start, end in pairwise((self.ends - self.ends[0]).tolist()):
            block = memoryview(data)[start + _CHECKSUM_BYTES : end]
            if end > start and data[start : start + _CHECKSUM_BYTES] != xxh3_64_digest(block):
                raise BrokenTable(self.name)
            yield block


def _parse(store: Store, name: str, head: bytes, first: int, count: int, *, is_whole: bool) -> _Table:
    line, newline, _ = head.partition(b"\n")
    if not line.startswith(_MAGIC) or not newline:
        raise BrokenTable(name)
    (columns, schema, partitions), begin = _parse_line(name, line), len(line) + 1
    at, size = begin + 8 * first, 8 * (count + 1)
    ends = head[at : at + size]
    if len(ends) < size and not is_whole:
        ends = next(iter(store.read_each([(name, at, size)])))
    found = np.frombuffer(ends[: len(ends) // 8 * 8], np.int64)
    if first + count > partitions or len(ends) < size or found[0] < 0 or (np.diff(found) < 0).any():
        raise BrokenTable(name)
    start = begin + 8 * (partitions + 1) + int(found[0])
    length = int(found[-1] - found[0])
    data = head[start : start + length] if start + length <= len(head) or not length else None
    return _Table(name, columns, schema, found, (name, start, length), data)


def _parse_line(name: str, line: bytes) -> tuple[dict[str, str], str, int]:
    """Return the types of the columns, the Arrow schema and the number of partitions. Raises: BrokenTable."""
    try:
        about = json.loads(line.removeprefix(_MAGIC))
        columns, schema, partitions = about.get("columns", {}), about.get("schema", ""), about["partitions"]
        kinds = {np.dtype(type_).kind for type_ in columns.values()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BrokenTable(name) from error
    is_count = isinstance(partitions, int) and partitions >= 0
    if not is_count or not isinstance(schema, str) or not kinds <= set("iuf") or bool(columns) == bool(schema):
        raise BrokenTable(name)
    return columns, schema, partitions


def _fill(store: Store, tables: Sequence[_Table]) -> tuple[pl.DataFrame, NDArray[np.int64]]:
    """Return the rows of tables of numbers. They are read into the columns, without a copy."""
    types = tables[0].columns
    row_bytes = sum(np.dtype(type_).itemsize for type_ in types.values())
    lengths = np.stack([np.diff(table.ends) for table in tables])
    sizes = np.maximum(lengths - _CHECKSUM_BYTES, 0) // row_bytes
    columns, row = {name: np.empty(int(sizes.sum()), type_) for name, type_ in types.items()}, 0
    memory = [(column.view(np.uint8).data, column.itemsize) for column in columns.values()]
    blocks: list[list[list[memoryview]]] = []
    for found in sizes.tolist():
        blocks.append([])
        for size in filter(None, found):
            checksum = memoryview(bytearray(_CHECKSUM_BYTES))
            values = [whole[row * width : (row + size) * width] for whole, width in memory]
            blocks[-1].append([checksum, *values])
            row += size
    places = [list(chain.from_iterable(table)) for table in blocks]
    rest = store.read_each_into(
        [(*table.place[:2], into) for table, into in zip(tables, places, strict=True) if table.data is None]
    )
    for table, of_table, into in zip(tables, blocks, places, strict=True):
        read = next(rest) if table.data is None else copy_into(table.data, into)
        if not sum(map(len, into)) == read == table.place[2] or any(map(_is_changed, of_table)):
            raise BrokenTable(table.name)
    return pl.DataFrame({name: series_from_numpy(column) for name, column in columns.items()}), sizes


def _check_lengths(store: Store, tables: Sequence[_Table]) -> None:
    """Check that the blocks are in the tables, before memory is reserved for them. Raises: BrokenTable."""
    numeric = [table.columns for table in tables if table.columns]
    for table in tables:
        name, start, length = table.place
        if table.columns and table.columns != numeric[0]:
            raise BrokenTable(name)
        if table.data is None and length > _TRUSTED_BYTES and start + length > (store.size(name) or 0):
            raise BrokenTable(name)


def _is_changed(block: Sequence[memoryview]) -> bool:
    """Return whether the checksum at the start of a block is not that of its columns."""
    digest = xxh3_64()
    for column in block[1:]:
        digest.update(column)
    return digest.digest() != block[0]


def _decode_arrow(table: _Table, data: bytes) -> tuple[pl.DataFrame, NDArray[np.int64]]:
    try:
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(table.schema)))
        batches = [
            pa.ipc.read_record_batch(_LZ4.decompress(block[8:], int.from_bytes(block[:8], "little")), schema)
            if len(block)
            else None
            for block in table.split(data)
        ]
        rows = pa.Table.from_batches([batch for batch in batches if batch is not None], schema)
    except (pa.ArrowException, ValueError, OSError) as error:
        raise BrokenTable(table.name) from error
    sizes = np.array([[batch.num_rows if batch is not None else 0 for batch in batches]], np.int64)
    return cast(pl.DataFrame, pl.from_arrow(rows)), sizes
