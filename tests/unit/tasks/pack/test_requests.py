"""The requests of pack to a remote store grow with the bytes, and not with the square of the rows or with each image."""

import os

import numpy as np

from tasks.pack import sorted_runs as sort_layout
from tasks.pack import stage
from tests.counting_store import CountingStore
from tests.unit.tasks.dataset_chain import chain, packed, pair

ROWS = (400, 1600)
RAW_SIZE = SHARD_SIZE = 100
PIECE_BYTES, RUN_LIMIT_BYTES = 16 << 10, 110_000


def pack_counted(folder, rows, monkeypatch):
    pairs = [pair(n, data=n.to_bytes(3) * 100) for n in range(rows)]
    store = CountingStore(folder)
    manifests = chain(store, pairs, RAW_SIZE)
    store.requests.clear()
    monkeypatch.setattr("tasks.engine.map_parts.open_store", lambda uri: store)
    made = packed(store, folder, manifests, shard_size=SHARD_SIZE)
    assert made.counts.kept == rows
    return store


def test_requests_grow_no_faster_than_the_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    layouts = []

    def choose(*sizes, **options):
        layouts.append(sort_layout.choose_layout(*sizes[:3], RUN_LIMIT_BYTES, piece_bytes=PIECE_BYTES, **options))
        return layouts[-1]

    monkeypatch.setattr(stage, "choose_layout", choose)
    counts = []
    for rows in ROWS:
        store = pack_counted(tmp_path / str(rows), rows, monkeypatch)
        counts.append(store.requests.total())
        assert store.requests["read_into"] == 0
        ranges = [one for (some,) in store.arguments["read_each"] for one in some]
        assert np.mean([size for name, _, size in ranges if name.endswith(".run")]) > PIECE_BYTES / 8
    assert min(layout.coarse for layout in layouts) > 1, "two passes"
    assert counts[1] < 1.2 * 4 * counts[0], counts
    assert counts[-1] < ROWS[-1], "fewer than one per image"
