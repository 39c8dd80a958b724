"""Some pairs for the dataset's page: kept ones, and a few for each reason for which others left, with their pictures."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from dataops.images import ImageRefused, decode, preview
from dataops.shards import first_spans
from dataops.snapshot import Manifest
from dataops.store import Store
from dataops.targets import COLUMNS, Target, meant
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


def collect(store: Store, lineage: Mapping[str, Manifest], taken: Sequence[Target] = ()) -> Samples:
    """Samples of the snapshots that a dataset was made of, as far as they are there; pictures come from the raw shards.

    Args:
        taken: what people asked to be taken out. None of that is shown, nor anything else that left.
    """
    dropped: dict[str, Mapping[str, Sequence[Row]]] = {}
    for stage, manifest in lineage.items() if not taken else ():
        if stage == "filter":
            said = manifest.facts.get("examples", {})
            rows = [{"caption": c, "preview": None, "drop_reason": why} for why, told in said.items() for c in told]
        elif stage == "download":
            rows = sorted(sample_rows(manifest, store, ["dropped-"]), key=lambda row: row["preview"] is None)
        else:
            rows = _rows(store, manifest, "dropped-")
        dropped[stage] = _few(rows)
    kept = _rows(store, lineage["curate"], "part-", taken)[:KEPT]
    gone = [row for rows in dropped.get("curate", {}).values() for row in rows]
    _add_pictures(store, lineage["download"], [*kept, *gone])
    return Samples(kept, dropped)


def _few(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.get("drop_reason") and len(found.setdefault(row["drop_reason"], [])) < PER_REASON:
            found[row["drop_reason"]].append(row)
    return found


def _rows(store: Store, manifest: Manifest, prefix: str, taken: Sequence[Target] = ()) -> list[Row]:
    """Rows of the beginning of some parts, in the order of their uids, which are hashes: the first are any."""
    found: list[Row] = []
    wanted = {"uid", "url", "caption", "drop_reason", "key", "shard", "original_width", "original_height"}
    wanted |= set(COLUMNS) if taken else set()
    for part in some(manifest.named(prefix, ".parquet")):
        with store.open(manifest.path(part.name)) as file:
            parquet = pq.ParquetFile(file)
            if parquet.num_row_groups:
                names = [name for name in parquet.schema_arrow.names if name in wanted]
                rows = parquet.read_row_group(0, names).sort_by("uid")
                found += _first(rows.filter(pa.array(~meant(rows, taken)))).to_pylist()
    return [row | {"preview": None} for row in sorted(found, key=lambda row: row["uid"])]


def _first(rows: pa.Table) -> pa.Table:
    """Of rows in their order so many as may be shown."""
    if "drop_reason" not in rows.column_names:
        return rows.slice(0, KEPT)
    numbers = pl.DataFrame({"reason": pl.Series(rows["drop_reason"])}).with_row_index("row")
    return rows.take(numbers.group_by("reason", maintain_order=True).head(PER_REASON)["row"].to_arrow())


def _add_pictures(store: Store, download: Manifest, rows: Sequence[Row]) -> None:
    """Put the picture of each row of curate into it, where it can be decoded."""
    extension = download.config["encode_format"]
    by_shard: dict[str, list[Row]] = {}
    for row in rows:
        by_shard.setdefault(row["shard"], []).append(row)
    there_are = {part.name for part in download.parts}
    for raw, chosen in by_shard.items():
        if raw not in there_are:  # written anew after a takedown, when these rows were judged
            continue
        name = download.path(raw)
        by_name = {f"{row['key']}.{extension}": row for row in chosen}
        with store.open(name) as file:
            found = first_spans(by_name, file, name)
        for picture, data in zip(found, store.read_ranges(name, list(found.values())), strict=True):
            by_name[picture]["preview"] = _preview(data)


def _preview(data: bytes) -> bytes | None:
    try:
        return preview(decode(data))
    except ImageRefused:
        return None
