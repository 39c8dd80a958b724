"""The samples of each step: a function of (seed, epoch) and nothing else, so a job resumes at any step at no cost."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import accumulate

import numpy as np

from training.config import TrainConfig
from training.data.epoch_order import EpochOrder, Sampling, Windows
from training.data.mixture import Mixture


@dataclass(frozen=True, eq=False)
class Plan:
    """The samples of each step.

    An epoch is a permutation of all samples, or of those that its sampling draws, cut into the
    fewest batches of at most `batch_size`, equal to within one sample; a batch is cut among the
    ranks likewise. So each of them is seen exactly once in the epoch, no batch is much smaller than
    the others, and all ranks together see what one process would.
    """

    samples: int
    config: TrainConfig
    seed: int
    sampling: Sampling | None = None
    """None: every epoch has all samples."""
    windows: Windows | None = None
    """None: all samples are shuffled together."""
    sizes: tuple[int, ...] | None = None
    """Samples of each epoch, if an earlier start counted them; None: they are counted when they are needed."""
    mixture: Mixture | None = None
    """None: the samples are of one dataset. With a mixture, its datasets have `sampling` and `windows` of their own."""
    places: np.ndarray | None = None
    """Index in the dataset of each sample of the plan (samples,), -1 for one that is not there any more and whose place in
    a batch stays empty; None: the samples of the plan are those of the dataset."""
    kept_steps: frozenset[int] = frozenset()
    """Steps whose checkpoints are written and kept, beside those that the config asks for."""

    @cached_property
    def _sizes(self) -> tuple[int, ...]:
        return self.count_epochs() if self.sizes is None else self.sizes

    @cached_property
    def _first_steps(self) -> list[int]:
        """Steps before each epoch, and those of all epochs."""
        return list(accumulate((-(-size // self.config.batch_size) for size in self._sizes), initial=0))

    @cached_property
    def _first_samples(self) -> list[int]:
        """Samples before each epoch, and those of all epochs."""
        return list(accumulate(self._sizes, initial=0))

    @cached_property
    def _order(self) -> Callable[[int], EpochOrder]:
        """Return the order of an epoch; two are kept, because the loader reads ahead into the next epoch."""
        return lru_cache(maxsize=2)(partial(EpochOrder, self.seed, self.samples, self.sampling, self.windows))

    def count_epochs(self) -> tuple[int, ...]:
        """Return the samples of each epoch; with a sampling, this reads the probabilities of all samples for each."""
        if self.mixture is not None:
            return (self.mixture.epoch_samples,) * self.config.epochs
        if self.sampling is None:
            return (self.samples,) * self.config.epochs
        return tuple(self.sampling.count(self.seed, epoch) for epoch in range(self.config.epochs))

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
        return min(size // max(-(-size // self.config.batch_size), 1) for size in self._sizes)

    def samples_seen(self, step: int) -> int:
        """Return the number of pairs in the first `step` steps, skipped ones included."""
        if step == self.total_steps:
            return self.total_samples
        epoch, begin, _ = self._find_batch(step + 1)
        return self._first_samples[epoch] + begin

    def batch(self, step: int, rank: int, ranks: int) -> tuple[int, np.ndarray]:
        """Return the epoch (from 0) and the sample indices of one rank's share of a step (from 1).

        A mixture may repeat a sample in an epoch. `samples` is added to its index for each pass before over its dataset
        in the epoch, so that no index occurs twice in an epoch: random numbers of an index are new each time. The sample
        is the remainder by `samples`.
        """
        epoch, begin, end = self._find_batch(step)
        share = _cut(end - begin, ranks, rank)
        begin, end = begin + share[0], begin + share[1]
        if self.mixture is None:
            return epoch, self._order(epoch).take(begin, end)
        samples, repeats = self.mixture.take(epoch, begin, end)
        return epoch, samples + repeats * self.samples

    def _find_batch(self, step: int) -> tuple[int, int, int]:
        """Return the epoch of a step (from 1), and begin and end of its positions in the epoch."""
        epoch = bisect_right(self._first_steps, step - 1) - 1
        first, after = self._first_steps[epoch : epoch + 2]
        return epoch, *_cut(self._sizes[epoch], after - first, step - 1 - first)

    def shards_of(self, first: int, last: int) -> list[int]:
        """Return the shards that these steps read, in the order of need."""
        assert self.windows is not None
        steps = range(first, min(last, self.total_steps) + 1)
        samples = np.concatenate([self.batch(step, 0, 1)[1] for step in steps]) % self.samples
        return list(dict.fromkeys(self.windows.find_shards(samples).tolist()))

    def all_windows(self) -> list[Windows]:
        """Return the windows of each dataset, in which its samples are shuffled."""
        of_datasets = [self.windows] if self.mixture is None else [one.windows for one in self.mixture.components]
        return [windows for windows in of_datasets if windows is not None]

    def shards_after(self, step: int) -> list[int]:
        """Return the shards that this epoch and the next one still need from a step on, in the order of need."""
        assert self.windows is not None
        if self.mixture is not None:
            return self.mixture.shards_after(*self._find_batch(step)[:2], self.config.epochs)
        epoch, samples = self.batch(step, 0, 1)
        window = self.windows.assign(self.seed, epoch)
        order = np.argsort(window, kind="stable")
        ahead = order[window[order] >= window[self.windows.find_shards(samples[:1])]].tolist()
        if epoch + 1 < self.config.epochs:
            ahead += np.argsort(self.windows.assign(self.seed, epoch + 1), kind="stable").tolist()
        return list(dict.fromkeys(ahead))


def _cut(count: int, parts: int, index: int) -> tuple[int, int]:
    """Return begin and end of one of `parts` runs of range(count), equal to within one."""
    size, rest = divmod(count, parts)
    begin = index * size + min(index, rest)
    return begin, begin + size + (index < rest)
