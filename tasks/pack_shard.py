"""The last step of the pack stage: one training shard, its index and its rows."""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa

from dataops.schema import PACKED, conform, dropped
from dataops.shards import ShardWriter, index_text
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
    pictures = read_pictures(draft.store, shard.raw_folder, *(frame[name].to_list() for name in _WHERE))
    name = f"{shard.number}.tar"
    rows = conform(frame.to_arrow(), PACKED, f"pack {name}")
    rows = rows.set_column(rows.schema.get_field_index("shard"), PACKED.field("shard"), pa.array([name] * len(rows)))
    parts = write_shard(draft, shard.number, rows, _taken(pictures), shard.image_extension)
    return record(draft, shard.number, rows, parts, lost)


def write_shard(
    draft: Draft, number: str, rows: pa.Table, pictures: Iterable[bytes], image_extension: str
) -> list[Part]:
    """The tar, index and rows of a shard; nothing where it has no row."""
    if not rows.num_rows:
        return []
    out = io.BytesIO()
    writer = ShardWriter(out)
    index = [
        writer.write(row["key"], members(row, picture, image_extension))
        for row, picture in zip(_dicts(rows), pictures, strict=True)
    ]
    writer.close()
    return [
        draft.put_bytes(f"{number}.tar", out.getvalue(), rows.num_rows),
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
