"""Paired comparisons of variants that were trained with the same seeds and measured on the same images. No torch.

Seeds and images are crossed: each seed of a variant answers for each image. So the variance of a difference has three
parts, that of seeds, that of images, and that of both together, as with readers and cases in radiology:

    var = var_seeds + var_shared,    var_shared = var_images - var_both

`var_seeds` is the variance of the mean over seeds, which includes `var_both`. It is pooled over all variants, as in an
analysis of variance, because three seeds of two variants hardly show it. Those of images and of both are what a bootstrap
over classes converges to, in closed form: a class is drawn with all its images, since drawing again within the class would
count the noise of its images twice. A task that has few classes, or one image per class, draws images.

The two parts of `var` are known with very different degrees of freedom, which is the problem of Behrens and Fisher. The
quantile is Cochran's mean of Student's two, weighted by the parts. It keeps the stated rate of errors with any mix of the
parts: the degrees of freedom of Satterthwaite raise up to 7.8% of false alarms where they should raise 5%, as they become
large just when three seeds happen to agree. The seeds of training are drawn, and not those of the data.

Sources: Davison and Hinkley 1997, "Bootstrap methods and their application", section 3.8 (draws of hierarchical data);
Owen 2007, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2) (crossed factors); Cochran 1964, "Approximate
significance levels of the Behrens-Fisher test", Biometrics 20; Holm 1979, "A simple sequentially rejective multiple test
procedure", Scandinavian Journal of Statistics 6.

Shape suffixes: V variants, S seeds, N images, C classes that are drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import ceil, exp, log, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

MIN_CLASSES = 8
"""A task with fewer classes draws images: the variance of so few classes is hardly known."""
POWER = 0.8
"""Probability with which the numbers of `Needed` would find a difference of the measured size."""
LEAST_TAIL = 1e-100
"""Least probability of one tail that is looked for."""
MOST = 1000
"""Factor above which more seeds or images are no advice."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TaskScores:
    """How right each variant is on each image of a task, with each seed."""

    name: str
    scores_VSN: Floats
    weights_N: Floats
    classes_N: NDArray[Any]
    """Class of each image; any values."""


@dataclass(frozen=True)
class Needed:
    """What would distinguish two variants, if their difference is as measured; None where more would not do."""

    seeds: int | None
    """Number of seeds, on these images."""
    images: int | None
    """Number of images in all tasks, with these seeds."""


@dataclass(frozen=True)
class Comparison:
    """The difference of variant `second` from variant `first`."""

    first: int
    second: int
    difference: float
    low: float
    high: float
    p_value: float
    p_adjusted: float
    """Holm's, over all pairs of variants."""
    distinct: bool
    """Whether `p_adjusted` is below 1 - confidence."""
    needed: Needed | None
    """None where they are distinct, or equal on every image."""


@dataclass(frozen=True)
class _Variance:
    """The variance of a difference: that of seeds with the part that is of both, and that of images alone."""

    seeds: float
    both: float
    shared: float
    degrees_seeds: float
    degrees_images: float

    def scaled(self, seeds: float = 1.0, images: float = 1.0) -> "_Variance":
        """Return that with so many times the seeds and images."""
        both = self.both / (seeds * images)
        alone = max(self.seeds - self.both, 0.0) / seeds
        degrees = self.degrees_seeds * seeds, self.degrees_images * images
        return _Variance(alone + min(self.seeds / (seeds * images), both), both, self.shared / images, *degrees)

    def reach(self, tail: float) -> float:
        """Return the difference above which chance comes with a probability of `tail`."""
        from scipy.special import stdtrit  # slow to import

        total = self.seeds + self.shared
        of_seeds, of_images = stdtrit((self.degrees_seeds, self.degrees_images), tail)
        return -float(self.seeds * of_seeds + self.shared * of_images) / sqrt(total) if total else 0.0

    def p_value(self, difference: float) -> float:
        """Return the probability of a difference of at least this size by chance."""
        from scipy.optimize import brentq

        if not self.reach(LEAST_TAIL) or not difference:
            return float(difference == 0)
        if self.reach(LEAST_TAIL) <= abs(difference):
            return 2 * LEAST_TAIL
        found: Any = brentq(lambda tail: self.reach(exp(tail)) - abs(difference), log(LEAST_TAIL), log(0.5))
        return 2 * exp(found)


def compare_variants(
    tasks: Sequence[TaskScores], confidence: float = 0.95, further: Sequence[Floats] = ()
) -> list[Comparison]:
    """Compare each variant with each other, by the mean over tasks of their weighted scores.

    Args:
        tasks: with the same variants and seeds, at least two of both.
        confidence: of the intervals, and of all verdicts together.
        further: values of variants that are not compared, each by seed: they only show the noise of seeds.

    Returns: the pairs (0, 1), (0, 2), ..., (1, 2), ....
    Raises: ValueError if there are fewer than two variants or seeds, or no image.
    """
    variants, seeds = tasks[0].scores_VSN.shape[:2]
    if min(variants, seeds) < 2 or any(task.weights_N.sum() <= 0 for task in tasks):
        raise ValueError("a comparison needs two variants, two seeds and an image")
    values_VS = find_values(tasks)
    deviations = [_sum_classes(task) / len(tasks) for task in tasks]
    images = sum(task.weights_N.size for task in tasks)
    of_one, degrees = _find_noise([*values_VS, *further])
    of_seeds = 2 * of_one / seeds
    pairs = list(combinations(range(variants), 2))
    found = []
    for first, second in pairs:
        difference = float((values_VS[second] - values_VS[first]).mean())
        variance = _find_variance(of_seeds, degrees, [one[second] - one[first] for one in deviations])
        found.append((difference, variance, variance.p_value(difference)))
    adjusted = adjust_holm([p_value for _, _, p_value in found])
    comparisons = []
    for (first, second), (difference, variance, p_value), corrected in zip(pairs, found, adjusted, strict=True):
        half = variance.reach((1 - confidence) / 2)
        distinct = corrected < 1 - confidence
        tail = (1 - confidence) / len(pairs) / 2
        needed = None if distinct or not half else _find_needed(difference, variance, tail, seeds, images)
        low, high = difference - half, difference + half
        comparisons.append(Comparison(first, second, difference, low, high, p_value, corrected, distinct, needed))
    return comparisons


def adjust_holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values corrected for their number by Holm's method, in their order."""
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    stepped = np.minimum(np.maximum.accumulate(np.asarray(p_values, float)[order] * factors), 1.0)
    adjusted = np.empty(len(p_values))
    adjusted[order] = stepped
    return adjusted.tolist()


def find_values(tasks: Sequence[TaskScores]) -> Floats:
    """Return the mean over tasks of each variant and seed (V, S)."""
    return np.mean([_mean(task) for task in tasks], axis=0)


def _find_noise(values: Sequence[Floats]) -> tuple[float, int]:
    """Return the variance of one training about the sum of its variant and its seed, with its degrees of freedom.

    Args:
        values: of each variant, by its first seeds.
    """
    variants = np.repeat(np.arange(len(values)), [len(one) for one in values])
    seeds = np.concatenate([np.arange(len(one)) for one in values])
    design = np.hstack([np.eye(len(values))[variants], np.eye(seeds.max() + 1)[seeds][:, 1:]])
    measured = np.concatenate(values)
    residuals = measured - design @ np.linalg.lstsq(design, measured, rcond=None)[0]
    degrees = len(measured) - design.shape[1]
    return round(float((residuals**2).sum()), 20) / degrees, degrees


def _mean(task: TaskScores) -> Floats:
    return task.scores_VSN @ task.weights_N / task.weights_N.sum()


def _drawn_classes(task: TaskScores) -> NDArray[np.intp]:
    """Return the number of the class with which each image is drawn."""
    found, classes_N = np.unique(task.classes_N, return_inverse=True)
    return classes_N if len(found) >= MIN_CLASSES else np.arange(task.weights_N.size)


def _sum_classes(task: TaskScores) -> Floats:
    """Return by how much each class moves the mean of a variant and seed (V, S, C); their squares add up to a variance."""
    classes_N = _drawn_classes(task)
    order = np.argsort(classes_N, kind="stable")
    count = int(classes_N.max()) + 1
    starts = np.searchsorted(classes_N[order], np.arange(count))
    deviations_VSN = (task.scores_VSN - _mean(task)[:, :, None]) * task.weights_N / task.weights_N.sum()
    return np.add.reduceat(deviations_VSN[:, :, order], starts, axis=2) * sqrt(count / max(count - 1, 1))


def _find_variance(of_seeds: float, degrees: float, deviations: Sequence[Floats]) -> _Variance:
    """Return the variance of the mean difference.

    Args:
        of_seeds: that of seeds, with its degrees of freedom.
        deviations: by how much each class moves the difference in each task (S, C).
    """
    seeds = len(deviations[0])
    counted = np.array([max(one.shape[1] - 1, 1) for one in deviations])
    of_tasks = np.array([(one.mean(axis=0) ** 2).sum() for one in deviations])
    both = sum(float(((one - one.mean(axis=0)) ** 2).sum()) for one in deviations) / (seeds * (seeds - 1))
    images, squares = float(of_tasks.sum()), float((of_tasks**2 / counted).sum())
    degrees_images = images**2 / squares if squares else float(counted.max())
    return _Variance(of_seeds, both, max(images - both, 0.0), degrees, degrees_images)


def _find_needed(difference: float, variance: _Variance, tail: float, seeds: int, images: int) -> Needed:
    """Return the numbers with which a difference of this size would be found with POWER.

    Args:
        tail: half the error of the hardest of all verdicts, the first one of Holm's method.
    """

    def suffices(**factor: float) -> bool:
        scaled = variance.scaled(**factor)
        return abs(difference) >= scaled.reach(tail) + scaled.reach(1 - POWER)

    def find(name: str, least: int) -> int | None:
        if not suffices(**{name: MOST}):
            return None
        low, high = least, least * MOST
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if suffices(**{name: middle / least}) else (middle + 1, high)
        return ceil(low)

    return Needed(find("seeds", seeds), find("images", images))
