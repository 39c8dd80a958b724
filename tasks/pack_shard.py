"""The last step of the pack stage: one training shard, its index and its rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa

from dataops.schema import PACKED, conform
from dataops.shards import Member, header, index_text, laid_out
from dataops.snapshot import Counts, Draft, Record
from dataops.store import Store
from tasks.dataset_summary import describe
from tasks.pack_order import scattered
from tasks.ranges import gathered

_json = msgspec.json.Encoder()


@dataclass(frozen=True)
class TrainingShard:
    """One task: a training shard, gathered from all parts and raw shards."""

    index: int
    parts: int
    raw_folder: str
    image_extension: str

    @property
    def number(self) -> str:
        return f"{self.index:05d}"

    @property
    def id(self) -> str:
        return f"shard-{self.number}"


def pack_shard(draft: Draft, shard: TrainingShard) -> Record:
    """Write one training shard, its index and its rows."""
    frame = gathered(draft, [scattered(number) for number in range(shard.parts)], shard.index).sort("_place")
    name = f"{shard.number}.tar"
    rows = conform(frame.to_arrow(), PACKED, f"pack {name}")
    rows = rows.set_column(rows.schema.get_field_index("shard"), PACKED.field("shard"), pa.array([name] * len(rows)))
    texts = [(row["key"], row["caption"].encode(), _json.encode(row)) for row in _dicts(rows)]
    sizes = zip(texts, frame["_size"].to_list(), strict=True)
    index, size = laid_out(
        (key, {shard.image_extension: picture, "txt": len(caption), "json": len(row)})
        for (key, caption, row), picture in sizes
    )
    tar = np.empty(size, np.uint8).data  # of the exact size: each picture is read to where it will lie
    _put_texts(tar, index, texts)
    read_pictures(draft.store, shard.raw_folder, frame, [tar[m.offset : m.offset + m.size] for m, *_ in index])
    parts = [
        draft.put_bytes(name, tar, rows.num_rows),
        draft.put_bytes(f"{shard.number}.idx", index_text(index).encode(), rows.num_rows),
        draft.put_table(f"part-{shard.number}.parquet", rows),
    ]
    counts = Counts(input=rows.num_rows, kept=rows.num_rows)
    return Record(task=shard.id, parts=parts, counts=counts, facts=describe(frame))


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
