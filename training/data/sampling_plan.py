"""The samples of each step: a function of (seed, epoch) and nothing else, so a job resumes at any step at no cost."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np

from dataops.errors import ConfigError
from training.config import TrainConfig
from training.data.epoch_order import EpochOrder, Sampling, Windows
from training.data.mixture import Mixture
from training.model_config import ModelConfig


class _Run(NamedTuple):
    """Samples of an epoch that are in one phase of the training."""

    epoch: int
    begin: int
    """Position of the first of them in the epoch."""
    end: int
    phase: int
    steps: int
    """Number of batches."""


@dataclass(frozen=True, eq=False)
class Plan:
    """The samples of each step.

    An epoch is a permutation of all samples, or of those that its sampling draws, cut into the fewest batches of at
    most `batch_size`, equal to within one sample; a batch is cut among the ranks likewise. So each of them is seen
    exactly once in the epoch, no batch is much smaller than the others, and all ranks together see what one process
    would. An epoch in which a phase ends is cut there first.
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

    @cached_property
    def _sizes(self) -> tuple[int, ...]:
        return self.count_epochs() if self.sizes is None else self.sizes

    @cached_property
    def _runs(self) -> list[_Run]:
        """The samples of each epoch by phase."""
        batch_sizes, ends, runs = self.config.batch_sizes, self._phase_ends, []
        for epoch, (first, after) in enumerate(pairwise(self._first_samples)):
            cuts = [first, *sorted({end for end in ends if first < end < after}), after]
            for begin, end in pairwise(cuts):
                phase = bisect_right(ends, begin)
                steps = -(-(end - begin) // batch_sizes[phase])
                runs.append(_Run(epoch, begin - first, end - first, phase, steps))
        return runs

    @cached_property
    def _phase_ends(self) -> list[int]:
        """Samples of all epochs before the end of each phase but the last."""
        ends, batch_sizes = [], self.config.batch_sizes
        for number, phase in enumerate(self.config.phases[:-1]):
            end = round(phase.until * self.total_samples)
            if end not in self._first_samples:
                index = bisect_right(self._first_samples, end)
                first, after = self._first_samples[index - 1 : index + 1]
                if end - first < batch_sizes[number]:
                    end = first
                elif after - end < batch_sizes[number + 1]:
                    end = after
            ends.append(max([end, *ends[-1:]]))
        return ends

    @cached_property
    def _first_steps(self) -> list[int]:
        """Steps before each run, and those of all runs."""
        return list(accumulate((run.steps for run in self._runs), initial=0))

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
        return min((run.end - run.begin) // max(run.steps, 1) for run in self._runs)

    def samples_seen(self, step: int) -> int:
        """Return the number of pairs in the first `step` steps, skipped ones included."""
        if step == self.total_steps:
            return self.total_samples
        epoch, begin, _ = self._find_batch(step + 1)
        return self._first_samples[epoch] + begin

    def find_phase(self, step: int) -> int:
        """Return the phase of a step (from 1), from 0."""
        return self._find_run(step)[0].phase

    def count_phases(self) -> list[tuple[int, int]]:
        """Return the number of steps and of samples of each phase."""
        counts = [(0, 0)] * len(self.config.batch_sizes)
        for run in self._runs:
            steps, samples = counts[run.phase]
            counts[run.phase] = (steps + run.steps, samples + run.end - run.begin)
        return counts

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
        run, index = self._find_run(step)
        begin, end = _cut(run.end - run.begin, run.steps, index)
        return run.epoch, run.begin + begin, run.begin + end

    def _find_run(self, step: int) -> tuple[_Run, int]:
        """Return the run of a step (from 1), and the number of the step in it, from 0."""
        number = bisect_right(self._first_steps, step - 1) - 1
        return self._runs[number], step - 1 - self._first_steps[number]

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


def check_phases(plan: Plan) -> None:
    """Raise ConfigError if a phase of a training has no step."""
    for number, (steps, _) in enumerate(plan.count_phases(), 1):
        if not steps and plan.config.phases:
            pairs = plan.config.batch_sizes[number - 1]
            raise ConfigError(
                f"phase {number} has no step, since it is shorter than its batch_size of {pairs} pairs: lower that, or "
                "lengthen the phase"
            )


def describe_phases(plan: Plan, dimensions: Sequence[ModelConfig]) -> Iterator[str]:
    """Yield a line for each phase of a training, if it has any.

    Args:
        dimensions: those of the model in each phase.
    """
    last = 0
    for number, (steps, samples) in enumerate(plan.count_phases() if plan.config.phases else ()):
        first, last, of_phase = last + 1, last + steps, dimensions[number]
        yield (
            f"phase {number + 1}: steps {first:,} to {last:,}, {samples:,} samples, at most "
            f"{plan.config.batch_sizes[number]:,} pairs a step, {of_phase.vision_cfg.image_size} pixels, "
            f"{of_phase.text_cfg.context_length} tokens"
        )


def _cut(count: int, parts: int, index: int) -> tuple[int, int]:
    """Return begin and end of one of `parts` runs of range(count), equal to within one."""
    size, rest = divmod(count, parts)
    begin = index * size + min(index, rest)
    return begin, begin + size + (index < rest)
