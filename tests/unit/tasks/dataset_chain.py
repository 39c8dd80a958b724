"""Snapshots from extract to curate, made of a few pairs: the input of tests of packing."""

import io
from collections import Counter
from functools import cache
from pathlib import Path

import polars as pl
import pyarrow as pa
from PIL import Image

from dataops.digest import text_sha256
from dataops.images.decode import make_preview
from dataops.schema import (
    CAPTIONS,
    CURATED,
    DOWNLOADED,
    FILTERED,
    PAIRS,
    conform,
    dropped_schema,
    find_added_columns,
    uid,
)
from dataops.shards.tar import ShardWriter
from dataops.snapshot import Counts, Draft
from dataops.store import FolderStore
from tasks.download.outcome import EVIDENCE
from tasks.engine.stage import make, plan
from tasks.filter.summary import summarise_slice
from tasks.pack.config import PackConfig
from tasks.pack.stage import PACK
from tasks.search import write_index
from tests.inline_executor import InlineExecutor, inline_context
from tests.manifests import build_manifest
from tests.unit.tasks import raw_images

INLINE = InlineExecutor()
CONFIGS = {
    "extract": {"kind": "warc", "opt_out_directives": ["noai"]},
    "filter": {"languages": ["en"]},
    "download": {"encode_format": "jpg", "image_size": 48, "resize_mode": "border"},
    "curate": {"near_duplicate_distance": 6},
}
SCHEMAS = {"extract": PAIRS, "filter": FILTERED, "download": DOWNLOADED, "curate": CURATED}


@cache
def jpeg(seed):
    """Return an image of coloured blocks."""
    return raw_images.jpeg(raw_images.blocks(seed, 48), quality=90)


def pair(number, why=None, stage="curate", **more):
    """Return a pair with the `data` of its image, which `stage` drops for the reason `why`."""
    url, caption = f"http://host{number % 3}.example/{number}.jpg", more.pop("caption", f"caption {number} é 赤い")
    return {
        "uid": uid(url, caption), "key": uid(url, caption), "url": url, "caption": caption, "status": "success",
        "width": 48, "height": 48, "original_width": 100 + number, "original_height": 200, "language": "en",
        "language_score": 0.1, "sha256": f"{number:064x}", "source": "crawl-data/CC-MAIN-2024-10/x/a.warc.gz",
        "license": "http://creativecommons.org/licenses/by/4.0/" if number % 2 else None, "data": jpeg(number),
        "drop_reason": why, "drop_stage": stage if why else None, **more,
    }  # fmt: skip


def some_pairs():
    """Return 20 pairs that reach curate, which drops 3."""
    return [pair(n, {3: "too_small", 7: "near_duplicate", 8: "near_duplicate"}.get(n)) for n in range(20)]


def dropped_pairs():
    """Return 13 pairs that do not reach curate."""
    return [
        *(pair(n, "page_opt_out", "extract") for n in range(100, 103)),
        *(pair(n, "too_short", "filter", caption=f"c{n}") for n in range(110, 117)),
        *(pair(n, why, "download") for n, why in ((120, "http_404"), (121, "http_404"), (122, "too_large"))),
    ]


def chain(store, pairs, raw_size=7, **settings):
    """Write the snapshots of the stages from extract to curate, with raw shards of `raw_size` pairs.

    Args:
        settings: of filter; they change its key.
    """
    manifests = {}
    for stage in SCHEMAS:
        rows = [row for row in pairs if row["drop_stage"] not in list(SCHEMAS)[: len(manifests)]]
        dropped = [row for row in rows if row["drop_stage"] == stage]
        digest = text_sha256(
            repr((stage, raw_size, settings, [(row["uid"], row["sha256"], row["drop_reason"]) for row in rows]))
        )
        fetched = [row for row in pairs if row["drop_stage"] not in ("extract", "filter")]
        parts = _parts(Draft(store, stage, digest[:16]), fetched if stage == "curate" else rows, raw_size)
        if stage == "download":
            draft = Draft(store, stage, digest[:16])
            context = inline_context(store, Path())
            parts += write_index(draft, [part for part in parts if part.name.startswith("part-")], context)
        counts = Counts(
            input=len(rows), kept=len(rows) - len(dropped), dropped=Counter(row["drop_reason"] for row in dropped)
        )
        manifests[stage] = Draft(store, stage, digest[:16]).commit(
            build_manifest(
                stage,
                parts,
                key=digest[:16],
                inputs=[m.as_input() for m in list(manifests.values())[-1:]],
                config=CONFIGS[stage] | (settings if stage == "filter" else {}),
                counts=counts,
                facts=_facts(stage, dropped),
            )
        )
    return manifests


def _facts(stage, dropped):
    if stage != "filter":
        return {"files": 2}
    columns = ("uid", "url", "caption", "language", "drop_reason")
    table = pl.DataFrame([{name: row[name] for name in columns} for row in dropped], dict.fromkeys(columns, pl.String))
    return summarise_slice(table.clear(), table)


def _parts(draft, rows, size):
    parts = []
    for start in range(0, max(len(rows), 1), size):  # curate's parts are the raw shards
        number = f"{start // size:05d}"
        here = [{**row, "shard": f"{number}.tar"} for row in rows[start : start + size]]
        kept = [row for row in here if row["drop_stage"] not in {draft.stage, "download"}]
        dropped = [row for row in here if row["drop_stage"] == draft.stage]
        if draft.stage in ("download", "curate"):  # the parts of other stages do not matter
            added = [column.field for name, column in find_added_columns().items() if kept and name in kept[0]]
            schema = pa.schema([*SCHEMAS[draft.stage], *(added if draft.stage == "curate" else [])])
            parts += _put(draft, f"part-{number}", kept, schema)
        parts += _put(draft, f"dropped-{number}", dropped, dropped_schema(SCHEMAS[draft.stage]))
        if draft.stage == "download":
            parts += _raw(draft, number, kept, dropped)
    return parts


def _put(draft, name, rows, schema):
    if any(CAPTIONS.name in row for row in rows):
        schema = schema.append(CAPTIONS)
    return [draft.put_table(f"{name}.parquet", conform(pa.Table.from_pylist(rows, schema), schema, name))]


def _raw(draft, number, kept, dropped):
    out = io.BytesIO()
    writer = ShardWriter(out)
    for row in kept:
        writer.write(row["key"], {"json": b"{}", "jpg": row["data"], "txt": row["caption"].encode()})
    writer.close()
    evidence = [
        {name: row.get(name) for name in ("uid", "url", "opt_out", "permissions")}
        | {"preview": make_preview(Image.open(io.BytesIO(row["data"])))}
        for row in dropped
    ]
    return [
        draft.put_bytes(f"{number}.tar", out.getvalue(), len(kept)),
        *_put(draft, f"evidence-{number}", evidence, EVIDENCE),
    ]


def packed_in(
    folder,
    pairs,
    raw_size=7,
    seed=0,
    *,
    pool=INLINE,
    settings=None,
    **config,
):
    """Return the chain with the dataset at its end."""
    store = FolderStore(folder)
    manifests = chain(store, pairs, raw_size, **(settings or {}))
    return store, manifests | {"pack": packed(store, folder, manifests, seed, pool=pool, **config)}


def packed(
    store,
    home,
    manifests,
    seed=0,
    *,
    pool=INLINE,
    **config,
):
    """Return the dataset of a chain."""
    planned = plan(PACK, PackConfig(**config), seed, [manifests["curate"], manifests["download"]])
    return make(planned, inline_context(store, home, pool))
