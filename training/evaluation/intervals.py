"""Intervals of measured proportions, the figures of chance, and rows for reports. No torch."""

from collections.abc import Callable, Iterable, Mapping
from math import comb
from typing import Any

import numpy as np

from training.evaluation.measures import current_name

CONFIDENCE = 0.995
"""Confidence of all intervals, as in the paper's tables. Source: Radford et al. 2021, appendix A.3 and section 5."""
RESAMPLES = 2000
"""Resamples of a bootstrap: 5 of them lie outside the interval on each side."""


def clopper_pearson_interval(successes: int, n: int) -> tuple[float, float]:
    """Return the exact binomial interval: at any n it covers the true proportion at least as often as CONFIDENCE.

    It covers the drawing of test images only, not seeds or data of the training.

    Raises: ValueError unless 0 <= successes <= n and n > 0.
    Source: Clopper and Pearson 1934, "The use of confidence or fiducial limits illustrated in the case of the
        binomial", Biometrika 26; as quantiles of the beta distribution.
    """
    from scipy.special import betaincinv  # slow to import

    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} of {n} is no proportion_record")
    tail = (1 - CONFIDENCE) / 2
    low = 0.0 if successes == 0 else float(betaincinv(successes, n - successes + 1, tail))
    high = 1.0 if successes == n else float(betaincinv(successes + 1, n - successes, 1 - tail))
    return low, high


def proportion_record(successes: int, n: int, chance: float) -> dict[str, float | int | None]:
    """Return a metric's record: value, low, high (99.5%), chance and its own n."""
    low, high = clopper_pearson_interval(successes, n)
    return {"value": successes / n, "low": low, "high": high, "chance": chance, "n": n}


def bootstrap_interval(
    n: int, figure: Callable[[np.ndarray], float], resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Return the percentile interval of a figure over n examples, resampled with replacement; the same at each call.

    Args:
        figure: takes how often each example was drawn, (n,) whole numbers that sum to n.

    Source: Efron and Tibshirani 1993, "An introduction to the bootstrap", section 13.3.
    """
    draws = np.random.default_rng(0)
    figures = [figure(np.bincount(draws.integers(0, n, n), minlength=n)) for _ in range(resamples)]
    low, high = np.quantile(figures, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def expected_recall(k: int, right: Iterable[int], gallery: int) -> float:
    """Return R@k of a random ranking: the mean over queries of 1 - C(gallery - right, k) / C(gallery, k).

    Args:
        right: number of right items in the gallery, for each query.
        gallery: number of items that are ranked.

    Source: the hypergeometric probability of at least one hit in k draws without replacement.
    """
    counts: dict[int, int] = {}
    for value in right:
        counts[value] = counts.get(value, 0) + 1
    k = min(k, gallery)
    hits = {value: 1 - comb(gallery - value, k) / comb(gallery, k) for value in counts}
    return sum(hits[value] * times for value, times in sorted(counts.items())) / sum(counts.values())


def flatten_metrics(metrics: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Flatten metrics.json to rows for a table or a tracker, in the order of the file.

    Returns: task, metric, key (`<task>/<metric>`), value, low, high, chance, n. low and high are None where no valid
        interval is known.
    """
    return [
        {
            "task": task,
            "metric": (name := current_name(metric)),
            "key": f"{task}/{name}",
            **{name: record.get(name) for name in ("value", "low", "high", "chance")},
            "n": record.get("n", result["n"]),
        }
        for task, result in metrics.items()
        for metric, record in result["metrics"].items()
    ]
