"""A mixture sees exactly the share of each dataset, and each sample of a dataset equally often within one."""

from fractions import Fraction
from itertools import chain, groupby, pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from training.config import TrainConfig
from training.data.epoch_order import Sampling, Windows
from training.data.keyed_random import hash_samples
from training.data.mixture import Component, Mixture
from training.data.sampling_plan import Plan

SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=4)
WEIGHTS = st.fractions(Fraction(1, 50), 5)


def components(sizes, weights, sampling=None):
    firsts = np.cumsum([0, *sizes])[:-1].tolist()
    return [
        Component(first, size, weight, sampling) for first, size, weight in zip(firsts, sizes, weights, strict=True)
    ]


def plan_of(parts, epochs, batch_size, seed=0):
    samples = sum(one.samples for one in parts)
    return Plan(
        samples,
        TrainConfig(epochs=epochs, batch_size=batch_size),
        seed,
        parts[0].sampling,
        mixture=Mixture(seed, parts),
    )


def order_slowly(parts, quotas, seed, epochs):
    """Return the samples of each epoch, one position after the other, from lists of whole passes."""

    def stream(one, needed):
        found = []
        for number in range(10_000):
            if len(found) >= needed:
                break
            samples = np.arange(one.first, one.first + one.samples)
            if one.sampling is not None:
                samples = samples[one.sampling.drawn(seed, number)[samples]]
            found += samples[np.argsort(hash_samples("order", seed, number, samples))].tolist()
        return found

    streams = [iter(stream(one, epochs * quota)) for one, quota in zip(parts, quotas, strict=True)]
    result = []
    for _ in range(epochs):
        order, taken = [], [0] * len(parts)
        for position in range(1, sum(quotas) + 1):
            # After `position` samples, dataset i has floor(rest * quota / (quotas from i on)) of those that are left.
            rest = position
            for number, quota in enumerate(quotas):
                left = sum(quotas[number:])
                due = rest * quota // left if left else 0
                rest -= due
                if due > taken[number]:
                    taken[number] += 1
                    order.append(next(streams[number]))
        result.append(order)
    return result


@settings(max_examples=25)
@given(data=st.data(), sizes=SIZES, seed=st.integers(0, 2**32 - 1), is_sampled=st.booleans())
def test_order_is_that_of_lists_for_any_number_of_ranks(data, sizes, seed, is_sampled):
    weights = [data.draw(WEIGHTS) for _ in sizes]
    numbers = np.random.default_rng(seed)
    chances = np.where(numbers.random(sum(sizes)) < 0.5, 1.0, 0.6)
    chances[np.cumsum([0, *sizes])[:-1]] = 1  # each pass draws something
    sampling = Sampling(chances, numbers.integers(0, 2**64, sum(sizes), np.uint64)) if is_sampled else None
    parts = components(sizes, weights, sampling)
    plan = plan_of(parts, 3, data.draw(st.integers(2, 30)), seed)
    mixture = plan.mixture
    expected = order_slowly(parts, mixture.quotas, seed, 3)
    epochs = [[], [], []]
    ranks = data.draw(st.integers(1, 3))
    for step in range(1, plan.total_steps + 1):
        epoch, indices = plan.batch(step, 0, 1)
        epochs[epoch] += indices.tolist()
        fresh = Plan(plan.samples, plan.config, seed, sampling, mixture=Mixture(seed, parts, mixture.count_passes(3)))
        shares = [fresh.batch(step, rank, ranks)[1] for rank in range(ranks)]
        assert np.concatenate(shares).tolist() == indices.tolist(), "a batch needs no earlier one, and no other rank"
    assert [[index % plan.samples for index in epoch] for epoch in epochs] == expected
    assert all(len(set(epoch)) == len(epoch) for epoch in epochs), "a repeated sample has another index"


@settings(max_examples=30)
@given(data=st.data(), sizes=SIZES, epochs=st.integers(1, 4), batch_size=st.integers(2, 20))
def test_each_epoch_and_batch_has_the_shares_and_each_sample_is_seen_equally_often(data, sizes, epochs, batch_size):
    weights = [data.draw(WEIGHTS) for _ in sizes]
    plan = plan_of(components(sizes, weights), epochs, batch_size)
    exact = [sum(sizes) * weight / sum(weights) for weight in weights]
    dataset_of = np.repeat(np.arange(len(sizes)), sizes)
    seen = np.zeros(sum(sizes), np.int64)
    counts = np.zeros((epochs, len(sizes)), np.int64)
    for step in range(1, plan.total_steps + 1):
        epoch, indices = plan.batch(step, 0, 1)
        samples = indices % plan.samples
        np.add.at(seen, samples, 1)
        of_batch = np.bincount(dataset_of[samples], minlength=len(sizes))
        counts[epoch] += of_batch
        for count, share in zip(of_batch, exact, strict=True):
            assert abs(count - len(indices) * share / sum(sizes)) < len(sizes) + 1
        for first, size in zip(np.cumsum([0, *sizes])[:-1], sizes, strict=True):
            assert np.ptp(seen[first : first + size]) <= 1, "at every step"
    assert (counts == counts[0]).all()
    assert counts[0].sum() == sum(sizes), "an epoch has as many samples as the datasets"
    assert all(abs(count - share) < 1 for count, share in zip(counts[0].tolist(), exact, strict=True))


def test_shares_of_more_positions_than_64_bits_can_multiply():
    mixture = Mixture(0, components([12_800_000_000, 7, 3_000_000_000], [Fraction(7), Fraction(1), Fraction(3)]))
    end = mixture.epoch_samples
    assert (end, sum(mixture.quotas)) == (15_800_000_007, 15_800_000_007)
    cuts = [0, 1000, end // 3, end // 3 + 1000, end - 1000, end]
    for begin, stop in pairwise(cuts):
        if stop - begin == 1000:
            split = mixture._split(begin, stop)
            after = mixture._split(stop, stop).before
            counts = np.bincount(split.datasets, minlength=3)
            assert [a - b for a, b in zip(after, split.before, strict=True)] == counts.tolist()
    assert mixture._split(end, end).before == mixture.quotas


def test_windows_of_each_dataset_are_requested_in_time():
    sizes = [np.array([9, 1, 12, 5, 8]), np.array([6, 7, 4])]
    parts = [
        Component(0, 35, Fraction(2), None, Windows(sizes[0], 2)),
        Component(35, 17, Fraction(1), None, Windows(sizes[1], 1, 5, 35)),
    ]
    config = TrainConfig(epochs=3, batch_size=6)
    plan = Plan(52, config, 4, None, Windows(np.concatenate(sizes), 2), mixture=Mixture(4, parts))
    seen = np.zeros(52, np.int64)
    for step in range(1, plan.total_steps + 1):
        ahead, epoch_end = plan.shards_after(step), min(plan.total_steps, step + 8)
        assert len(set(ahead)) == len(ahead)
        assert set(plan.shards_of(step, epoch_end)) <= set(ahead), "nothing is requested too late"
        assert set(plan.shards_of(step, step)) <= set(ahead[:6]), "the shards of this step are among the first"
        np.add.at(seen, plan.batch(step, 0, 1)[1] % 52, 1)
    for first, size in ((0, 35), (35, 17)):
        assert np.ptp(seen[first : first + size]) <= 1
    firsts = list(chain.from_iterable(plan.mixture.streams[1].take(at, at + 1)[0] for at in range(17)))
    shards = plan.windows.find_shards(np.array(firsts)).tolist()
    assert list(dict.fromkeys(shards)) == [shard for shard, _ in groupby(shards)], "in windows"
