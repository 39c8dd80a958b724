"""Pairs for the dataset's pages: some that were kept, and some for each drop reason, with their images."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import polars as pl

from dataops.facts import FilterFacts
from dataops.images.decode import ImageRefused, decode, make_preview
from dataops.parquet import open_parquet
from dataops.shards.tar import find_spans, read_index
from dataops.snapshot import Manifest, read_table
from dataops.storage.base import open_ranges
from dataops.store import Store
from dataops.trace.targets import Target
from tasks.reports.page import evenly_spaced

KEPT, PER_REASON = 24, 4
"""Number of pairs that are shown of those kept, and for each drop reason."""
COLUMNS = (
    "uid",
    "url",
    "caption",
    "drop_reason",
    "key",
    "shard",
    "width",
    "height",
    "original_width",
    "original_height",
)

Row = dict[str, Any]
"""`caption`, `preview` (a JPEG, or None), and if known `drop_reason`, `width`, `height` and those of the original."""


@dataclass(frozen=True)
class Samples:
    """Pairs that the page shows."""

    kept: Sequence[Row]
    dropped: Mapping[str, Mapping[str, Sequence[Row]]]
    """Rows by stage and reason."""


def sample_kept(
    store: Store, tables: Iterable[tuple[str, int]], image_extension: str, of_each: int = KEPT
) -> list[Row]:
    """Return the first pairs of a dataset; its order is random.

    Args:
        tables: the name and the size in bytes of each part, as far as they are needed.
        of_each: maximum number of pairs of one part.
    """
    found: list[Row] = []
    for name, size in tables:
        rows = _read_first_rows(store, name, size).head(min(of_each, KEPT - len(found))).to_dicts()
        if not rows:
            break
        shard = f"{name.rpartition('/')[0]}/{rows[0]['shard']}"
        index = shard.removesuffix(".tar") + ".idx"
        samples = read_index(store.read(index).decode(), index)
        images = [members[image_extension] for members in islice(samples, len(rows))]
        _add_previews(store, shard, rows, [(image.offset, image.size) for image in images])
        found += rows
    return found


def sample_dropped(
    store: Store, lineage: Mapping[str, Manifest], takedowns: Sequence[Target] = ()
) -> dict[str, Mapping[str, Sequence[Row]]]:
    """Return, by stage and reason, some of the pairs that the snapshots of a lineage dropped.

    The images of those that curate dropped come from the raw shards.

    Args:
        takedowns: targets of recorded takedowns. Where there are any, the result is empty: a dropped pair may be one
            that somebody asked to remove.
    """
    if takedowns:
        return {}
    found: dict[str, Mapping[str, Sequence[Row]]] = {}
    for stage, manifest in lineage.items():
        if stage == "filter":
            rows = [
                {"caption": caption, "preview": None, "drop_reason": reason}
                for reason, captions in FilterFacts.of(manifest).examples.items()
                for caption in captions
            ]
        elif stage == "download":
            rows = sorted(read_samples(manifest, store, ["dropped-"]), key=lambda row: row["preview"] is None)
        else:
            rows = _read_dropped(store, manifest)
        found[stage] = _first_of_each_reason(rows)
    add_raw_previews(store, lineage["download"], [row for rows in found.get("curate", {}).values() for row in rows])
    return found


def read_samples(
    manifest: Manifest, store: Store, prefixes: Sequence[str] = ("part-", "dropped-")
) -> list[dict[str, object]]:
    """Return the rows of some parts of a download with their `preview`, in the order of their uids."""
    found: list[dict[str, Any]] = []
    columns = ["uid", "url", "caption", "error_message", "original_width", "original_height"]
    for prefix in prefixes:
        more = ["drop_reason"] if prefix == "dropped-" else []
        for part in evenly_spaced(manifest.named(prefix, ".parquet")):
            rows = read_table(store, manifest.path(part.name), [*columns, *more]).to_pylist()
            found += (row for row in rows if row["url"])  # a takedown or a list of harmful images blanks it
    previews: dict[str, bytes] = {}
    for part in evenly_spaced(manifest.named("evidence-", ".parquet")):
        evidence = read_table(store, manifest.path(part.name), ["uid", "preview"]).to_pylist()
        previews |= {row["uid"]: row["preview"] for row in evidence if row["preview"]}
    return sorted(({**row, "preview": previews.get(row["uid"])} for row in found), key=lambda row: row["uid"])


def add_raw_previews(store: Store, download: Manifest, rows: Iterable[Row]) -> None:
    """Put the image of each row into it, from the raw shards that are still there.

    Others were rewritten by a takedown, after curate had read them.
    """
    by_shard: dict[str, list[Row]] = {}
    for row in rows:
        by_shard.setdefault(row["shard"], []).append(row)
    for shard in by_shard.keys() & {part.name for part in download.parts}:
        by_name = {f"{row['key']}.{download.config['encode_format']}": row for row in by_shard[shard]}
        with store.open(download.path(shard)) as file:
            spans = find_spans(by_name, file, download.path(shard))
        _add_previews(store, download.path(shard), [by_name[name] for name in spans], list(spans.values()))


def _first_of_each_reason(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.get("drop_reason") and len(found.setdefault(row["drop_reason"], [])) < PER_REASON:
            found[row["drop_reason"]].append(row)
    return found


def _read_dropped(store: Store, manifest: Manifest) -> list[Row]:
    """Return the first rows for each reason of some parts, sorted by uid."""
    parts = [
        _read_first_rows(store, manifest.path(part.name), part.bytes)
        for part in evenly_spaced(manifest.named("dropped-", ".parquet"))
    ]
    firsts = [rows.group_by("drop_reason", maintain_order=True).head(PER_REASON).to_dicts() for rows in parts]
    return sorted((row for rows in firsts for row in rows), key=lambda row: row["uid"])


def _read_first_rows(store: Store, name: str, size: int) -> pl.DataFrame:
    """Return the first row group of a table, without images."""
    with open_ranges(store, name, size) as source, open_parquet(source, f"{store.uri}/{name}") as parquet:
        names = [name for name in parquet.schema_arrow.names if name in COLUMNS]
        rows = parquet.read_row_groups([0] if parquet.num_row_groups else [], names)
        return pl.DataFrame(pl.from_arrow(rows)).with_columns(preview=pl.lit(None, pl.Binary))


def _add_previews(store: Store, shard: str, rows: Sequence[Row], spans: Sequence[tuple[int, int]]) -> None:
    """Put the image of each row into it, where it can be decoded.

    Args:
        spans: offset and size in bytes of each image in the shard.
    """
    with ThreadPoolExecutor() as pool:
        for row, preview in zip(rows, pool.map(_make_preview, store.read_ranges(shard, spans)), strict=True):
            row["preview"] = preview


def _make_preview(image: bytes) -> bytes | None:
    try:
        return make_preview(decode(image))
    except ImageRefused:
        return None
