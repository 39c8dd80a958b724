"""The samples of each step: a function of (seed, epoch) and nothing else, so a job resumes at any step at no cost."""

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate

import numpy as np

from training.config import TrainConfig
from training.data.keyed_random import draw_permutation, draw_uniforms


@dataclass(frozen=True, eq=False)
class Sampling:
    """The probability of each of N samples of being drawn in an epoch.

    The draw is a hash of (seed, epoch, identity): it does not depend on where a pair lies in the shards, and differs
    between epochs. So balancing over queries (filter.balance.mode = "online") drops no pair.
    """

    probabilities: np.ndarray
    """(N,) in [0, 1]."""
    identities: np.ndarray
    """(N,) uint64, hashes of the pairs' uids."""

    def drawn(self, seed: int, epoch: int) -> np.ndarray:
        """Return whether each sample is drawn in an epoch (N,)."""
        seen = np.ones(len(self.probabilities), np.bool_)
        uncertain = np.flatnonzero(self.probabilities < 1)
        numbers = draw_uniforms("sample", seed, epoch, self.identities[uncertain], 1)[:, 0]
        seen[uncertain] = numbers < self.probabilities[uncertain]
        return seen


@dataclass(frozen=True, eq=False)
class Windows:
    """The shards that are shuffled together, if not all are: an epoch takes some at a time, in random order."""

    shard_of: np.ndarray
    """(N,) the shard of each sample."""
    shards: int
    """Number of shards."""
    at_once: int
    """Maximum shards of a window; all windows of an epoch are equal to within one."""

    def assign(self, seed: int, epoch: int) -> np.ndarray:
        """Return the window of each shard in an epoch (shards,)."""
        rank = np.empty(self.shards, np.int64)
        rank[draw_permutation(seed, epoch, self.shards, "shards")] = np.arange(self.shards)
        return rank * -(-self.shards // self.at_once) // self.shards


@dataclass(frozen=True, eq=False)
class Plan:
    """The samples of each step.

    An epoch is a permutation of all samples, or of those that its sampling draws, cut into the fewest batches of at
    most `batch_size`, equal to within one sample; a batch is cut among the ranks likewise. So each of them is seen
    exactly once in the epoch, no batch is much smaller than the others, and all ranks together see what one process
    would.
    """

    samples: int
    config: TrainConfig
    seed: int
    sampling: Sampling | None = None
    """None: every epoch has all samples."""
    windows: Windows | None = None
    """None: all samples are shuffled together."""

    @cached_property
    def _sizes(self) -> list[int]:
        """Samples of each epoch."""
        if self.sampling is None:
            return [self.samples] * self.config.epochs
        return [int(self.sampling.drawn(self.seed, epoch).sum()) for epoch in range(self.config.epochs)]

    @cached_property
    def _steps(self) -> list[int]:
        """Batches of each epoch."""
        return [-(-size // self.config.batch_size) for size in self._sizes]

    @cached_property
    def _first_steps(self) -> list[int]:
        """Steps before each epoch, and those of all epochs."""
        return list(accumulate(self._steps, initial=0))

    @cached_property
    def _first_samples(self) -> list[int]:
        """Samples before each epoch, and those of all epochs."""
        return list(accumulate(self._sizes, initial=0))

    @property
    def total_steps(self) -> int:
        """Batches of all epochs."""
        return self._first_steps[-1]

    @property
    def total_samples(self) -> int:
        """Samples of all epochs."""
        return self._first_samples[-1]

    @property
    def smallest_batch(self) -> int:
        """Samples of the smallest batch; 0 where an epoch has none."""
        return min(size // max(steps, 1) for size, steps in zip(self._sizes, self._steps, strict=True))

    def samples_seen(self, step: int) -> int:
        """Return the number of pairs in the first `step` steps, skipped ones included."""
        epoch = bisect_right(self._first_steps, step) - 1
        if epoch == self.config.epochs:
            return self.total_samples
        index = step - self._first_steps[epoch]
        return self._first_samples[epoch] + _cut(self._sizes[epoch], self._steps[epoch], index)[0]

    def batch(self, step: int, rank: int, ranks: int) -> tuple[int, np.ndarray]:
        """Return the epoch (from 0) and the sample indices of one rank's share of a step (from 1)."""
        epoch = bisect_right(self._first_steps, step - 1) - 1
        begin, end = _cut(self._sizes[epoch], self._steps[epoch], step - 1 - self._first_steps[epoch])
        share = _cut(end - begin, ranks, rank)
        return epoch, _order(self, epoch)[begin + share[0] : begin + share[1]]

    def shards_of(self, first: int, last: int) -> list[int]:
        """Return the shards that these steps read, in the order of need."""
        assert self.windows is not None
        steps = range(first, min(last, self.total_steps) + 1)
        samples = [self.batch(step, 0, 1)[1] for step in steps]
        return list(dict.fromkeys(self.windows.shard_of[np.concatenate(samples)].tolist()))

    def shards_after(self, step: int) -> list[int]:
        """Return the shards that this epoch and the next one still need from a step on, in the order of need."""
        assert self.windows is not None
        epoch, samples = self.batch(step, 0, 1)
        window = self.windows.assign(self.seed, epoch)
        order = np.argsort(window, kind="stable")
        ahead = order[window[order] >= window[self.windows.shard_of[samples[0]]]].tolist()
        if epoch + 1 < self.config.epochs:
            ahead += np.argsort(self.windows.assign(self.seed, epoch + 1), kind="stable").tolist()
        return list(dict.fromkeys(ahead))


@lru_cache(maxsize=2)  # two, because the loader reads ahead into the next epoch
def _order(plan: Plan, epoch: int) -> np.ndarray:
    order = draw_permutation(plan.seed, epoch, plan.samples)
    if plan.windows is not None:
        window = plan.windows.assign(plan.seed, epoch)[plan.windows.shard_of]
        order = order[np.argsort(window[order], kind="stable")]
    return order if plan.sampling is None else order[plan.sampling.drawn(plan.seed, epoch)[order]]


def _cut(count: int, parts: int, index: int) -> tuple[int, int]:
    """Return begin and end of one of `parts` runs of range(count), equal to within one."""
    size, rest = divmod(count, parts)
    begin = index * size + min(index, rest)
    return begin, begin + size + (index < rest)
