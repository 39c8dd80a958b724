"""Write training shards, their indexes and their rows: the last step of the pack stage."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from dataops.errors import CorruptPart
from dataops.formatting import format_quantity
from dataops.lists.value_set import ValueSet
from dataops.reasons import Reason
from dataops.schema import CURATED, conform, dropped_schema
from dataops.shards.layout import BLOCK, Layout, archive_size
from dataops.shards.tar import join_index_lines
from dataops.snapshot import Counts, Draft, Part, Record
from dataops.storage.base import PAGE, ReadInto
from dataops.text.tallies import Tally
from dataops.trace.targets import COLUMNS, Target, matching_rows
from tasks.engine.exchange import group_units, number_partitions
from tasks.lists.opt_outs import NO_LISTS, StoredLists, mark_rows, match_copies, match_rows
from tasks.pack.cut_shards import CutShard, shard_starts
from tasks.pack.sorted_runs import Images, Rows, RunSet, SortLayout, concat_rows, sorted_order
from tasks.pack.summary import summarise

TAKEDOWN = Reason.TAKEDOWN
"""`drop_reason` of pairs that a recorded takedown removes."""


class DroppedPair(NamedTuple):
    """A pair that leaves a dataset; its row has no URL and no caption."""

    uid: str
    drop_reason: str = TAKEDOWN
    page_opt_out: str | None = None
    """Names of the opt-out lists that name the pair; of a copy, with the entry and the distance."""


def find_dropped(
    frame: pl.DataFrame,
    takedowns: tuple[Target, ...],
    opt_outs: Sequence[tuple[str, ValueSet]],
    copies: Mapping[int, str],
) -> tuple[NDArray[np.bool_], list[DroppedPair]]:
    """Return which rows a takedown or an opt-out list names, and their reasons.

    Args:
        copies: result of `match_copies`.
    """
    rows = frame.select(column for column in COLUMNS if column in frame.columns).to_arrow()
    mask = matching_rows(rows, takedowns)
    dropped = [DroppedPair(uid) for uid in frame.filter(mask)["uid"].to_list()]
    if opt_outs:
        matches = match_rows(rows, opt_outs)
        of_copies = pl.Series("page_opt_out", list(map(copies.get, range(len(frame)))), pl.String)
        marks = mark_rows(frame.with_columns(of_copies), matches)
        listed = marks.is_not_null().to_numpy() & ~mask
        chosen = zip(frame["uid"].filter(listed), marks.filter(listed), strict=True)
        dropped += [DroppedPair(uid, Reason.OPT_OUT_LIST, mark) for uid, mark in chosen]
        mask = mask | listed
    return mask, dropped


_json = msgspec.json.Encoder()
_spare = threading.local()
"""The buffers of this thread's previous shard, for the next one: the system would have to clear new memory."""
_SPARE_BYTES = 64 << 20
"""Maximum size of a buffer that is kept: one that a large image needed is not."""


@dataclass(frozen=True)
class TrainingShards:
    """A task: consecutive training shards, gathered from all runs."""

    first: int
    """Number of the first shard."""
    shards: tuple[CutShard, ...]
    end: CutShard | None
    """The shard after them, or None if they are the last ones."""
    runs: tuple[RunSet, ...]
    """The set of runs of each coarse partition in which they have rows."""
    layout: SortLayout
    raw_folder: str
    image_extension: str
    takedowns: tuple[Target, ...] = ()
    """Targets of the recorded takedowns, whose pairs are dropped."""
    opt_outs: StoredLists = NO_LISTS
    """Opt-out lists, whose pairs are dropped."""

    @property
    def id(self) -> str:
        last = self.first + len(self.shards) - 1
        return f"shard-{self.first:05d}" + (f"-{last:05d}" if last > self.first else "")

    @property
    def partitions(self) -> tuple[int, int]:
        """First and last of the partitions in which they have rows."""
        ranks = pl.Series([self.shards[0].rank, self.end.rank if self.end else (1 << 64) - 1], dtype=pl.UInt64)
        first, last = number_partitions(ranks, self.layout.partitions).tolist()
        return first, last


def pack_shards(draft: Draft, task: TrainingShards) -> Record:
    """Write training shards, their indexes and their rows."""
    rows = _read_rows(draft, task)
    order, start = sorted_order(rows.keys), 0
    frame, opt_outs = pl.DataFrame(pl.from_arrow(rows.table)), task.opt_outs.load(draft)
    copy_lists = task.opt_outs.load_copies(draft)
    records: list[Record] = []
    with draft.store.open_reader() as read_into:
        for number, shard in enumerate(task.shards, task.first):
            picked = order[start : start + shard.rows]
            found = frame[picked]
            read = partial(_read_batches, read_into, task.raw_folder, found, rows.pick(picked))
            copies = match_copies(found, copy_lists, read)
            mask, dropped = find_dropped(found, task.takedowns, opt_outs, copies)
            kept = found.filter(~mask), rows.pick(picked[~mask])
            records.append(_pack_shard(draft, task, f"{number:05d}", *kept, dropped, read_into))
            start += shard.rows
    return join_records(task.id, records)


def _pack_shard(
    draft: Draft,
    task: TrainingShards,
    number: str,
    frame: pl.DataFrame,
    images: Images | None,
    dropped: Sequence[DroppedPair],
    read_into: ReadInto,
) -> Record:
    """Write one shard.

    Args:
        frame: its rows in their order, with the columns of a run.
        images: their images; None if they lie in the raw shards.
        dropped: rows that were removed from it.
    """
    name = f"{number}.tar"
    rows = conform(frame.to_arrow(), task.layout.columns, f"pack {name}")
    rows = rows.set_column(rows.schema.get_field_index("shard"), "shard", pa.array([name] * len(rows), pa.string()))

    def read(start: int, buffers: list[memoryview]) -> None:
        if images is None:
            read_images(read_into, task.raw_folder, frame.slice(start, len(buffers)), buffers)
        else:
            copy_images(images[start : start + len(buffers)], buffers)

    with ThreadPoolExecutor(1) as thread:
        facts = thread.submit(summarise, rows)
        parts = write_shard(draft, number, rows, frame["_size"].to_list(), task.image_extension, read)
        return make_record(draft, number, rows.num_rows, parts, facts.result(), dropped)


def _read_rows(draft: Draft, task: TrainingShards) -> Rows:
    """Return the rows of the task's shards, in any order. Raises: CorruptPart."""
    first, last = task.partitions
    fine, found = task.layout.fine, list[Rows]()
    for coarse, runs in enumerate(task.runs, first // fine):
        start, end = max(first - coarse * fine, 0), min(last + 1 - coarse * fine, fine)
        found += (_within(rows, task.shards[0], task.end) for rows in runs.read(draft, start, end))
    rows = concat_rows(found, task.layout.columns)
    if (expected := sum(shard.rows for shard in task.shards)) != rows.table.num_rows:
        raise CorruptPart(
            f"pack {draft.key} {task.id}: the sorted runs have {format_quantity(rows.table.num_rows, 'row')} of its "
            f"{expected:,}; delete {draft.scratch('')} and run the stage again"
        )
    return rows


def _within(rows: Rows, start: CutShard, end: CutShard | None) -> Rows:
    """Return the rows from the key of one shard on, up to that of another."""
    chosen = rows.keys_from(start.rank, start.low)
    if end is not None:
        chosen &= ~rows.keys_from(end.rank, end.low)
    return rows if chosen.all() else rows.take(np.flatnonzero(chosen))


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
    row = _make_struct(*rows.column_names)
    rest, end, extensions = _allocate_pages(0), 0, (image_extension, "txt", "json")
    for start, stop in pairwise([*shard_starts(np.array(sizes), rows.num_rows, window).tolist(), rows.num_rows]):
        batch = rows.slice(start, stop - start)
        captions = [caption.encode() for caption in batch["caption"].to_pylist()]
        texts = captions, list(map(_json.encode, map(row, *_columns(batch))))
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


@cache
def _make_struct(*names: str) -> Callable[..., msgspec.Struct]:
    """Return a struct that is encoded like a dict of these names, in half of the time."""
    return msgspec.defstruct("Row", names, gc=False)


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
    draft: Draft,
    number: str,
    kept: int,
    parts: Sequence[Part],
    facts: Mapping[str, Tally],
    dropped: Sequence[DroppedPair],
) -> Record:
    """Return the record of a shard, and write the dropped rows with their uids, which are hashes, and the reasons.

    Args:
        kept: number of rows that are left.
        parts: parts with these rows.
        facts: their summary; see `summarise`.
        dropped: the rows that were removed.
    """
    written = list(parts)
    if dropped:
        rows = [pair._asdict() | {"drop_stage": "pack"} for pair in sorted(dropped)]
        table = conform(pa.Table.from_pylist(rows), dropped_schema(CURATED), f"pack {number}")
        written.append(draft.put_table(f"dropped-{number}.parquet", table))
    reasons = Counter(pair.drop_reason for pair in dropped)
    counts = Counts(input=kept + len(dropped), kept=kept, dropped=dict(sorted(reasons.items())))
    return Record(task=f"shard-{number}", parts=written, counts=counts, facts={"shards": [dict(facts)]})


def join_records(task: str, records: Sequence[Record]) -> Record:
    """Return the record of a task from those of its shards."""
    parts = [part for record in records for part in record.parts]
    facts = [shard for record in records for shard in record.facts["shards"]]
    return Record(
        task=task, parts=parts, counts=sum((record.counts for record in records), Counts()), facts={"shards": facts}
    )


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


def copy_images(images: Sequence[bytes | memoryview], buffers: Sequence[memoryview]) -> None:
    """Copy each image into its buffer."""
    for buffer, image in zip(buffers, images, strict=True):
        buffer[:] = image


def _read_batches(
    read_into: ReadInto, folder: str, rows: pl.DataFrame, images: Images | None
) -> Iterator[bytes | memoryview]:
    """Yield the image of each row, with some of them in memory at a time."""
    if images is not None:
        yield from images
        return
    for batch in group_units(range(len(rows)), rows["_size"].to_list(), _SPARE_BYTES):
        part = rows[batch[0] : batch[-1] + 1]
        buffers = [memoryview(bytearray(size)) for size in part["_size"].to_list()]
        read_images(read_into, folder, part, buffers)
        yield from buffers


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
