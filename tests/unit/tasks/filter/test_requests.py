"""The requests of the filter stage grow no faster than its rows, while batches and partitions grow with the rows."""

from pathlib import Path

import pytest

from benchmarks.cases.scale_requests import count_requests
from dataops.store import FolderStore
from tasks.engine import exchange
from tasks.engine.context import Context
from tasks.engine.stage import make, plan
from tasks.filter import steps
from tasks.filter.config import FilterConfig
from tasks.filter.stage import FILTER
from tests.inline_executor import InlineExecutor
from tests.unit.tasks.filter.test_steps import snapshot, some_pairs

CONFIG = FilterConfig(
    dedupe=["uid", "url", "caption"], max_caption_count=100, near_captions={}, memory_limit_bytes=64 << 20
)
WORKERS = 320
"""Workers that share the memory, so that batches and partitions have few rows."""


@pytest.mark.timeout(120)
def test_requests_do_not_grow_faster_than_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "SLICE_ROWS", 40)
    monkeypatch.setattr(exchange, "DIRECT_PIECES", 16)
    per_row = []
    for rows in (160, 640, 2560):
        store = FolderStore(tmp_path / str(rows))
        pairs = snapshot(store.root, "extract", [some_pairs(160, seed) for seed in range(rows // 160)])
        context = Context(store, tmp_path, workers=1, workers_per_machine=WORKERS, pool=InlineExecutor())
        with count_requests() as requests:
            manifest = make(plan(FILTER, CONFIG, 0, [pairs]), context)
        assert manifest.counts.input == rows
        assert "duplicate_url" in manifest.counts.dropped
        per_row.append(sum(requests) / rows)
    assert max(per_row) <= 1.1 * per_row[0], per_row
