"""Write and read sorted runs: rows, with or without their images, in the order of a hash and cut into partitions.

    head      for each partition: where its block ends, and the number of rows up to there
    keys      KEY of each row
    blocks    for each partition with rows: _PREFIX, the rows as an Arrow batch, their images

Consecutive partitions are one range of bytes, so one request reads any number of them. The heads of several runs are
collected in an index (`write_index`), so a reader learns in one request where its partitions lie in each run.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from math import ceil, isqrt, sqrt

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray
from xxhash import xxh3_64

from dataops.schema import CURATED
from dataops.snapshot import Draft
from dataops.storage.partition_file import BrokenTable
from tasks.engine.exchange import number_partitions, repeat_writer

KEY = np.dtype([("rank", "<u8"), ("low", "<u8"), ("size", "<i8")])
"""What a row is sorted by, a hash and the value that orders equal hashes, and the size of its image in bytes."""
_SORT_COLUMNS = (("_rank", pa.uint64()), ("_low", pa.uint64()), ("_size", pa.int64()), ("_offset", pa.int64()))


def run_schema(columns: pa.Schema) -> pa.Schema:
    """Return the columns of the rows in a run. `shard` and `_offset` say where the image lies in its raw shard."""
    return pa.schema([*columns, *_SORT_COLUMNS])


_HEAD = np.dtype([("end", "<i8"), ("row", "<i8")])
_ALIGNED = 8
"""Blocks and the parts of a block begin at multiples of it, as Arrow needs for its columns."""
_PREFIX = np.dtype([("checksum", "<u8"), ("rows", "<i8"), ("has_images", "<i8")])
_CHUNK_BYTES = 8 << 20

Images = Sequence[memoryview]


@dataclass(frozen=True)
class Rows:
    """Rows in memory, in any order."""

    table: pa.Table
    """Rows with the columns of a run (`run_schema`)."""
    images: Images | None
    """Image of each row; None if they lie in the raw shards."""

    @property
    def keys(self) -> NDArray[np.void]:
        """KEY of each row."""
        keys = np.empty(self.table.num_rows, KEY)
        for name in KEY.names or ():
            keys[name] = self.table[f"_{name}"].to_numpy()
        return keys

    def keys_from(self, rank: int, low: int) -> NDArray[np.bool_]:
        """Return which rows have this key or a later one."""
        keys = self.keys
        return (keys["rank"] > rank) | ((keys["rank"] == rank) & (keys["low"] >= low))

    def pick(self, numbers: NDArray[np.intp]) -> Images | None:
        """Return the images of some rows, or None if they lie in the raw shards."""
        return None if self.images is None else [self.images[number] for number in numbers.tolist()]

    def take(self, numbers: NDArray[np.intp]) -> "Rows":
        """Return some of the rows."""
        return Rows(self.table.take(pa.array(numbers)), self.pick(numbers))


def sorted_order(keys: NDArray[np.void]) -> NDArray[np.intp]:
    """Return the order of the keys by rank, then low."""
    order = np.argsort(keys["rank"], kind="stable")  # fast on the concatenated keys of runs
    ranks = keys["rank"][order]
    return np.lexsort((keys["low"], keys["rank"])) if (ranks[1:] == ranks[:-1]).any() else order


def write_run(draft: Draft, name: str, rows: Rows, count: int, partitions: range) -> None:
    """Sort the rows and write them as a run.

    Args:
        count: number of partitions that divide the range of the ranks.
        partitions: those in which the rows are, which the run has.
    """
    order = sorted_order(keys := rows.keys)
    keys = keys[order]
    head = np.zeros(len(partitions) + 1, _HEAD)
    numbers = number_partitions(pl.Series(keys["rank"]), count).astype(np.int64)
    head["row"] = np.searchsorted(numbers, np.arange(partitions.start, partitions.stop + 1))
    rows = rows.take(order)
    table, images = rows.table.combine_chunks(), rows.images
    blocks = [
        _make_block(table.slice(start, end - start), None if images is None else images[start:end])
        for start, end in pairwise(head["row"].tolist())
    ]
    sizes = (sum(map(len, block)) for block in blocks)
    head["end"] = head.nbytes + keys.nbytes + np.array([0, *accumulate(sizes)])
    pieces = [head.tobytes(), keys.tobytes(), *(piece for block in blocks for piece in block)]
    make_chunks = partial(map, memoryview) if draft.store.is_remote else _join  # a remote store joins them to its parts
    # Runs are large: written without a sync, they would fill the page cache.
    draft.put_scratch(name, lambda: make_chunks(pieces), synced=True)


def _make_block(table: pa.Table, images: Images | None) -> list[bytes | memoryview]:
    """Return the pieces of a block; none for no rows."""
    if not table.num_rows:
        return []
    message = table.to_batches()[0].serialize()
    pieces: list[bytes | memoryview] = [memoryview(message), *(images or ())]
    pieces.append(bytes(-sum(map(len, pieces)) % _ALIGNED))
    checksum = xxh3_64()
    for piece in pieces:
        checksum.update(piece)
    return [np.array((checksum.intdigest(), message.size, images is not None), _PREFIX).tobytes(), *pieces]


def _join(pieces: Sequence[bytes | memoryview]) -> Iterator[memoryview]:
    """Yield the pieces in chunks of about _CHUNK_BYTES: a write of each image to disk would cost more than to copy it."""
    waiting, size = list[bytes | memoryview](), 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= _CHUNK_BYTES:
            yield memoryview(b"".join(waiting))
            waiting, size = [], 0
    yield memoryview(b"".join(waiting))


@dataclass(frozen=True)
class RunSet:
    """Runs with the same partitions, which are read together."""

    index: str
    """Scratch object with their index."""
    names: tuple[str, ...]
    """Scratch objects of the runs."""
    partitions: int
    columns: pa.Schema
    """Columns of the rows, without those of the sort."""

    def write_index(self, draft: Draft) -> NDArray[np.int64]:
        """Write the index, and return the number of rows of each run up to each partition (runs, partitions + 1)."""
        size = (self.partitions + 1) * _HEAD.itemsize
        wanted = [(draft.scratch(name), 0, size) for name in self.names]
        heads = np.zeros((len(self.names), self.partitions + 1), _HEAD)
        with repeat_writer(draft):
            for number, data in enumerate(draft.store.read_each(wanted)):
                heads[number] = np.frombuffer(_whole(data, size, wanted[number][0]), _HEAD)
        draft.store.put(draft.scratch(self.index), heads["end"].T.tobytes())
        return heads["row"]

    def read_keys(self, draft: Draft, rows: NDArray[np.int64], first: int, end: int) -> NDArray[np.void]:
        """Return the keys of the rows in partitions, in their order.

        Args:
            rows: result of `write_index`.
        """
        start = (self.partitions + 1) * _HEAD.itemsize
        spans = rows[:, [first, end]] * KEY.itemsize + start
        with repeat_writer(draft):
            found = [np.frombuffer(data, KEY) for _, data in _read_spans(draft, self.names, spans)]
        keys = np.concatenate([np.empty(0, KEY), *found])
        return keys[sorted_order(keys)]

    def read(self, draft: Draft, first: int, end: int) -> Iterator[Rows]:
        """Yield the rows of partitions, run by run. Raises: as tasks.engine.exchange.read_frame."""
        runs = len(self.names)
        size = (end + 1 - first) * runs * 8
        index = draft.scratch(self.index)
        with repeat_writer(draft):
            [data] = draft.store.read_each([(index, first * runs * 8, size)])
            ends = np.frombuffer(_whole(data, size, index), np.int64).reshape(-1, runs).T
            for run, piece in _read_spans(draft, self.names, ends[:, [0, -1]]):
                for start, stop in pairwise((ends[run] - ends[run][0]).tolist()):
                    if stop > start:
                        yield _parse_block(memoryview(piece)[start:stop], draft.scratch(self.names[run]), self.columns)


def _read_spans(draft: Draft, names: Sequence[str], spans: NDArray[np.int64]) -> Iterator[tuple[int, bytes]]:
    """Yield the number of each run that has bytes in its span (start, end), and those bytes."""
    chosen = [(run, start, end - start) for run, (start, end) in enumerate(spans.tolist()) if end > start]
    read = draft.store.read_each([(draft.scratch(names[run]), start, size) for run, start, size in chosen])
    for (run, _, size), data in zip(chosen, read, strict=True):
        yield run, _whole(data, size, draft.scratch(names[run]))


def _whole(data: bytes, size: int, name: str) -> bytes:
    if len(data) != size:
        raise BrokenTable(name)
    return data


def _parse_block(block: memoryview, name: str, columns: pa.Schema) -> Rows:
    prefix = np.frombuffer(block[: _PREFIX.itemsize], _PREFIX)[0]
    content = block[_PREFIX.itemsize :]
    if xxh3_64(content).intdigest() != prefix["checksum"]:
        raise BrokenTable(name)
    batch = pa.ipc.read_record_batch(pa.py_buffer(content[: prefix["rows"]]), run_schema(columns))
    table = pa.Table.from_batches([batch])
    if not prefix["has_images"]:
        return Rows(table, None)
    ends = np.cumsum([prefix["rows"], *table["_size"].to_numpy()]).tolist()
    return Rows(table, [content[start:end] for start, end in pairwise(ends)])


def concat_rows(found: Iterable[Rows], columns: pa.Schema) -> Rows:
    """Return rows with these columns one after the other."""
    found = list(found)
    table = pa.concat_tables([run_schema(columns).empty_table(), *(rows.table for rows in found)])
    if any(rows.images is None for rows in found):
        return Rows(table, None)
    return Rows(table, [image for rows in found for image in rows.images or ()])


PIECE_BYTES = 8 << 20
"""Size of the pieces that are read from the runs, in bytes."""
LOCAL_PIECE_BYTES = 64 << 10
"""The same for runs without images in a folder, where a read takes microseconds."""
LOCAL_ROWS = 1 << 24
"""Up to so many rows, images in a folder are read directly to their positions: those reads cost no request, and copies of
all images would double the bytes that are written."""
FINE = 16
"""Partitions of each task that writes training shards; it reads up to two more, at most an eighth of its bytes."""
ROW_BYTES = 1 << 10
"""Expected size of a row without its image, in bytes."""


@dataclass(frozen=True)
class SortLayout:
    """Passes and sizes of a sort. The names of its tasks and runs include it, so another layout reuses none of them."""

    has_images: bool
    """Whether the runs contain the images. Otherwise they are read from the raw shards."""
    run_bytes: int
    """Size of a run, and of what a task has in memory, in bytes."""
    coarse: int
    """Number of coarse partitions of the hashes; 1 without a second pass."""
    fine: int
    """Number of partitions of each coarse one."""
    expected_bytes: int
    """Expected size of all rows, and of the images in the runs, in bytes."""
    columns: pa.Schema = CURATED
    """Columns of the rows: those of curate's kept parts, without further ones of the sort."""

    @property
    def partitions(self) -> int:
        """Number of partitions in all."""
        return self.coarse * self.fine

    @property
    def id(self) -> str:
        """Name of the layout, a part of the names of tasks and objects."""
        return f"{self.run_bytes:x}-{self.coarse}x{self.fine}" + ("" if self.has_images else "-rows")


def choose_layout(
    rows: int,
    image_bytes: int,
    shards: int,
    run_limit_bytes: int,
    *,
    is_remote: bool,
    piece_bytes: int = PIECE_BYTES,
    local_rows: int = LOCAL_ROWS,
) -> SortLayout:
    """Return the layout of a sort.

    Args:
        image_bytes: expected size of all images, in bytes.
        shards: expected number of training shards.
        run_limit_bytes: maximum of `run_bytes`. Where even two passes would need more, the pieces are smaller.
        is_remote: whether each read of the store is a request.
    """
    total = rows * ROW_BYTES
    if not is_remote and rows <= local_rows:
        return SortLayout(False, max(isqrt(total * LOCAL_PIECE_BYTES), LOCAL_PIECE_BYTES), 1, 2 * shards, total)
    total += image_bytes
    run, coarse = max(isqrt(total * piece_bytes), piece_bytes), 1
    if run > run_limit_bytes:
        run = min(ceil((total * piece_bytes**2) ** (1 / 3)), run_limit_bytes)
        coarse = max(round(sqrt(total / run)), 2)
    return SortLayout(True, run, coarse, FINE * max(ceil(total / run / coarse), 1), total)
