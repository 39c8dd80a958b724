"""Sorted runs return the rows of any range of partitions, with their images, as a sort in memory gives them."""

import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataops.errors import StorageError
from dataops.schema import CURATED
from dataops.snapshot import Draft, Record
from dataops.store import FolderStore
from tasks.pack.cut_shards import CutShard, cut_shards, shard_starts
from tasks.pack.sorted_runs import Rows, RunSet, concat_rows, run_schema, sorted_order, write_run

RUN_ROWS = run_schema(CURATED)


def make_rows(keys, *, with_images=True):
    """Return a row for each rank, low and size of its image."""
    columns = {"uid": [f"{rank:016x}{low:016x}" for rank, low, _ in keys], "shard": ["00000.tar"] * len(keys)}
    columns |= {name: [key[i] for key in keys] for i, name in enumerate(("_rank", "_low", "_size"))}
    missing = {field.name: pa.nulls(len(keys), field.type) for field in RUN_ROWS if field.name not in columns}
    table = pa.table({name: (columns | missing)[name] for name in RUN_ROWS.names}, RUN_ROWS)
    images = [memoryview(bytes([rank % 251]) * size) for rank, _, size in keys]
    return Rows(table, images if with_images else None)


RANKS = st.integers(0, (1 << 64) - 1) | st.sampled_from([0, 1 << 63, (1 << 64) - 1])
KEYS = st.lists(st.tuples(RANKS, st.integers(0, 2), st.integers(0, 40)), max_size=12, unique_by=lambda key: key[:2])


@given(st.data(), KEYS, st.integers(1, 9), st.booleans(), st.integers(1, 5), st.integers(1, 60))
def test_runs_return_what_a_sort_in_memory_gives(
    data,
    keys,
    partitions,
    with_images,
    shard_size,
    shard_bytes,
):
    writers = data.draw(st.lists(st.integers(0, 2), min_size=len(keys), max_size=len(keys)))
    first = data.draw(st.integers(0, partitions - 1))
    end = data.draw(st.integers(first + 1, partitions))
    with tempfile.TemporaryDirectory() as folder:
        draft = Draft(FolderStore(Path(folder)), "pack", "0" * 16)
        for writer in range(3):
            rows = make_rows([k for k, w in zip(keys, writers, strict=True) if w == writer], with_images=with_images)
            write_run(draft, f"{writer}.run", rows, partitions, range(partitions))
        runs = RunSet("index", tuple(f"{writer}.run" for writer in range(3)), partitions, CURATED)
        shards = cut_shards(draft, [runs], shard_size, shard_bytes)
        found = concat_rows(runs.read(draft, first, end), CURATED)
    chosen = [key for key in sorted(keys) if first <= (key[0] >> 32) * partitions >> 32 < end]
    order = sorted_order(found.keys)
    assert found.keys[order].tolist() == chosen
    assert found.table["uid"].take(pa.array(order)).to_pylist() == [f"{rank:016x}{low:016x}" for rank, low, _ in chosen]
    expected = [bytes([rank % 251]) * size for rank, _, size in chosen] if with_images or not chosen else None
    images = found.pick(order)
    assert (images and [bytes(image) for image in images]) == (expected or images)
    sizes = [size for _, _, size in sorted(keys)]
    bounds = [*shard_starts(np.array(sizes, np.int64), shard_size, shard_bytes).tolist(), len(keys)]
    cut = [CutShard(*sorted(keys)[start][:2], end - start, sum(sizes[start:end])) for start, end in pairwise(bounds)]
    assert shards == cut


def test_a_damaged_run_does_not_count_as_written(tmp_path):
    store = FolderStore(tmp_path)
    draft = Draft(store, "pack", "0" * 16)
    write_run(draft, "0.run", make_rows([(5, 0, 30)]), 1, range(1))
    draft.finish(Record(task="sort"))
    runs = RunSet("index", ("0.run",), 1, CURATED)
    runs.write_index(draft)
    whole = store.read(draft.scratch("0.run"))
    for damaged in (whole[:-9] + b"x" + whole[-8:], whole[:-1], whole[:40]):
        store.put(draft.scratch("0.run"), damaged)
        assert (draft.done("sort") is None) == (len(damaged) < len(whole))
        with pytest.raises(
            StorageError, match=r"0\.run was not a whole scratch table; the next attempt writes it again"
        ):
            list(runs.read(draft, 0, 1))
        assert draft.done("sort") is None
