"""The last step of the pack stage: one training shard, its index and its rows."""

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
from tasks.engine.partition_tables import read_partition
from tasks.pack.order import rows_table, shard_starts
from tasks.pack.summary import summarise

_json = msgspec.json.Encoder()
_Row = msgspec.defstruct("_Row", PACKED.names, gc=False)
"""Written as a dict of these names would be, in half of the time."""

_spare = threading.local()
"""The buffers of this thread's last shard, for the next: new memory the system must clear."""
_SPARE_BYTES = 64 << 20
"""Of one, at most. Where a shard is made at once, as for S3, memory is worth more than the time."""

TAKEDOWN = "takedown"
"""`drop_reason` of what somebody asked to be taken out."""


@dataclass(frozen=True)
class TrainingShard:
    """One task: a training shard, gathered from all parts and raw shards."""

    index: int
    parts: int
    raw_folder: str
    image_extension: str
    taken: tuple[Target, ...] = ()
    """What somebody asked to be taken out."""

    @property
    def number(self) -> str:
        return f"{self.index:05d}"

    @property
    def id(self) -> str:
        return f"shard-{self.number}"


def pack_shard(draft: Draft, shard: TrainingShard) -> Record:
    """Write one training shard, its index and its rows."""
    frame = read_partition(draft, [rows_table(number) for number in range(shard.parts)], shard.index).sort("_place")
    gone = matching_rows(frame.select(COLUMNS).to_arrow(), shard.taken)
    frame, lost = frame.filter(~gone), frame.filter(gone)["uid"].to_list()
    name = f"{shard.number}.tar"
    rows = conform(frame.to_arrow(), PACKED, f"pack {name}")
    rows = rows.set_column(rows.schema.get_field_index("shard"), PACKED.field("shard"), pa.array([name] * len(rows)))

    with draft.store.open_reader() as read_into, ThreadPoolExecutor(1) as thread:

        def read(start: int, places: list[memoryview]) -> None:
            read_images(read_into, shard.raw_folder, frame.slice(start, len(places)), places)

        facts = thread.submit(summarise, rows)
        parts = write_shard(draft, shard.number, rows, frame["_size"].to_list(), shard.image_extension, read)
    return make_record(draft, shard.number, rows.num_rows, parts, facts.result(), lost)


def write_shard(
    draft: Draft,
    number: str,
    rows: pa.Table,
    sizes: Sequence[int],
    image_extension: str,
    read: Callable[[int, list[memoryview]], None],
) -> list[Part]:
    """The tar, index and rows of a shard; nothing where it has no row.

    Args:
        sizes: bytes of each row's picture.
        read: puts the pictures of the rows from a first one on to where they will lie.
    """
    if not rows.num_rows:
        return []
    lines: list[str] = []
    buffers = vars(_spare).pop("buffers", None) or [_pages(0), _pages(0)]

    def pieces() -> Iterator[memoryview]:
        lines.clear()
        return _one_ahead(_pieces(rows, sizes, image_extension, read, draft.store.window, buffers, lines))

    with ThreadPoolExecutor(1) as thread:  # the rows are written while the last of the tar is on its way to the disk
        coming = thread.submit(draft.put_chunks, f"{number}.tar", pieces, rows.num_rows)
        table = draft.put_table(f"part-{number}.parquet", rows)
        tar = coming.result()
    if max(map(len, buffers)) <= _SPARE_BYTES:
        _spare.buffers = buffers  # not after an error: who knows which thread still writes there
    return [tar, draft.put_bytes(f"{number}.idx", join_index_lines(lines).encode(), rows.num_rows), table]


def _pieces(
    rows: pa.Table,
    sizes: Sequence[int],
    image_extension: str,
    read: Callable[[int, list[memoryview]], None],
    window: int,
    buffers: list[NDArray[np.uint8]],
    lines: list[str],
) -> Iterator[memoryview]:
    """The bytes of a shard, some samples at a time.

    Each piece but the last ends with the last whole page; what is left begins the next.

    Args:
        window: most bytes of pictures in a piece of more than one sample.
        buffers: two that take turns; one that is too small is replaced.
        lines: gets those of the index.
    """
    rest, end, extensions = _pages(0), 0, (image_extension, "txt", "json")
    for start, stop in pairwise([*shard_starts(np.array(sizes), rows.num_rows, window).tolist(), rows.num_rows]):
        some = rows.slice(start, stop - start)
        captions = [said.encode() for said in some["caption"].to_pylist()]
        texts = captions, list(map(_json.encode, map(_Row, *_columns(some))))
        columns = [np.array(sizes[start:stop]), *(np.fromiter(map(len, text), np.int64, len(text)) for text in texts)]
        layout = Layout(some["key"].to_pylist(), extensions, np.stack(columns, axis=1), end)
        size = len(rest) + (archive_size(layout.end) if stop == rows.num_rows else layout.end) - end
        if len(buffers[0]) < size:
            buffers[0] = _pages(size + size // 8)  # the next piece may be a little larger
        piece = buffers[0][:size]
        piece[: len(rest)] = rest
        samples, after = np.split(piece[len(rest) :], [layout.end - end])
        after[:] = 0
        layout.put_blocks(samples.reshape(-1, BLOCK))
        read(start, _put_texts(samples.data, layout, texts))
        lines += layout.lines()
        end = layout.end
        whole = size if stop == rows.num_rows else size - size % PAGE
        rest = piece[whole:]
        yield piece[:whole].data
        buffers.reverse()


def _pages(size: int) -> NDArray[np.uint8]:
    """So many bytes of memory, from the beginning of a page on."""
    memory = np.empty(size + PAGE, np.uint8)
    before = -memory.ctypes.data % PAGE
    return memory[before : before + size]


def _one_ahead(pieces: Iterator[memoryview]) -> Iterator[memoryview]:
    """The pieces; while one is hashed and written, a thread makes the next."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, pieces, None)
        while (piece := coming.result()) is not None:
            coming = thread.submit(next, pieces, None)
            yield piece


def make_record(
    draft: Draft, number: str, kept: int, parts: Sequence[Part], facts: Mapping[str, Tally], lost: Sequence[str]
) -> Record:
    """What is said of a shard. Of what was taken out only the uids are kept, which are hashes: no address, no caption.

    Args:
        parts: with the rows that stay.
        facts: of those rows; see `describe`.
        lost: uids of those that were taken out.
    """
    written = list(parts)
    if lost:
        gone = pa.table(
            {"uid": sorted(lost), "drop_reason": [TAKEDOWN] * len(lost), "drop_stage": ["pack"] * len(lost)}
        )
        written.append(
            draft.put_table(f"dropped-{number}.parquet", conform(gone, dropped_schema(PACKED), f"pack {number}"))
        )
    reasons = {TAKEDOWN: len(lost)} if lost else {}
    counts = Counts(input=kept + len(lost), kept=kept, dropped=reasons)
    return Record(task=f"shard-{number}", parts=written, counts=counts, facts=dict(facts))


def _columns(rows: pa.Table) -> list[list[Any]]:
    empty = [None] * len(rows)  # many columns are: what nobody looked for, or no page said
    return [empty if column.null_count == len(rows) else column.to_pylist() for column in rows.columns]


def _put_texts(piece: memoryview, layout: Layout, texts: Sequence[Sequence[bytes]]) -> list[memoryview]:
    """Write captions and rows as JSON to where they lie; the memory that is left for the pictures."""
    offsets, sizes = (layout.offsets_NM - layout.start).T.tolist(), layout.sizes_NM[:, 0].tolist()
    for starts, written in zip(offsets[1:], texts, strict=True):
        for start, text in zip(starts, written, strict=True):
            piece[start : start + len(text)] = text
    return [piece[start : start + size] for start, size in zip(offsets[0], sizes, strict=True)]


def read_images(read_into: ReadInto, folder: str, rows: pl.DataFrame, memory: Sequence[memoryview]) -> None:
    """Read the picture of each row into its memory. Each raw shard is read from its beginning to its end.

    Args:
        rows: with the columns shard, _offset and _size.
    """
    by_shard: dict[str, list[tuple[int, memoryview]]] = {}
    for raw, offset, place in zip(rows["shard"].to_list(), rows["_offset"].to_list(), memory, strict=True):
        by_shard.setdefault(raw, []).append((offset, place))
    for raw in sorted(by_shard):
        read_into(f"{folder}/{raw}", sorted(by_shard[raw], key=itemgetter(0)))
