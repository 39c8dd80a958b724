"""The order of an epoch equals a sort of all its samples at once, and needs the memory of a block."""

from itertools import chain, pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.costs import allocating
from training.data.epoch_order import EpochOrder, Sampling, Windows
from training.data.keyed_random import draw_permutation


def sort_at_once(seed, samples, sampling, windows, epoch):
    """Order an epoch by arrays over all samples."""
    order = draw_permutation(seed, epoch, samples)
    if windows is not None:
        window = np.repeat(windows.assign(seed, epoch), windows.sizes)
        order = order[np.argsort(window[order], kind="stable")]
    return (order if sampling is None else order[sampling.drawn(seed, epoch)[order]]).tolist()


@given(
    sizes=st.lists(st.integers(0, 60), min_size=1, max_size=9),
    at_once=st.integers(0, 4),
    share=st.none() | st.floats(0, 1),
    seed=st.integers(-(2**63), 2**63 - 1),
    block=st.integers(8, 80),
    chunk=st.integers(8, 50),
    cuts=st.lists(st.integers(0, 540), max_size=4),
)
def test_order_equals_a_sort_of_all_samples(
    sizes,
    at_once,
    share,
    seed,
    block,
    chunk,
    cuts,
):
    samples, numbers = sum(sizes), np.random.default_rng(seed % 2**32)
    probabilities = np.where(numbers.random(samples) < 0.3, 1.0, share or 0.0)
    sampling = None if share is None else Sampling(probabilities, numbers.integers(0, 2**64, samples, np.uint64))
    windows = Windows(np.array(sizes), at_once) if at_once else None
    for epoch in (0, 3):
        expected = sort_at_once(seed, samples, sampling, windows, epoch)
        order = EpochOrder(seed, samples, sampling, windows, epoch, block=block, chunk=chunk)
        ends = sorted(min(cut, len(expected)) for cut in [*cuts, 0, len(expected)])
        taken = [order.take(begin, end).tolist() for begin, end in pairwise(ends)]
        assert list(chain.from_iterable(taken)) == expected
        if sampling is not None:
            assert sampling.count(seed, epoch) == len(expected)


def test_memory_is_that_of_a_block():
    samples, block = 2_000_000, 1 << 16
    with allocating(80 * block):  # an array over all samples has 8 bytes for each
        order = EpochOrder(0, samples, None, None, 0, block=block, chunk=1 << 14)
        taken = order.take(samples // 2, samples // 2 + 1000)
    assert len(np.unique(taken)) == 1000
