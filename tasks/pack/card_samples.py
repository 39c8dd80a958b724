"""Some pairs for the dataset's page: kept ones, and a few for each reason for which others left, with their pictures."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from dataops.images.decode import ImageRefused, decode, make_preview
from dataops.shards.tar import find_spans, read_index
from dataops.snapshot import Draft, Manifest, Part
from dataops.store import Store
from dataops.trace.targets import Target
from tasks.download.report import sample_rows
from tasks.reports.gallery import some

KEPT, PER_REASON = 24, 4
"""Pairs that are shown of those kept, and for each reason."""
COLUMNS = ("uid", "url", "caption", "drop_reason", "key", "shard", "original_width", "original_height")

Row = dict[str, Any]
"""`caption`, `preview` (a JPEG, or None), and where they are known `drop_reason`, `original_width`, `original_height`."""


@dataclass(frozen=True)
class Samples:
    """What the page shows."""

    kept: Sequence[Row]
    dropped: Mapping[str, Mapping[str, Sequence[Row]]]
    """By stage and reason."""


def kept_samples(draft: Draft, parts: Iterable[Part], image_extension: str) -> list[Row]:
    """The first pairs of a dataset that is being made: they are shuffled, so the first are any.

    Args:
        parts: which were written.
    """
    found: list[Row] = []
    for part in parts:
        if part.name.startswith("part-") and len(found) < KEPT:
            rows = _rows(draft.store, draft.path(part.name)).head(KEPT - len(found)).to_dicts()
            shard = draft.path(rows[0]["shard"])
            index = shard.removesuffix(".tar") + ".idx"
            samples = read_index(draft.store.read(index).decode(), index)
            places = [members[image_extension] for members in islice(samples, len(rows))]
            _add_pictures(draft.store, shard, rows, [(place.offset, place.size) for place in places])
            found += rows
    return found


def dropped_samples(
    store: Store, lineage: Mapping[str, Manifest], taken: Sequence[Target] = ()
) -> dict[str, Mapping[str, Sequence[Row]]]:
    """By stage and reason some of what the snapshots that a dataset was made of dropped, as far as they are there.

    The pictures of those that curate dropped come from the raw shards.

    Args:
        taken: what people asked to be taken out. Then nothing is shown: it may be theirs.
    """
    if taken:
        return {}
    found: dict[str, Mapping[str, Sequence[Row]]] = {}
    for stage, manifest in lineage.items():
        if stage == "filter":
            said = manifest.facts.get("examples", {})
            rows = [{"caption": c, "preview": None, "drop_reason": why} for why, told in said.items() for c in told]
        elif stage == "download":
            rows = sorted(sample_rows(manifest, store, ["dropped-"]), key=lambda row: row["preview"] is None)
        else:
            rows = _dropped_rows(store, manifest)
        found[stage] = _few(rows)
    raw = lineage["download"]
    there_are = {part.name for part in raw.parts}
    by_shard: dict[str, list[Row]] = {}
    for rows in found.get("curate", {}).values():
        for row in rows:
            by_shard.setdefault(row["shard"], []).append(row)
    for shard in (
        by_shard.keys() & there_are
    ):  # others were written anew after a takedown, when their rows had been judged
        by_name = {f"{row['key']}.{raw.config['encode_format']}": row for row in by_shard[shard]}
        with store.open(raw.path(shard)) as file:
            spans = find_spans(by_name, file, raw.path(shard))
        _add_pictures(store, raw.path(shard), [by_name[name] for name in spans], list(spans.values()))
    return found


def _few(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.get("drop_reason") and len(found.setdefault(row["drop_reason"], [])) < PER_REASON:
            found[row["drop_reason"]].append(row)
    return found


def _dropped_rows(store: Store, manifest: Manifest) -> list[Row]:
    """The first rows for each reason of some parts, by their uids."""
    parts = [_rows(store, manifest.path(part.name)) for part in some(manifest.named("dropped-", ".parquet"))]
    firsts = [rows.group_by("drop_reason", maintain_order=True).head(PER_REASON).to_dicts() for rows in parts]
    return sorted((row for rows in firsts for row in rows), key=lambda row: row["uid"])


def _rows(store: Store, name: str) -> pl.DataFrame:
    """The beginning of a table, without pictures."""
    with store.open(name) as file:
        parquet = pq.ParquetFile(file)
        names = [name for name in parquet.schema_arrow.names if name in COLUMNS]
        rows = parquet.read_row_groups([0] if parquet.num_row_groups else [], names)
        return pl.DataFrame(pl.from_arrow(rows)).with_columns(preview=pl.lit(None, pl.Binary))


def _add_pictures(store: Store, shard: str, rows: Sequence[Row], spans: Sequence[tuple[int, int]]) -> None:
    """Put the picture of each row into it, where it can be decoded.

    Args:
        spans: offset and bytes of each in the shard.
    """
    with ThreadPoolExecutor() as pool:
        for row, small in zip(rows, pool.map(_preview, store.read_ranges(shard, spans)), strict=True):
            row["preview"] = small


def _preview(data: bytes) -> bytes | None:
    try:
        return make_preview(decode(data))
    except ImageRefused:
        return None
