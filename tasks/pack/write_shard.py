"""Write one training shard, its index and its rows: the last step of the pack stage."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from dataops.schema import PACKED, conform, dropped_schema
from dataops.shards.layout import BLOCK, Layout, archive_size
from dataops.shards.tar import join_index_lines
from dataops.snapshot import Counts, Draft, Part, Record
from dataops.storage.base import PAGE, ReadInto
from dataops.text.tallies import Tally
from dataops.trace.targets import COLUMNS, Target, matching_rows
from tasks.pack.assign_shards import PackJob, shard_starts
from tasks.pack.summary import summarise

_json = msgspec.json.Encoder()
_Row = msgspec.defstruct("_Row", PACKED.names, gc=False)
"""A struct that is encoded like a dict of these names, in half of the time."""

_spare = threading.local()
"""The buffers of this thread's previous shard, for the next one: the system would have to clear new memory."""
_SPARE_BYTES = 64 << 20
"""Maximum size of a buffer that is kept. Where a shard is made in one chunk, as for S3, memory is scarcer than time."""

TAKEDOWN = "takedown"
"""`drop_reason` of pairs that a recorded takedown removes."""


@dataclass(frozen=True)
class TrainingShard:
    """A task: one training shard, gathered from all parts and raw shards."""

    index: int
    job: PackJob
    takedowns: tuple[Target, ...] = ()
    """Targets of the recorded takedowns, whose pairs are dropped."""

    @property
    def number(self) -> str:
        return f"{self.index:05d}"

    @property
    def id(self) -> str:
        return f"shard-{self.number}"


def pack_shard(draft: Draft, shard: TrainingShard) -> Record:
    """Write one training shard, its index and its rows."""
    frame = shard.job.packed_rows.read(draft, shard.index).sort("_position")
    mask = matching_rows(frame.select(COLUMNS).to_arrow(), shard.takedowns)
    frame, dropped = frame.filter(~mask), frame.filter(mask)["uid"].to_list()
    name = f"{shard.number}.tar"
    rows = conform(frame.to_arrow(), PACKED, f"pack {name}")
    rows = rows.set_column(rows.schema.get_field_index("shard"), PACKED.field("shard"), pa.array([name] * len(rows)))

    with draft.store.open_reader() as read_into, ThreadPoolExecutor(1) as thread:

        def read(start: int, buffers: list[memoryview]) -> None:
            read_images(read_into, shard.job.raw_folder, frame.slice(start, len(buffers)), buffers)

        facts = thread.submit(summarise, rows)
        parts = write_shard(draft, shard.number, rows, frame["_size"].to_list(), shard.job.image_extension, read)
    return make_record(draft, shard.number, rows.num_rows, parts, facts.result(), dropped)


def write_shard(
    draft: Draft,
    number: str,
    rows: pa.Table,
    sizes: Sequence[int],
    image_extension: str,
    read: Callable[[int, list[memoryview]], None],
) -> list[Part]:
    """Write the tar, the index and the rows of a shard, and return them; a shard without rows has no part.

    Args:
        number: of the shard, in five digits.
        sizes: size of each row's image, in bytes.
        read: reads the images of consecutive rows, from the given row on, into the given buffers.
    """
    if not rows.num_rows:
        return []
    lines: list[str] = []
    buffers = vars(_spare).pop("buffers", None) or [_allocate_pages(0), _allocate_pages(0)]

    def make_chunks() -> Iterator[memoryview]:
        lines.clear()
        return _prefetch(_make_chunks(rows, sizes, image_extension, read, draft.store.window, buffers, lines))

    with ThreadPoolExecutor(1) as thread:  # the rows are written while the tar is on its way to the disk
        future = thread.submit(draft.put_chunks, f"{number}.tar", make_chunks, rows.num_rows)
        table = draft.put_table(f"part-{number}.parquet", rows)
        tar = future.result()
    if max(map(len, buffers)) <= _SPARE_BYTES:
        _spare.buffers = buffers  # not after an error: another thread may still write into them
    return [tar, draft.put_bytes(f"{number}.idx", join_index_lines(lines).encode(), rows.num_rows), table]


def _make_chunks(
    rows: pa.Table,
    sizes: Sequence[int],
    image_extension: str,
    read: Callable[[int, list[memoryview]], None],
    window: int,
    buffers: list[NDArray[np.uint8]],
    lines: list[str],
) -> Iterator[memoryview]:
    """Yield the bytes of a shard, some samples at a time.

    Each chunk except the last ends at a page boundary; the bytes after it begin the next chunk.

    Args:
        window: maximum size of the images in a chunk of more than one sample, in bytes.
        buffers: two that take turns; one that is too small is replaced.
        lines: list to which the lines of the index are added.
    """
    rest, end, extensions = _allocate_pages(0), 0, (image_extension, "txt", "json")
    for start, stop in pairwise([*shard_starts(np.array(sizes), rows.num_rows, window).tolist(), rows.num_rows]):
        batch = rows.slice(start, stop - start)
        captions = [caption.encode() for caption in batch["caption"].to_pylist()]
        texts = captions, list(map(_json.encode, map(_Row, *_columns(batch))))
        columns = [np.array(sizes[start:stop]), *(np.fromiter(map(len, text), np.int64, len(text)) for text in texts)]
        layout = Layout(batch["key"].to_pylist(), extensions, np.stack(columns, axis=1), end)
        size = len(rest) + (archive_size(layout.end) if stop == rows.num_rows else layout.end) - end
        if len(buffers[0]) < size:
            buffers[0] = _allocate_pages(size + size // 8)  # the next chunk may be a little larger
        chunk = buffers[0][:size]
        chunk[: len(rest)] = rest
        samples, end_of_archive = np.split(chunk[len(rest) :], [layout.end - end])
        end_of_archive[:] = 0
        layout.put_blocks(samples.reshape(-1, BLOCK))
        read(start, _put_texts(samples.data, layout, texts))
        lines += layout.lines()
        end = layout.end
        whole = size if stop == rows.num_rows else size - size % PAGE
        rest = chunk[whole:]
        yield chunk[:whole].data
        buffers.reverse()


def _allocate_pages(size: int) -> NDArray[np.uint8]:
    """Return `size` bytes of memory that begin at a page boundary."""
    memory = np.empty(size + PAGE, np.uint8)
    before = -memory.ctypes.data % PAGE
    return memory[before : before + size]


def _prefetch(chunks: Iterator[memoryview]) -> Iterator[memoryview]:
    """Yield the chunks; while one is hashed and written, a thread makes the next."""
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(next, chunks, None)
        while (chunk := future.result()) is not None:
            future = thread.submit(next, chunks, None)
            yield chunk


def make_record(
    draft: Draft, number: str, kept: int, parts: Sequence[Part], facts: Mapping[str, Tally], dropped: Sequence[str]
) -> Record:
    """Return the record of a shard, and write the dropped rows with their uids only, which are hashes.

    Args:
        kept: number of rows that are left.
        parts: parts with these rows.
        facts: their summary; see `summarise`.
        dropped: uids of the rows that takedowns removed.
    """
    written, count = list(parts), len(dropped)
    if count:
        rows = {"uid": sorted(dropped), "drop_reason": [TAKEDOWN] * count, "drop_stage": ["pack"] * count}
        table = conform(pa.table(rows), dropped_schema(PACKED), f"pack {number}")
        written.append(draft.put_table(f"dropped-{number}.parquet", table))
    counts = Counts(input=kept + count, kept=kept, dropped={TAKEDOWN: count} if count else {})
    return Record(task=f"shard-{number}", parts=written, counts=counts, facts=dict(facts))


def _columns(rows: pa.Table) -> list[list[Any]]:
    """Return the values of each column. Many columns are null, which is not worth a conversion."""
    empty = [None] * len(rows)
    return [empty if column.null_count == len(rows) else column.to_pylist() for column in rows.columns]


def _put_texts(chunk: memoryview, layout: Layout, texts: Sequence[Sequence[bytes]]) -> list[memoryview]:
    """Write the captions and the rows as JSON into a chunk, and return the buffers of its images."""
    offsets, sizes = (layout.offsets_NM - layout.start).T.tolist(), layout.sizes_NM[:, 0].tolist()
    for starts, written in zip(offsets[1:], texts, strict=True):
        for start, text in zip(starts, written, strict=True):
            chunk[start : start + len(text)] = text
    return [chunk[start : start + size] for start, size in zip(offsets[0], sizes, strict=True)]


def read_images(read_into: ReadInto, folder: str, rows: pl.DataFrame, buffers: Sequence[memoryview]) -> None:
    """Read the image of each row into its buffer. Each raw shard is read from its beginning to its end.

    Args:
        rows: with the columns shard, _offset and _size.
    """
    by_shard: dict[str, list[tuple[int, memoryview]]] = {}
    for shard, offset, buffer in zip(rows["shard"].to_list(), rows["_offset"].to_list(), buffers, strict=True):
        by_shard.setdefault(shard, []).append((offset, buffer))
    for shard in sorted(by_shard):
        read_into(f"{folder}/{shard}", sorted(by_shard[shard], key=itemgetter(0)))
