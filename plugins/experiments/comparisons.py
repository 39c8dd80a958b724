"""Paired comparisons of variants that were trained with the same seeds and measured on the same images. No torch.

Seeds and images are crossed: each seed of a variant answers for each image. So the variance of a difference has three
parts, that of seeds, that of images, and that of both together, as with readers and cases in radiology:

    var = var_seeds + var_images - var_both

`var_seeds` is the variance of the mean over seeds. It is pooled over all variants, as in an analysis of variance, because
three seeds of two variants hardly show it. Those of images and of both come from a bootstrap over classes: a class is drawn
with all its images, since drawing again within the class would count the noise of its images twice. A task that has few
classes, or one image per class, draws images. Intervals are of Student's t with Satterthwaite's degrees of freedom, because
percentiles of a bootstrap over three seeds are far too narrow. The seeds of training are drawn, and not those of the data.

Sources: Davison and Hinkley 1997, "Bootstrap methods and their application", section 3.8 (draws of hierarchical data);
Owen 2007, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2) (crossed factors); Hillis 2007, "A comparison of
denominator degrees of freedom methods for multiple observer ROC analysis", Statistics in Medicine 26; Holm 1979, "A simple
sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6.

Shape suffixes: V variants, S seeds, N images, C classes that are drawn, B draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import ceil, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
"""Number of draws; the standard error of an interval's width is then below 2%."""
MIN_CLASSES = 8
"""A task with fewer classes draws images: the variance of so few classes is hardly known."""
POWER = 0.8
"""Probability with which the numbers of `Needed` would find a difference of the measured size."""
SHRINKING = 0.1
"""Exponent of the share of `var_seeds` that is of seeds alone, by which its uncertainty counts. Over all mixes of the three
parts, simulated intervals then cover 94 to 98%, and verdicts raise false alarms in 2.4 to 6.7% of experiments at 95%
(30 November 2026). Without it the intervals would cover up to 99.7%, since seeds alone hardly matter in many trainings."""
FEW_DEGREES = 4
"""Degrees of freedom of seeds below which they are those of the whole variance: intervals are too wide, and never too
narrow."""
MOST = 1000
"""Factor above which more seeds or images are no advice."""
_CELLS = 1 << 22
"""Numbers in memory at a time."""

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
    seeds: float
    images: float
    both: float
    degrees_seeds: float
    degrees_images: float

    def scaled(self, seeds: float = 1.0, images: float = 1.0) -> tuple[float, float]:
        """Return the variance and its degrees of freedom with so many times the seeds and images."""
        both = self.both / (seeds * images)
        alone = max(self.seeds - self.both, 0.0) / seeds
        shared = min(self.both / self.images, 1.0) if self.images else 0.0
        of_images = self.images * (1 - shared + shared / seeds) / images
        total = alone + of_images
        if not total:
            return 0.0, 1.0
        degrees_seeds = self.degrees_seeds * seeds
        share = alone / (alone + both) if alone else 0.0
        if degrees_seeds < FEW_DEGREES:
            return total, degrees_seeds
        parts = share**SHRINKING * (alone + both) ** 2 / degrees_seeds + of_images**2 / (self.degrees_images * images)
        return total, total**2 / parts


def compare_variants(
    tasks: Sequence[TaskScores], confidence: float = 0.95, *, resamples: int = RESAMPLES, seed: int = 0
) -> list[Comparison]:
    """Compare each variant with each other, by the mean over tasks of their weighted scores.

    Args:
        tasks: with the same variants and seeds, at least two of both.
        confidence: of the intervals, and of all verdicts together.
        seed: of the draws: the same arguments give the same bits.

    Returns: the pairs (0, 1), (0, 2), ..., (1, 2), ....
    Raises: ValueError if there are fewer than two variants or seeds, or no image.
    """
    variants, seeds = tasks[0].scores_VSN.shape[:2]
    if min(variants, seeds) < 2 or any(task.weights_N.sum() <= 0 for task in tasks):
        raise ValueError("a comparison needs two variants, two seeds and an image")
    generator = np.random.default_rng(seed)
    values_VS = np.mean([_mean(task) for task in tasks], axis=0)
    drawn = [_draw(task, resamples, generator) / len(tasks) for task in tasks]
    counted = [len(np.unique(_drawn_classes(task))) for task in tasks]
    images = sum(task.weights_N.size for task in tasks)
    residuals_VS = values_VS - values_VS.mean(axis=0) - values_VS.mean(axis=1, keepdims=True) + values_VS.mean()
    pooled = float((residuals_VS**2).sum()) / ((variants - 1) * (seeds - 1))
    pairs = list(combinations(range(variants), 2))
    found = []
    for first, second in pairs:
        difference_S = values_VS[second] - values_VS[first]
        of_seeds = 2 * pooled / seeds, (variants - 1) * (seeds - 1)
        variance = _find_variance(of_seeds, seeds, [one[:, second] - one[:, first] for one in drawn], counted)
        found.append((float(difference_S.mean()), variance))
    p_values = [_p_value(difference, variance) for difference, variance in found]
    adjusted = adjust_holm(p_values)
    comparisons = []
    for (first, second), (difference, variance), p_value, corrected in zip(
        pairs, found, p_values, adjusted, strict=True
    ):
        total, degrees = variance.scaled()
        half = _quantile((1 + confidence) / 2, degrees) * sqrt(total)
        distinct = corrected < 1 - confidence
        level = 1 - (1 - confidence) / len(pairs)
        needed = None if distinct or not total else _find_needed(difference, variance, level, seeds, images)
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


def _mean(task: TaskScores) -> Floats:
    return task.scores_VSN @ task.weights_N / task.weights_N.sum()


def _drawn_classes(task: TaskScores) -> NDArray[np.intp]:
    """Return the number of the class with which each image is drawn."""
    found, classes_N = np.unique(task.classes_N, return_inverse=True)
    return classes_N if len(found) >= MIN_CLASSES else np.arange(task.weights_N.size)


def _draw(task: TaskScores, resamples: int, generator: np.random.Generator) -> Floats:
    """Return the deviation of each draw of classes from the measured values (B, V, S), without the bias of few classes."""
    variants, seeds, _ = task.scores_VSN.shape
    classes_N = _drawn_classes(task)
    count = int(classes_N.max()) + 1
    order = np.argsort(classes_N, kind="stable")
    starts = np.searchsorted(classes_N[order], np.arange(count))
    weighted = (task.scores_VSN * task.weights_N).reshape(variants * seeds, -1)[:, order]
    sums_CX = np.add.reduceat(weighted, starts, axis=1).T
    weights_C = np.add.reduceat(task.weights_N[order], starts)
    sums_CX = sums_CX - weights_C[:, None] * _mean(task).reshape(-1)
    step = max(_CELLS // count, 1)
    chunks = []
    for start in range(0, resamples, step):
        drawn_BC = generator.multinomial(count, np.full(count, 1 / count), size=min(step, resamples - start))
        weights_B1 = np.maximum(drawn_BC @ weights_C, weights_C[weights_C > 0].min())[:, None]
        chunks.append(drawn_BC @ sums_CX / weights_B1)
    deviations_BX = np.concatenate(chunks) * sqrt(count / max(count - 1, 1))
    return deviations_BX.reshape(-1, variants, seeds)


def _find_variance(
    of_seeds: tuple[float, float], seeds: int, drawn: Sequence[Floats], counted: Sequence[int]
) -> _Variance:
    """Return the variance of the mean difference.

    Args:
        of_seeds: that of seeds, with its degrees of freedom.
        drawn: deviations of the differences in each task (B, S).
        counted: number of classes that are drawn in each task.
    """
    of_tasks = np.array([one.mean(axis=1).var() for one in drawn])
    both = sum((one - one.mean(axis=1, keepdims=True)).var(axis=0).sum() for one in drawn) / (seeds * (seeds - 1))
    squares = float((of_tasks**2 / np.maximum(np.array(counted) - 1, 1)).sum())
    images = float(of_tasks.sum())
    degrees = images**2 / squares if squares else float(max(counted))
    return _Variance(of_seeds[0], images, float(both), of_seeds[1], degrees)


def _quantile(probability: float, degrees: float) -> float:
    from scipy.special import stdtrit  # slow to import

    return float(stdtrit(degrees, probability))


def _p_value(difference: float, variance: _Variance) -> float:
    from scipy.special import stdtr

    total, degrees = variance.scaled()
    if not total:
        return float(difference == 0)
    return float(2 * stdtr(degrees, -abs(difference) / sqrt(total)))


def _find_needed(difference: float, variance: _Variance, level: float, seeds: int, images: int) -> Needed:
    """Return the numbers with which a difference of this size would be found with POWER.

    Args:
        level: confidence of the hardest of all verdicts, the first one of Holm's method.
    """

    def suffices(**factor: float) -> bool:
        total, degrees = variance.scaled(**factor)
        reach = _quantile((1 + level) / 2, degrees) + _quantile(POWER, degrees)
        return abs(difference) >= reach * sqrt(total)

    def find(name: str, least: int) -> int | None:
        if not suffices(**{name: MOST}):
            return None
        low, high = least, least * MOST
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if suffices(**{name: middle / least}) else (middle + 1, high)
        return ceil(low)

    return Needed(find("seeds", seeds), find("images", images))
