"""Runs of the filter stage on synthetic pairs, for its tests and those of plugins that add to it."""

import random
from collections import Counter
from dataclasses import replace
from functools import partial

import pyarrow as pa

from dataops.schema import PAIRS, uid
from dataops.snapshot import Draft, read_parts
from dataops.store import FolderStore
from tasks.engine.context import Context
from tasks.engine.stage import make, plan
from tasks.filter.config import FilterConfig
from tasks.filter.stage import FILTER, Sizes
from tasks.filter.stage import make as make_filter
from tasks.filter.steps import SLICE_ROWS
from tests.inline_executor import InlineExecutor
from tests.manifests import build_manifest

INLINE = InlineExecutor()
SUBJECTS = ["kite", "dog", "cat", "tower", "river", "lamp"]
PLACES = ["on the hill", "by the old house", "under a bridge", "in the rain", "at night"]


def some_pairs(number, seed=0):
    chosen = random.Random(seed)
    rows = []
    for i in range(number):
        caption = (
            f"a {chosen.choice(SUBJECTS)} {chosen.choice(PLACES)} {chosen.choice(['', 'again', chosen.randint(1, 9)])}"
        )
        caption = chosen.choice([caption, caption, caption.upper(), "Share on our page", "IMG_0042.jpg"]).strip()
        url = f"http://host{chosen.randint(0, 9)}.example/{chosen.randint(0, number)}.jpg"
        rows.append({"uid": uid(url, caption), "url": url, "caption": caption, "caption_source": "alt"})
        rows[-1] |= {"page_url": f"http://p.example/{i // 5}", "source": "made up", "source_offset": i}
    return rows


def snapshot(store, stage, parts, schema=PAIRS):
    draft = Draft(FolderStore(store), stage, "0" * 16)
    written = [
        draft.put_table(f"part-{i:05d}.parquet", pa.Table.from_pylist(rows, schema=schema))
        for i, rows in enumerate(parts)
    ]
    manifest = build_manifest(stage, written, key=draft.key)
    return draft.commit(manifest)


def with_sizes(partitions, batch_rows=1, slice_rows=SLICE_ROWS):
    """Return the stage with other sizes; by default a batch is a part, or a slice of a larger one."""
    return replace(FILTER, make=partial(make_filter, sizes=Sizes(batch_rows, partitions, slice_rows)))


def filtered(
    store,
    rows,
    parts=3,
    stage=FILTER,
    pool=INLINE,
    inline_rows=1 << 15,
    **config,
):
    pairs = snapshot(store, "extract", [rows[i::parts] for i in range(parts)])
    settings = FilterConfig(**({"dedupe": ["uid", "pair", "url"]} | config))
    manifest = make(
        plan(stage, settings, 0, [pairs]),
        Context(store=FolderStore(store), home=store, workers=1, pool=pool, inline_rows=inline_rows),
    )
    kept, dropped = (read_parts(FolderStore(store), manifest, prefix).to_pylist() for prefix in ("part-", "dropped-"))
    assert Counter(row["uid"] for row in kept + dropped) == Counter(row["uid"] for row in rows)
    return manifest


def kept(store, manifest):
    return read_parts(FolderStore(store), manifest).to_pylist()
