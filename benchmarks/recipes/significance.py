"""Compare two recipes that were trained with several seeds, image by image."""

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import pyarrow as pa

from training.evaluation.comparison import compare, score_images
from training.evaluation.intervals import CONFIDENCE, bootstrap_interval

POWER = 0.8
"""Probability with which a difference as large as the measured one should be found."""


def compare_seeds(first: Sequence[pa.Table], second: Sequence[pa.Table]) -> dict[str, Any]:
    """Compare the predictions of one task: those of two recipes, a table for each seed.

    Returns: first, second (mean top-1), difference, low, high (a bootstrap over images of the mean over the seeds),
        p_values (McNemar's, of each seed), verdict on the first: better or worse if the interval does not hold 0 and the
        difference has the same sign for each seed; images_needed.
    Raises: ContractError if they are not of the same images.
    """
    single = [compare(one, other)["top1"] for one, other in zip(first, second, strict=True)]
    ours_N, theirs_N = (
        np.mean([score_images(table)["top1"] for table in tables], axis=0) for tables in (first, second)
    )
    difference_N = ours_N - theirs_N
    n, difference = len(difference_N), float(difference_N.mean())
    low, high = bootstrap_interval(n, lambda drawn: float(difference_N @ drawn) / n)
    signs = {np.sign(one["difference"]) for one in single}
    is_distinct = (low > 0 or high < 0) and len(signs) == 1
    return {
        "first": float(ours_N.mean()),
        "second": float(theirs_N.mean()),
        "difference": difference,
        "low": low,
        "high": high,
        "p_values": [one["p_value"] for one in single],
        "verdict": "not distinguishable" if not is_distinct else "better" if difference > 0 else "worse",
        "n": n,
        "images_needed": count_images_needed(difference_N),
    }


def count_images_needed(difference_N: np.ndarray) -> int | None:
    """Return how many test images would show the mean difference, at CONFIDENCE and with POWER; None if it is 0.

    Source: the sample size of a paired comparison of means, by the normal approximation.
    """
    difference = float(difference_N.mean())
    if math.isclose(difference, 0, abs_tol=1e-12):  # its terms cancel but for rounding
        return None
    normal = NormalDist()
    quantiles = normal.inv_cdf(1 - (1 - CONFIDENCE) / 2) + normal.inv_cdf(POWER)
    return math.ceil(quantiles**2 * float(difference_N.var()) / difference**2)


def choose_epochs(sizes: Mapping[str, float], samples: int) -> dict[str, int]:
    """Return the epochs of each dataset with which all see nearly equally many samples, near the wanted number.

    Args:
        sizes: samples of an epoch, by dataset.
    """

    def count(total: int) -> dict[str, int]:
        return {name: max(round(total / size), 1) for name, size in sizes.items()}

    def deviation(total: int) -> float:
        return max(abs(math.log(epochs * sizes[name] / total)) for name, epochs in count(total).items())

    candidates = range(round(samples * 0.85), round(samples * 1.15) + 1, max(samples // 500, 1))
    return count(min(candidates, key=lambda total: (deviation(total), total)))
