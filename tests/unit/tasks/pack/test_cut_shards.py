"""Shards are cut where a loop over the rows would cut them, whatever ranges of keys are read at a time."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tasks.pack.cut_shards import shard_starts


def shard_starts_by_row(sizes, shard_size, shard_bytes):
    starts, count, total = [], shard_size, 0
    for row, size in enumerate(sizes):
        if count == shard_size or total + size > shard_bytes:
            starts.append(row)
            count = total = 0
        count, total = count + 1, total + size
    return starts


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 9), st.integers(1, 120))
def test_shard_starts_equals_a_row_by_row_loop(sizes, count, most):
    assert shard_starts(np.array(sizes, np.int64), count, most).tolist() == shard_starts_by_row(sizes, count, most)


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=40), st.integers(1, 40), st.integers(1, 9), st.integers(1, 120)
)
def test_shard_starts_continues_a_shard_in_the_next_partition(sizes, first, count, most):
    whole, first = shard_starts_by_row(sizes, count, most), min(first, len(sizes))
    last = [start for start in whole if start < first][-1]  # the shard that is open where the first rows end
    after = shard_starts(np.array(sizes[first:], np.int64), count, most, first - last, sum(sizes[last:first]))
    assert after.tolist() == [start - first for start in whole if start >= first]
