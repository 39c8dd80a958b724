"""Some pairs for the dataset's page: kept ones, and a few for each reason for which others left, with their pictures."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from dataops.errors import CorruptPart
from dataops.images import ImageRefused, decode, preview
from dataops.shards import places, read_index
from dataops.snapshot import Draft, Manifest, Part
from dataops.store import Store
from tasks.download_report import sample_rows
from tasks.gallery import some

logger = logging.getLogger(__name__)

KEPT, PER_REASON = 24, 4
"""Pairs that are shown of those kept, and for each reason."""

Row = dict[str, Any]
"""`caption`, `preview` (a JPEG, or None), and where they are known `drop_reason`, `original_width`, `original_height`."""


@dataclass(frozen=True)
class Samples:
    """What the page shows."""

    kept: Sequence[Row]
    dropped: Mapping[str, Mapping[str, Sequence[Row]]]
    """By stage and reason."""


def collect(draft: Draft, written: Sequence[Part], lineage: Mapping[str, Manifest]) -> Samples:
    """Samples of the dataset and of the snapshots that it was made of, as far as they are there.

    Args:
        written: the dataset's parts.
    """
    dropped: dict[str, Mapping[str, Sequence[Row]]] = {}
    for stage, manifest in lineage.items():
        if stage == "filter":
            said = manifest.facts.get("examples", {})
            rows = [{"caption": c, "preview": None, "drop_reason": why} for why, told in said.items() for c in told]
        elif stage == "download":
            rows = sorted(sample_rows(manifest, draft.store), key=lambda row: row["preview"] is None)
        else:
            rows = _dropped_rows(draft.store, manifest)
        dropped[stage] = _few(rows)
    if curate := dropped.get("curate"):
        _add_pictures(draft.store, lineage["download"], [row for rows in curate.values() for row in rows])
    return Samples(_kept(draft, written), dropped)


def _few(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.get("drop_reason") and len(found.setdefault(row["drop_reason"], [])) < PER_REASON:
            found[row["drop_reason"]].append(row)
    return found


def _dropped_rows(store: Store, manifest: Manifest) -> list[Row]:
    """Rows of the beginning of some parts, in the order of their uids."""
    found: list[Row] = []
    wanted = ("uid", "url", "caption", "drop_reason", "key", "shard", "original_width", "original_height")
    for part in some(manifest.named("dropped-", ".parquet")):
        with store.open(manifest.path(part.name)) as file:
            parquet = pq.ParquetFile(file)
            if parquet.num_row_groups:
                names = [name for name in wanted if name in parquet.schema_arrow.names]
                found += parquet.read_row_group(0, names).to_pylist()
    return [row | {"preview": None} for row in sorted(found, key=lambda row: row["uid"])]


def _add_pictures(store: Store, download: Manifest, rows: Sequence[Row]) -> None:
    """Put the picture of each row of curate into it, where it can be decoded."""
    extension = download.config["encode_format"]
    by_shard: dict[str, list[Row]] = {}
    for row in rows:
        by_shard.setdefault(row["shard"], []).append(row)
    for raw, chosen in by_shard.items():
        name = download.path(raw)
        with store.open(name) as file:
            found = {m.key: (m.offset, m.size) for m in places(file, name) if m.extension == extension}
        there = [row for row in chosen if row["key"] in found]
        spans = [found[row["key"]] for row in there]
        for row, data in zip(there, store.read_ranges(name, spans), strict=True):
            row["preview"] = _preview(data)


def _kept(draft: Draft, written: Sequence[Part]) -> list[Row]:
    """The first samples of the first shard: the order is random already."""
    first = next(part.name.removesuffix(".tar") for part in written if part.name.endswith(".tar"))
    with draft.store.open(draft.path(f"part-{first}.parquet")) as file:
        rows = next(pq.ParquetFile(file).iter_batches(KEPT)).to_pylist()
    index = f"{first}.idx"
    samples = read_index(draft.store.read(draft.path(index)).decode(), index)
    pictures = [next(iter(members.values())) for members, _ in zip(samples, rows, strict=False)]
    if len(pictures) != len(rows):
        msg = f"{draft.path(index)} has fewer samples than its part has rows"
        raise CorruptPart(msg)
    spans = [(member.offset, member.size) for member in pictures]
    read = draft.store.read_ranges(draft.path(f"{first}.tar"), spans)
    return [row | {"preview": _preview(data)} for row, data in zip(rows, read, strict=True)]


def _preview(data: bytes) -> bytes | None:
    try:
        return preview(decode(data))
    except ImageRefused:
        return None
