"""The requests of the filter stage grow no faster than its rows, while batches and partitions grow with the rows."""

from functools import partial

from tasks.engine import exchange
from tasks.engine.stage import make, plan
from tasks.filter.config import FilterConfig
from tests.counting_store import CountingStore
from tests.filter_runs import snapshot, some_pairs, with_sizes
from tests.inline_executor import inline_context

CONFIG = FilterConfig(dedupe=["uid", "url", "caption"], max_caption_count=100)


def test_requests_do_not_grow_faster_than_the_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(exchange, "plan_merges", partial(exchange.plan_merges, direct=16))
    per_row = []
    for rows in (80, 320):
        store = CountingStore(tmp_path / str(rows))
        pairs = snapshot(store.root, "extract", [some_pairs(80, seed) for seed in range(rows // 80)])
        monkeypatch.setattr("tasks.engine.map_parts.open_store", lambda uri, store=store: store)
        store.requests.clear()
        stage = with_sizes(-(-rows // 20), 20, 20)
        manifest = make(plan(stage, CONFIG, 0, [pairs]), inline_context(store, tmp_path))
        assert manifest.counts.input == rows
        assert "duplicate_url" in manifest.counts.dropped
        per_row.append(store.requests.total() / rows)
    assert max(per_row) <= 1.1 * per_row[0], per_row
