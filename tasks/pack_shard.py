"""The last step of the pack stage: one training shard, its index and its rows."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pyarrow as pa

from dataops.schema import PACKED, conform
from dataops.shards import ShardWriter, index_text
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
    pictures = read_pictures(draft.store, shard.raw_folder, *(frame[name].to_list() for name in _WHERE))
    name = f"{shard.number}.tar"
    rows = conform(frame.to_arrow(), PACKED, f"pack {name}")
    rows = rows.set_column(rows.schema.get_field_index("shard"), PACKED.field("shard"), pa.array([name] * len(rows)))
    out = io.BytesIO()
    writer = ShardWriter(out)
    index = [
        writer.write(row["key"], members(row, picture, shard.image_extension))
        for row, picture in zip(_dicts(rows), _taken(pictures), strict=True)
    ]
    writer.close()
    parts = [
        draft.put_bytes(name, out.getvalue(), rows.num_rows),
        draft.put_bytes(f"{shard.number}.idx", index_text(index).encode(), rows.num_rows),
        draft.put_table(f"part-{shard.number}.parquet", rows),
    ]
    counts = Counts(input=rows.num_rows, kept=rows.num_rows)
    return Record(task=shard.id, parts=parts, counts=counts, facts=describe(frame))


_WHERE = ("shard", "_offset", "_size")


def read_pictures(
    store: Store, folder: str, shards: Sequence[str], offsets: Sequence[int], sizes: Sequence[int]
) -> list[bytes]:
    """The bytes of each picture. Each raw shard is opened once, and read from its beginning to its end."""
    pictures = [b""] * len(shards)
    order = sorted(range(len(shards)), key=lambda row: (shards[row], offsets[row]))
    start = 0
    while start < len(order):
        raw, stop = shards[order[start]], start
        while stop < len(order) and shards[order[stop]] == raw:
            stop += 1
        rows = order[start:stop]
        found = store.read_ranges(f"{folder}/{raw}", [(offsets[row], sizes[row]) for row in rows])
        for row, picture in zip(rows, found, strict=True):
            pictures[row] = picture
        start = stop
    return pictures


def _taken(pictures: list[bytes]) -> Iterator[bytes]:
    """Each picture, which is let go of: the shard in memory grows as these become fewer."""
    for row, picture in enumerate(pictures):
        pictures[row] = b""
        yield picture


def _dicts(rows: pa.Table, at_once: int = 1000) -> Iterator[dict[str, Any]]:
    for batch in rows.to_batches(at_once):
        yield from batch.to_pylist()


def members(row: dict[str, Any], picture: bytes, extension: str) -> dict[str, bytes]:
    """The members of a sample: picture, caption, and all its columns as JSON in the order of the schema."""
    return {extension: picture, "txt": row["caption"].encode(), "json": _json.encode(row)}
