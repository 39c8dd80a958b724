"""Near-duplicates of captions of earlier nights are dropped as a slow reference does, for any partitions and batches."""

from functools import cache
from random import Random

import polars as pl
import pytest

from dataops.schema import uid
from dataops.snapshot import read_parts
from dataops.store import FolderStore
from dataops.text.duplicates import compute_keys
from plugins.textdedup.config import KIND, NearCaptionsConfig
from plugins.textdedup.near_captions import compute_ranks
from plugins.textdedup.step import NEAR_CAPTIONS
from plugins.textdedup.tests.unit import slow_captions as slow
from tasks.engine.stage import make, plan
from tasks.filter.config import FilterConfig
from tasks.filter.stage import FILTER
from tasks.growth.tables import add_rows
from tasks.growth.versions import Version
from tests.filter_runs import snapshot, with_sizes
from tests.inline_executor import inline_context

pytestmark = pytest.mark.timeout(300)
THRESHOLD = 0.7
shingles = cache(slow.shingles)


def nights(number, rows, hosts):
    """Return rows of several nights, whose captions are variants of those of all nights."""
    captions = slow.variants(8, number * rows)
    Random(3).shuffle(captions)
    found = []
    for i, caption in enumerate(captions[: number * rows]):
        url = f"http://host{i % hosts}.example/{i}.jpg"
        row = {"uid": uid(url, caption), "url": url, "caption": caption, "caption_source": "alt"}
        found.append({**row, "page_url": "http://p.example/", "source": "made up", "source_offset": i})
    return [found[i * rows : (i + 1) * rows] for i in range(number)]


def is_near(one, other):
    hosts = [row["url"].split("/")[2] for row in (one, other)]
    sets = [shingles(row["caption"]) for row in (one, other)]
    return hosts[0] == hosts[1] and slow.jaccard(*sets) >= THRESHOLD


def reference(rows, earlier):
    """Return the rows that stay: by rank, each that is like none of earlier nights and none before it."""
    known = compute_keys(pl.DataFrame(rows))
    order = sorted(zip(compute_ranks(known), known["origin"], range(len(rows)), strict=True))
    kept = []
    for _, _, i in order:
        if not any(is_near(rows[i], other) for other in [*earlier, *kept]):
            kept.append(rows[i])
    return kept


@pytest.mark.parametrize("partitions", [1, 5])
def test_captions_like_those_of_earlier_nights_are_dropped(partitions, tmp_path):
    store, version, earlier = FolderStore(tmp_path), Version(line="line"), []
    config = FilterConfig(near_captions={"threshold": THRESHOLD}, personal="keep", min_letter_fraction=0)
    stage = with_sizes(partitions, 25, 25) if partitions > 1 else FILTER
    differences = 0
    for number, rows in enumerate(nights(3, 80, 2), 1):
        pairs = snapshot(tmp_path / str(number), "extract", [rows[i::3] for i in range(3)])
        for part in pairs.parts:
            store.put(pairs.path(part.name), FolderStore(tmp_path / str(number)).read(pairs.path(part.name)))
        planned = plan(stage, config.with_base(version), 0, [pairs])
        manifest = make(planned, inline_context(store, tmp_path))
        kept = read_parts(store, manifest).to_pylist()
        expected = reference(rows, earlier)
        differences += len({row["uid"] for row in kept} ^ {row["uid"] for row in expected})
        new = pl.DataFrame(kept).select("uid", "url", "caption").sort("uid")
        [(kind, table)] = NEAR_CAPTIONS.keep(NearCaptionsConfig(threshold=THRESHOLD), new).items()
        assert kind == KIND
        tables = add_rows(store, version, number, kind, table)
        assert sum(one.rows for one in tables) == len(earlier) + len(kept)
        version = Version(line="line", number=number, tables=tuple(tables))
        assert 15 < len(kept) < 80
        earlier += [{**row} for row in kept]
    assert differences <= 3, "MinHash finds 98% of pairs at the threshold, and nearly all above it"
