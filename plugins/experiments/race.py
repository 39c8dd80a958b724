"""Stop training variants that can no longer win, at the stated rate of errors.

The looks after each seed are those of a group-sequential test. A variant is dropped at a look if it is worse than another
one. It is an error to drop the best variant, which is one hypothesis for each rival: a p-value of one side, corrected for
the number of rivals by Bonferroni's method. All looks together may err with the probability `1 - confidence`, of which a
look gets what Lan and DeMets' function of O'Brien and Fleming's bounds spends: little at first, most at the end. The looks
depend on each other, and share the noise of the test images, so that no joint distribution is computed: by Bonferroni's
inequality, errors that add up to the stated one keep it under any dependence. Dropped variants still show the noise of
seeds.

Sources: Lan and DeMets 1983, "Discrete sequential boundaries for clinical trials", Biometrika 70; O'Brien and Fleming 1979,
"A multiple testing procedure for clinical trials", Biometrics 35; Hsu 1984, "Constrained simultaneous confidence intervals
for multiple comparisons with the best", Annals of Statistics 12 (which variants may be the best).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from math import sqrt

from plugins.experiments.comparisons import Comparison, TaskScores, compare_variants, find_values

FIRST_LOOK = 2
"""Seeds of the first look: one shows no noise."""
Read = Callable[[Sequence[int], int], Sequence[Sequence[TaskScores]]]
"""Returns the tasks of some variants with their first seeds: all images; and those that are in no training data, if others
are."""


def spend(share: float, error: float) -> float:
    """Return the part of an error that may be spent until a share of the seeds is trained."""
    from scipy.special import ndtr, ndtri  # slow to import

    return 2 * float(ndtr(ndtri(error / 2) / sqrt(share)))


class Race:
    """The comparisons of an experiment so far.

    Args:
        variants: their number.
        seeds: of a variant that is not dropped.
        racing: whether there is a look after each seed; without, only the last one, and its verdicts are those of
            `compare_variants`.
    """

    def __init__(self, variants: int, seeds: int, confidence: float, *, racing: bool):
        self.rivals, self.seeds, self.confidence, self.racing = variants - 1, seeds, confidence, racing
        self.active = list(range(variants))
        self.found: dict[tuple[int, int], Comparison] = {}
        """The last comparison of each pair."""
        self.clean: dict[tuple[int, int], Comparison] = {}
        """The same without the test images that are in training data; empty if there are none."""
        self.dropped: dict[int, tuple[int, int]] = {}
        """The variants that are dropped, each with a better one and the number of its seeds."""
        self._spent = 0.0

    def take(self, read: Read, seeds: int) -> None:
        """Take the look after a number of seeds, unless there is none, or one variant is left."""
        if len(self.active) < 2 or (seeds < self.seeds and not self.racing):
            return
        pairs, error = list(combinations(self.active, 2)), 1 - self.confidence
        before, self._spent = self._spent, spend(seeds / self.seeds, error)
        share = (self._spent - before) / error
        lost = [read([index], own) for index, (_, own) in self.dropped.items()]
        for number, (known, tasks) in enumerate(zip((self.found, self.clean), read(self.active, seeds), strict=False)):
            if not tasks:
                continue
            further = [find_values(one[number])[0] for one in lost]
            for pair, one in zip(pairs, compare_variants(tasks, self.confidence, further), strict=True):
                known[pair] = replace(self._correct(one, share), first=pair[0], second=pair[1])
        for pair in pairs:
            verdicts = {_find_worse(known[pair]) for known in (self.found, self.clean) if known}
            worse = verdicts.pop()
            if self.racing and worse is not None and not verdicts:
                self.dropped.setdefault(worse, (sum(pair) - worse, seeds))
        self.active = [index for index in self.active if index not in self.dropped]

    def _correct(self, one: Comparison, share: float) -> Comparison:
        """Return a comparison with the verdict of a race: whether the worse variant is not the best one."""
        if not self.racing:
            return one
        corrected = min(one.p_value / 2 * self.rivals / share, 1.0)
        return replace(one, p_adjusted=corrected, distinct=corrected < 1 - self.confidence)


def _find_worse(one: Comparison) -> int | None:
    if not one.distinct:
        return None
    return one.first if one.difference > 0 else one.second
