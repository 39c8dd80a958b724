"""Mixtures: the samples of several datasets in one epoch, in the shares that their weights give.

Each dataset has a stream of samples: one pass over it after the other, each in an order of its own (epoch_order.py). An
epoch takes a fixed number of samples of each stream, the quota of its dataset, and the next epoch continues each stream
where this one ended. So two samples of a dataset are seen equally often within one, and a dataset with fewer samples than
its quota is repeated. The samples of each stream are spread evenly over an epoch, so each batch has its share of each
dataset. The sample at a position is a function of seed, epoch and position, as for one dataset.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from training.data.epoch_order import EpochOrder, Sampling, Windows


@dataclass(frozen=True, eq=False)
class Component:
    """A dataset of a mixture: consecutive samples of the index."""

    first: int
    """Its first sample."""
    samples: int
    weight: Fraction
    sampling: Sampling | None = None
    """Of all samples of the index; None: each pass has all samples of the dataset."""
    windows: Windows | None = None
    """None: all its samples are shuffled together."""


class Stream:
    """The passes over one dataset, one after the other.

    Args:
        sizes: samples of the first passes, if an earlier start counted them.
    """

    def __init__(self, seed: int, component: Component, sizes: Sequence[int] = ()):
        self._seed, self._component = seed, component
        self._starts = [0]
        for size in sizes:
            self._starts.append(self._starts[-1] + size)
        self._order = lru_cache(maxsize=2)(self._open)

    def _open(self, number: int) -> EpochOrder:
        one = self._component
        return EpochOrder(self._seed, one.samples, one.sampling, one.windows, number, one.first)

    def find_pass(self, position: int) -> int:
        """Return the pass to which a position of the stream belongs."""
        if self._component.sampling is None:
            return position // self._component.samples
        while self._starts[-1] <= position:
            self._count_next()
        return bisect_right(self._starts, position) - 1

    def span(self, number: int) -> tuple[int, int]:
        """Return the positions at which a pass begins and ends."""
        if self._component.sampling is None:
            return number * self._component.samples, (number + 1) * self._component.samples
        while len(self._starts) < number + 2:
            self._count_next()
        return self._starts[number], self._starts[number + 1]

    def _count_next(self) -> None:
        one = self._component
        assert one.sampling is not None
        drawn = one.sampling.count(self._seed, len(self._starts) - 1, one.first, one.first + one.samples)
        self._starts.append(self._starts[-1] + drawn)

    def sizes(self, end: int) -> list[int]:
        """Return the samples of each pass before a position of the stream; none where all passes are equal."""
        if self._component.sampling is None or not end:
            return []
        return np.diff(self._starts[: self.find_pass(end - 1) + 2]).tolist()

    def take(self, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the samples at these positions, and the pass of each."""
        samples, passes = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        while begin < end:
            number = self.find_pass(begin)
            start, stop = self.span(number)
            stop = min(end, stop)
            samples.append(self._order(number).take(begin - start, stop - start))
            passes.append(np.full(stop - begin, number))
            begin = stop
        return np.concatenate(samples), np.concatenate(passes)

    def windows_from(self, position: int, end: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the windows of the pass at a position and of the next one, with the position at which each begins, about.

        Args:
            end: position at which the stream is not read any more.
        """
        windows = self._component.windows
        assert windows is not None
        current = self.find_pass(position)
        for number in (current, current + 1):
            first, stop = self.span(number)
            window = windows.assign(self._seed, number)
            sizes = np.bincount(window, weights=windows.sizes)
            ends = first + np.round(np.cumsum(sizes) * ((stop - first) / self._component.samples))
            for index, (start, after) in enumerate(pairwise([first, *ends.astype(np.int64).tolist()])):
                if after > position and start < end:
                    yield max(start, position), windows.first_shard + np.flatnonzero(window == index)


class _Split(NamedTuple):
    """Which dataset each of some consecutive positions of an epoch belongs to."""

    datasets: np.ndarray
    before: list[int]
    """Positions of each dataset before the first of them."""


class Mixture:
    """The epochs of several datasets.

    Args:
        sizes: samples of the first passes over each dataset, as count_passes returned them at an earlier start.
    """

    def __init__(self, seed: int, components: Sequence[Component], sizes: Sequence[Sequence[int]] = ()):
        self.components = components
        known = sizes or [()] * len(components)
        self.streams = [Stream(seed, one, of_one) for one, of_one in zip(components, known, strict=True)]

    @cached_property
    def epoch_samples(self) -> int:
        """Samples of an epoch: those of one pass over each dataset, whatever the weights."""
        return sum(stream.span(0)[1] for stream in self.streams)

    @cached_property
    def quotas(self) -> list[int]:
        """Samples of an epoch that are of each dataset."""
        return apportion(self.epoch_samples, [one.weight for one in self.components])

    def count_passes(self, epochs: int) -> list[list[int]]:
        """Return the samples of each pass over each dataset that some epochs begin; reads all probabilities for each."""
        return [stream.sizes(epochs * quota) for stream, quota in zip(self.streams, self.quotas, strict=True)]

    def describe(self, epochs: int) -> list[dict[str, float]]:
        """Return for each dataset its samples, how many of them an epoch sees, and how often some epochs see each."""
        return [
            {
                "samples": one.samples,
                "samples_per_epoch": quota,
                "passes": round(epochs * quota / max(stream.span(0)[1], 1), 3),
            }
            for one, stream, quota in zip(self.components, self.streams, self.quotas, strict=True)
        ]

    def take(self, epoch: int, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the samples at these positions of an epoch.

        Returns: the sample of each position, and how often the epoch began another pass over its dataset before it.
        """
        samples, repeats = np.empty(end - begin, np.int64), np.empty(end - begin, np.int64)
        split = self._split(begin, end)
        for number, (stream, quota) in enumerate(zip(self.streams, self.quotas, strict=True)):
            is_its = split.datasets == number
            if (count := int(np.count_nonzero(is_its))) == 0:
                continue
            start = epoch * quota + split.before[number]
            samples[is_its], passes = stream.take(start, start + count)
            repeats[is_its] = passes - stream.find_pass(epoch * quota)
        return samples, repeats

    def _split(self, begin: int, end: int) -> _Split:
        """Assign positions to datasets: dataset i has floor(t * quota / left) of the first t that none before it has."""
        datasets = np.empty(end - begin, np.int64)
        before: list[int] = []
        free, position, left = np.arange(end - begin), begin, self.epoch_samples
        for number, quota in enumerate(self.quotas):
            # Python's integers do not overflow, and the rest of the division is small.
            passed, rest = divmod(position * quota, left) if left else (0, 0)
            counts = (rest + np.arange(len(free) + 1) * quota) // max(left, 1)
            is_its = np.diff(counts) > 0
            datasets[free[is_its]] = number
            before.append(passed)
            free, position, left = free[~is_its], position - passed, left - quota
        return _Split(datasets, before)

    def shards_after(self, epoch: int, position: int, epochs: int) -> list[int]:
        """Return the shards that the current and the next pass over each dataset still need, in the order of need."""
        needed: list[tuple[Fraction, list[int]]] = []
        before = self._split(position, position).before
        for stream, quota, passed in zip(self.streams, self.quotas, before, strict=True):
            start = epoch * quota + passed
            for at, shards in stream.windows_from(start, epochs * quota) if start < epochs * quota else ():
                needed.append((Fraction(at - start, quota), shards.tolist()))
        return list(dict.fromkeys(shard for _, shards in sorted(needed) for shard in shards))


def apportion(total: int, weights: Sequence[Fraction]) -> list[int]:
    """Divide a total into integers in proportion to the weights, by the method of largest remainders; the first of equals.

    Source: Balinski & Young 2001, "Fair Representation", Hamilton's method.
    """
    exact = [total * weight / sum(weights) for weight in weights]
    shares = [int(share) for share in exact]
    by_remainder = sorted(range(len(weights)), key=lambda number: (shares[number] - exact[number], number))
    for number in by_remainder[: total - sum(shares)]:
        shares[number] += 1
    return shares
