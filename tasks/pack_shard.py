"""The last step of the pack stage: one training shard, its index and its rows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa

from dataops.schema import PACKED, conform, dropped
from dataops.shards import Member, header, index_text, laid_out
from dataops.snapshot import Counts, Draft, Part, Record
from dataops.store import Store
from dataops.targets import COLUMNS, Target, meant
from tasks.dataset_summary import describe
from tasks.pack_order import scattered
from tasks.ranges import gathered

_json = msgspec.json.Encoder()

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
    frame = gathered(draft, [scattered(number) for number in range(shard.parts)], shard.index).sort("_place")
    gone = meant(frame.select(COLUMNS).to_arrow(), shard.taken)
    frame, lost = frame.filter(~gone), frame.filter(gone)["uid"].to_list()
    name = f"{shard.number}.tar"
    rows = conform(frame.to_arrow(), PACKED, f"pack {name}")
    rows = rows.set_column(rows.schema.get_field_index("shard"), PACKED.field("shard"), pa.array([name] * len(rows)))

    def read(places: list[memoryview]) -> None:
        read_pictures(draft.store, shard.raw_folder, frame, places)

    parts = write_shard(draft, shard.number, rows, frame["_size"].to_list(), shard.image_extension, read)
    return record(draft, shard.number, rows, parts, lost)


def write_shard(
    draft: Draft,
    number: str,
    rows: pa.Table,
    sizes: Sequence[int],
    image_extension: str,
    read: Callable[[list[memoryview]], None],
) -> list[Part]:
    """The tar, index and rows of a shard; nothing where it has no row.

    Args:
        sizes: bytes of each row's picture.
        read: puts each picture to where it will lie.
    """
    if not rows.num_rows:
        return []
    texts = [(row["key"], row["caption"].encode(), _json.encode(row)) for row in _dicts(rows)]
    index, size = laid_out(
        (key, {image_extension: picture, "txt": len(caption), "json": len(row)})
        for (key, caption, row), picture in zip(texts, sizes, strict=True)
    )
    tar = np.empty(size, np.uint8).data  # of the exact size: each picture is read to where it will lie
    _put_texts(tar, index, texts)
    read([tar[m.offset : m.offset + m.size] for m, *_ in index])
    return [
        draft.put_bytes(f"{number}.tar", tar, rows.num_rows),
        draft.put_bytes(f"{number}.idx", index_text(index).encode(), rows.num_rows),
        draft.put_table(f"part-{number}.parquet", rows),
    ]


def record(draft: Draft, number: str, rows: pa.Table, parts: Sequence[Part], lost: Sequence[str]) -> Record:
    """What is said of a shard. Of what was taken out only the uids are kept, which are hashes: no address, no caption.

    Args:
        parts: with the rows that stay.
        lost: uids of those that were taken out.
    """
    written = list(parts)
    if lost:
        gone = pa.table(
            {"uid": sorted(lost), "drop_reason": [TAKEDOWN] * len(lost), "drop_stage": ["pack"] * len(lost)}
        )
        written.append(draft.put_table(f"dropped-{number}.parquet", conform(gone, dropped(PACKED), f"pack {number}")))
    reasons = {TAKEDOWN: len(lost)} if lost else {}
    counts = Counts(input=rows.num_rows + len(lost), kept=rows.num_rows, dropped=reasons)
    facts = describe(pl.DataFrame(pl.from_arrow(rows)))
    return Record(task=f"shard-{number}", parts=written, counts=counts, facts=facts)


def _dicts(rows: pa.Table, at_once: int = 1000) -> Iterator[dict[str, Any]]:
    for batch in rows.to_batches(at_once):
        yield from batch.to_pylist()


def _put_texts(tar: memoryview, index: Sequence[Sequence[Member]], texts: Sequence[tuple[str, bytes, bytes]]) -> None:
    """Write all of a shard but the pictures: headers, captions, rows as JSON, what fills blocks, and the end."""
    end = 0
    for (picture, caption, row), (_, said, json) in zip(index, texts, strict=True):
        tar[end : picture.offset] = header(picture)
        start, end = picture.offset + picture.size, row.end
        pieces = (
            bytes(picture.end - start), header(caption), said, bytes(caption.end - caption.offset - caption.size),
            header(row), json, bytes(row.end - row.offset - row.size),
        )  # fmt: skip
        tar[start:end] = b"".join(pieces)
    tar[end:] = bytes(len(tar) - end)


def read_pictures(store: Store, folder: str, rows: pl.DataFrame, memory: Sequence[memoryview]) -> None:
    """Read the picture of each row into its memory. Each raw shard is opened once, and read from its beginning to its end.

    Args:
        rows: with the columns shard, _offset and _size.
    """
    where = rows.select("shard", "_offset").with_row_index("row").sort("shard", "_offset")
    for (raw,), group in where.group_by("shard", maintain_order=True):
        places = [(offset, memory[row]) for row, offset in group.select("row", "_offset").iter_rows()]
        store.read_into(f"{folder}/{raw}", places)
