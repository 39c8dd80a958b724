"""Saturating laws of a metric over the samples that a training sees, with what they do not determine. No torch.

Between chance and its bound, 1 for a metric or 0 for a loss, a model has come the share

    share(samples) = gain / (1 + (middle / seen) ** exponent) / (1 + further / fall),   0 < gain <= 1

of the way: a slow start, and from the middle on a power law with a floor (Alabdulmohsin et al. 2022, "Revisiting neural
scaling laws in language and vision", M4 with alpha = 1; Hoffmann et al. 2022, "Training compute-optimal large language
models", section 3.3; Cherti et al. 2023, "Reproducible scaling laws for contrastive language-image learning"). Samples of
further epochs teach less and less (Muennighoff et al. 2023, "Scaling data-constrained language models", equation 5):

    seen(samples) = pairs + pairs * worth * (1 - exp(-further / worth)),   further = max(samples / pairs - 1, 0)

and in the end they harm, since a model learns its pairs by heart. The factor with `fall`, the further epochs that halve
what was reached, is of no published law: without it, no forecast can be of a metric that falls.

The posterior is computed on a grid of middle, exponent, worth and fall; given these four, the law is linear. The logarithms
of the last three have normal priors, chosen by 96 ladders (docs/decisions/evaluation.md); those of middle, gain and noise
flat ones. So an interval has the uncertainty of all parameters, also of those that a ladder does not show, such as what
further epochs are worth, and the noise of a run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from plugins.experiments.comparisons import Floats

MIDDLES = np.geomspace(0.001, 10, 40)
"""Middles that are tried, as multiples of the largest training: later ones made 64 forecasts less exact, and no safer."""
EXPONENTS = np.geomspace(0.2, 3, 20)
WORTHS = np.geomspace(1, 64, 6)
"""Epochs that all further ones can be worth."""
FALLS = np.geomspace(3, 30_000, 9)
"""Further epochs that halve what was reached."""
PRIORS = {1: (1.2, 0.5), 2: (6.0, 1.0), 3: (200.0, 2.5)}
"""Median of exponent, worth and fall, and the standard deviation of their logarithms. Published exponents lie between 0.1
and 0.9 beyond the middle, and further epochs of language models are worth 15."""
REFINEMENTS = 3
"""Times that the grid is narrowed to where the posterior is: trainings with little noise need a finer one."""
NEGLIGIBLE = 1e-5
"""Probability, as a share of the highest one, of what lies outside of the narrowed grid."""
DRAWS = 10_000
MIN_SCALES = 3
"""Scales that a law of three parameters needs."""
WIDE = 0.5
"""Share of the metric above chance beyond which an interval is too wide to be a forecast."""
LEAST_NOISE = 0.003
"""Added to the variance of a share, `share * (1 - share)`, by which trainings are weighted."""
LEAST_REST = 1e-9
"""Added to the sum of squares that a law leaves: trainings that agree exactly determine no noise."""
LEAST_ALLOWED = 0.01
"""Least probability that the metric rises, to its bound at most."""
MISFIT = 0.001
"""Probability by chance below which no law fits, such as to a metric that falls."""
LEAST_MISS = 1e-4
"""Least weighted variance of a run that is assumed there: a law is not refused for misses below a hundredth."""
FARTHEST = 1000.0
"""Multiple of the largest training beyond which nothing is forecast."""


@dataclass(frozen=True)
class Expected:
    """The forecast of a metric, or of a number of samples: the median and the ends of the interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """Draws from the laws that agree with what was measured."""

    largest: float
    """Samples of the largest training that it is fitted on."""
    chance: float
    bound: float
    pairs: float
    """Pairs of the dataset, from which on samples are repeated."""
    gains: Floats
    middles: Floats
    exponents: Floats
    worths: Floats
    falls: Floats
    noise: Floats
    """Standard deviation of one run, as a multiple of that of its share."""

    def draw(self, samples: float) -> Floats:
        """Return the metric at a number of samples, for each draw, without the noise of a run."""
        return self._measure(self._find_share(samples))

    def expect(self, samples: float, *, runs: int = 1, confidence: float = 0.95) -> Expected:
        """Return the mean of so many runs with other seeds."""
        shares = self._find_share(samples)
        deviations = self.noise * np.sqrt((shares * (1 - shares) + LEAST_NOISE) / runs)
        found = self._measure(shares + np.random.default_rng(1).normal(0, deviations))
        least, most = sorted((0.0 if self.bound else np.inf, self.bound))
        return _summarise(np.clip(found, least, most), confidence)

    def find_samples(self, target: float) -> Expected | None:
        """Return the samples that first reach a metric, to 1.4%; None if most draws never do. An end may be infinite."""
        share = (target - self.chance) / (self.bound - self.chance)
        sizes = self.largest * np.geomspace(1 / FARTHEST, FARTHEST, 1000)
        reached = np.array([self._find_share(size) >= share for size in sizes])
        samples = np.where(reached.any(axis=0), sizes[np.argmax(reached, axis=0)], np.inf)
        found = _summarise(samples)
        return found if np.isfinite(found.value) else None

    def _find_share(self, samples: float) -> Floats:
        return self.gains * _shape(np.array(samples), self.pairs, self.middles, self.exponents, self.worths, self.falls)

    def _measure(self, shares: Floats) -> Floats:
        return self.chance + (self.bound - self.chance) * shares


def count_seen(samples: Floats, pairs: float, worths: Floats) -> Floats:
    """Return how many samples without repetition those of several epochs are worth."""
    further = worths * -np.expm1(-np.maximum(samples / pairs - 1, 0) / worths)
    return np.minimum(samples, pairs) + (further * pairs if np.isfinite(pairs) else 0)


def _shape(samples: Floats, pairs: float, middles: Floats, exponents: Floats, worths: Floats, falls: Floats) -> Floats:
    """Return the share of the law with a gain of 1."""
    further = np.maximum(samples / pairs - 1, 0)
    return 1 / (1 + (middles / count_seen(samples, pairs, worths)) ** exponents) / (1 + further / falls)


def fit_curve(
    samples: Sequence[float],
    values: Sequence[float],
    *,
    chance: float = 0.0,
    bound: float = 1.0,
    pairs: float = np.inf,
) -> Curve | None:
    """Return the laws that agree with the trainings of a ladder; None if it determines none.

    Args:
        samples: that each training saw; several trainings may have the same number, with other seeds.
        values: the metric of each training, or its loss.
        chance: what a model that has learnt nothing measures.
        bound: the best value: 1 for a share, 0 for a loss.
        pairs: of the dataset.
    """
    sizes, shares = np.asarray(samples, float), (np.asarray(values, float) - chance) / (bound - chance)
    if len(np.unique(sizes)) < MIN_SCALES or len(sizes) < MIN_SCALES + 1:
        return None
    from scipy.special import stdtrit

    largest, degrees = float(sizes.max()), len(sizes) - 1
    means = np.clip([shares[sizes == size].mean() for size in sizes], 0, 1)
    weights = 1 / (means * (1 - means) + LEAST_NOISE)
    axes = [MIDDLES * largest, EXPONENTS, *((WORTHS, FALLS) if np.isfinite(pairs) else (WORTHS[:1], FALLS[-1:]))]
    for _ in range(REFINEMENTS):
        chances = _compute_posterior(axes, sizes, shares, weights, pairs).chances
        axes = [_narrow(axis, chances.max(axis=tuple({0, 1, 2, 3} - {place}))) for place, axis in enumerate(axes)]
    grid = _compute_posterior(axes, sizes, shares, weights, pairs)
    if grid.allowed.max() < LEAST_ALLOWED or _misses(sizes, shares, weights, float(grid.rests.min())):
        return None
    generator = np.random.default_rng(0)
    flat = generator.choice(grid.chances.size, DRAWS, p=grid.chances.ravel() / grid.chances.sum())
    chosen = np.unravel_index(flat, grid.chances.shape)
    best, rests, grams = grid.gains[chosen], grid.rests[chosen], grid.grams[chosen]
    ends = grid.lowest[chosen], grid.lowest[chosen] + grid.allowed[chosen]
    gains = best + stdtrit(degrees, generator.uniform(*ends)) * np.sqrt(rests / degrees / grams)
    noise = np.sqrt((rests + grams * (gains - best) ** 2) / generator.chisquare(degrees + 1, DRAWS))
    middles, exponents, worths, falls = (axis[places] for axis, places in zip(axes, chosen, strict=True))
    return Curve(largest, chance, bound, pairs, np.clip(gains, 0, 1), middles, exponents, worths, falls, noise)


class _Grid(NamedTuple):
    """The laws of a grid, by middle, exponent, worth and fall."""

    gains: Floats
    """Of the best fit."""
    rests: Floats
    """Weighted sums of squares that it leaves."""
    grams: Floats
    """Precision of the gain, for a noise of 1."""
    lowest: Floats
    """Probability of a gain below 0."""
    allowed: Floats
    """Probability of a gain from 0 to 1."""
    chances: Floats
    """Probability of the law, as a share of the highest one."""


def _compute_posterior(axes: Sequence[Floats], sizes: Floats, shares: Floats, weights: Floats, pairs: float) -> _Grid:
    from scipy.special import stdtr  # slow to import

    grid = [axis[..., None] for axis in np.meshgrid(*axes, indexing="ij")]
    shapes = _shape(sizes, pairs, *grid)  # the last axis: trainings
    grams, degrees = shapes**2 @ weights, len(sizes) - 1
    gains = shapes @ (weights * shares) / grams
    rests = (shares - gains[..., None] * shapes) ** 2 @ weights + LEAST_REST
    error = np.sqrt(rests / degrees / grams)
    lowest = stdtr(degrees, -gains / error)
    allowed = stdtr(degrees, (1 - gains) / error) - lowest
    logs = -degrees / 2 * np.log(rests) - np.log(grams) / 2 - np.log(np.clip(gains, LEAST_NOISE, 1))
    for place, (usual, spread) in PRIORS.items():
        logs -= (np.log(grid[place][..., 0] / usual) / spread) ** 2 / 2
    chances = allowed * np.exp(logs - logs.max())
    return _Grid(gains, rests, grams, lowest, allowed, chances / max(chances.max(), np.finfo(float).tiny))


def _misses(sizes: Floats, shares: Floats, weights: Floats, rest: float) -> bool:
    """Return whether the best law misses the means of the scales by more than the noise of seeds explains (F test)."""
    from scipy.special import fdtrc

    groups = [(shares[sizes == size], weights[sizes == size]) for size in np.unique(sizes)]
    noise = sum(float(weight @ (one - one.mean()) ** 2) for one, weight in groups)
    degrees, more = len(sizes) - len(groups), len(groups) - MIN_SCALES
    if not more or not degrees:
        return False
    return bool(fdtrc(more, degrees, max(rest - noise, 0) / more / max(noise / degrees, LEAST_MISS)) < MISFIT)


def _narrow(axis: Floats, chances: Floats) -> Floats:
    """Return as many values between the neighbours of those that are not negligible."""
    found = np.flatnonzero(chances > NEGLIGIBLE)
    ends = axis[max(found[0] - 1, 0)], axis[min(found[-1] + 1, len(axis) - 1)]
    return np.geomspace(*ends, len(axis))


def is_determined(expected: Expected, chance: float = 0.0) -> bool:
    """Return whether an interval is narrow enough to be called a forecast."""
    return expected.high - expected.low <= WIDE * abs(expected.value - chance)


def find_crossing(first: Curve, second: Curve, confidence: float = 0.95) -> Expected | None:
    """Return the samples, above those measured, from which the other curve is ahead; None if most draws have none."""
    count = min(len(first.noise), len(second.noise), 2000)
    start = max(first.largest, second.largest)
    sizes = np.geomspace(start, start * FARTHEST, 400)
    gaps = np.array([first.draw(size)[:count] - second.draw(size)[:count] for size in sizes])
    leads = np.sign(np.median(gaps[0])) or 1.0
    crossed = gaps * leads < 0
    found = np.where(crossed.any(axis=0), sizes[np.argmax(crossed, axis=0)], np.inf)
    summary = _summarise(found, confidence)
    return summary if start < summary.value < np.inf else None


def _summarise(draws: Floats, confidence: float = 0.95) -> Expected:
    ends = np.quantile(draws, [0.5, (1 - confidence) / 2, (1 + confidence) / 2], method="nearest")
    return Expected(*map(float, ends))
