"""Saturating power laws of a metric over the samples that a training sees, with what they do not determine. No torch.

A metric that rises to at most 1, or a loss that falls to at least 0, has a distance from its bound of

    distance(samples) = floor + slope * samples ** -exponent,   floor, slope >= 0

(Hoffmann et al. 2022, "Training compute-optimal large language models", section 3.3; Cherti et al. 2023, "Reproducible
scaling laws for contrastive language-image learning"; Nezhurina et al. 2025, arXiv 2506.04598, which compare datasets by
their laws). Given the exponent, the law is linear. Its posterior is computed on a grid of exponents, with flat priors on
the two ends of the ladder and on the logarithms of the exponent and of the noise, and drawn from. So an interval has the
uncertainty of all parameters, and the noise of a run: that of seeds, and of what the law misses.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from plugins.experiments.comparisons import Floats

EXPONENTS = np.geomspace(0.05, 2.0, 500)
"""Exponents that are tried; published ones lie between 0.1 and 0.9."""
DRAWS = 10_000
MIN_SCALES = 3
"""Scales that a law of three parameters needs."""
WIDE = 0.5
"""Share of the metric above chance beyond which an interval is too wide to be a forecast."""
MISFIT = 0.001
"""Probability by chance below which a law does not fit: trainings too short to learn rise faster than any law."""
LEAST_NOISE = 1e-6
"""Least variance of a run that is assumed: a law is not refused for misses below a thousandth."""
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
    exponents: Floats
    slopes: Floats
    floors: Floats
    noise: Floats
    """Standard deviation of one run."""
    is_loss: bool = False

    def draw(self, samples: float) -> Floats:
        """Return the metric at a number of samples, for each draw, without the noise of a run."""
        distances = self.floors + self.slopes * (samples / self.largest) ** -self.exponents
        return distances if self.is_loss else 1 - distances

    def expect(self, samples: float, *, runs: int = 1, confidence: float = 0.95) -> Expected:
        """Return the mean of so many runs with other seeds."""
        noise = np.random.default_rng(1).normal(0, 1, len(self.noise)) * self.noise / np.sqrt(runs)
        least, most = (0.0, np.inf) if self.is_loss else (0.0, 1.0)
        return _summarise(np.clip(self.draw(samples) + noise, least, most), confidence)

    def find_samples(self, target: float, confidence: float = 0.95) -> Expected | None:
        """Return how many samples reach a metric; None if most draws never do. An end may be infinite."""
        room = (target if self.is_loss else 1 - target) - self.floors
        with np.errstate(over="ignore"):
            ratios = np.full(len(room), np.inf)
            ratios[room > 0] = (self.slopes[room > 0] / room[room > 0]) ** (1 / self.exponents[room > 0])
        found = _summarise(self.largest * np.where(ratios > FARTHEST, np.inf, ratios), confidence)
        return found if np.isfinite(found.value) else None


def fit_curve(samples: Sequence[float], values: Sequence[float], *, is_loss: bool = False) -> Curve | None:
    """Return the laws that agree with the trainings of a ladder; None if it determines none, or no law fits.

    Args:
        samples: that each training saw; several trainings may have the same number, with other seeds.
        values: the metric of each training, a share; or its loss.
    """
    sizes = np.asarray(samples, float)
    distances = np.asarray(values, float) if is_loss else 1 - np.asarray(values, float)
    if len(np.unique(sizes)) < MIN_SCALES or len(sizes) < MIN_SCALES + 1:
        return None
    generator, largest = np.random.default_rng(0), float(sizes.max())
    degrees = len(sizes) - 2
    powers = (sizes / largest) ** -EXPONENTS[:, None]
    shape = (powers - 1) / (powers.max(axis=1, keepdims=True) - 1)  # 1 at the smallest scale, 0 at the largest
    designs = np.stack([shape, 1 - shape], axis=2)  # exponent, training, end of the ladder
    grams = designs.transpose(0, 2, 1) @ designs
    inverses = np.linalg.inv(grams)
    at_best = inverses @ (designs.transpose(0, 2, 1) @ distances[:, None])
    rests = np.maximum(((distances - (designs @ at_best)[:, :, 0]) ** 2).sum(axis=1), 1e-12)
    if _misses(sizes, distances, float(rests.min())):
        return None
    weights = -degrees / 2 * np.log(rests) - np.linalg.slogdet(grams)[1] / 2
    chances = np.exp(weights - weights.max())
    chosen = generator.choice(len(EXPONENTS), DRAWS, p=chances / chances.sum())
    noise = np.sqrt(rests[chosen] / generator.chisquare(degrees, DRAWS))
    deviations = np.linalg.cholesky(inverses)[chosen] @ generator.normal(0, 1, (DRAWS, 2, 1))
    at_ends = at_best[chosen, :, 0] + noise[:, None] * deviations[:, :, 0]
    exponents = EXPONENTS[chosen]
    slopes = (at_ends[:, 0] - at_ends[:, 1]) / ((float(sizes.min()) / largest) ** -exponents - 1)
    floors = at_ends[:, 1] - slopes
    allowed = (slopes >= 0) & (floors >= 0)
    if allowed.mean() < 0.01:
        return None
    return Curve(largest, exponents[allowed], slopes[allowed], floors[allowed], noise[allowed], is_loss)


def _misses(sizes: Floats, distances: Floats, rest: float) -> bool:
    """Return whether the best law misses the means of the scales by more than the noise of seeds explains (F test)."""
    from scipy.special import fdtrc  # slow to import

    groups = [distances[sizes == size] for size in np.unique(sizes)]
    noise, degrees = sum(float(((one - one.mean()) ** 2).sum()) for one in groups), len(sizes) - len(groups)
    more = len(groups) - MIN_SCALES
    if not more or not degrees:
        return False
    return bool(fdtrc(more, degrees, (rest - noise) / more / max(noise / degrees, LEAST_NOISE)) < MISFIT)


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


def _summarise(draws: Floats, confidence: float) -> Expected:
    ends = np.quantile(draws, [0.5, (1 - confidence) / 2, (1 + confidence) / 2], method="nearest")
    return Expected(*map(float, ends))
