"""Two models on the same images: is one better, or can the test set not decide? No torch.

A test image that both get right, or both wrong, does not count: only the images that they disagree
on do. So two models whose own intervals overlap may well be distinguishable.
"""

from typing import Any, Literal

import numpy as np
import pyarrow as pa

from dataops.errors import ContractError
from training.evaluation.intervals import CONFIDENCE, RESAMPLES, bootstrap_interval

Verdict = Literal["better", "worse", "not distinguishable"]


def mcnemar_p_value(only_first: int, only_second: int) -> float:
    """Return the two-sided exact p-value of the hypothesis that each of two is as often alone right as the other.

    Source: McNemar 1947, "Note on the sampling error of the difference between correlated proportions", Psychometrika
    12.
    """
    from scipy.stats import binomtest

    disagreed = only_first + only_second
    return 1.0 if disagreed == 0 else float(binomtest(only_first, disagreed, 0.5).pvalue)


def compare(first: pa.Table, second: pa.Table) -> dict[str, dict[str, Any]]:
    """Compare two tables of predictions of one task, image by image.

    Returns: by metric (`top1`, `accuracy`, or both ways of retrieval): first, second (values), difference, low, high (a
        paired bootstrap over images), p_value (McNemar's where each image is right or wrong, else None), verdict on the
        first: better or worse if p_value is below 0.005, or, without a p_value, if the interval does not hold 0.
    Raises: ContractError if they are not of the same images.
    """
    if first["key"].to_pylist() != second["key"].to_pylist():
        raise ContractError("the two models were not measured on the same images in the same order")
    scores = score_images(first), score_images(second)
    weights = {"text_to_image_R_at_1": count_captions(first)} if "captions" in first.column_names else {}
    equal = np.ones(first.num_rows)
    return {name: _compare_scores(scores[0][name], scores[1][name], weights.get(name, equal)) for name in scores[0]}


def count_captions(predictions: pa.Table) -> np.ndarray:
    """Return the number of captions of each image: R@1 of text_to_image is the share of all captions."""
    return np.array([len(captions) for captions in predictions["captions"].to_pylist()], dtype=np.float64)


def score_images(predictions: pa.Table) -> dict[str, np.ndarray]:
    """Return for each metric how right each image (or cue) is, 0 to 1; an unreadable one is wrong."""
    if "jaccard" in predictions.column_names:
        return {"jaccard": predictions["jaccard"].to_numpy()}
    if "is_right" in predictions.column_names:
        return {"accuracy": predictions["is_right"].to_numpy().astype(float)}
    if "image_to_text_rank" in predictions.column_names:
        ranks = predictions["text_to_image_ranks"].to_pylist()
        to_image = [float(np.mean([rank == 1 for rank in row])) if row else 0.0 for row in ranks]
        to_text = [float(rank == 1) for rank in predictions["image_to_text_rank"].to_pylist()]
        return {"image_to_text_R_at_1": np.array(to_text), "text_to_image_R_at_1": np.array(to_image)}
    return {"top1": np.array([float(rank == 1) for rank in predictions["rank"].to_pylist()])}


def _compare_scores(first_N: np.ndarray, second_N: np.ndarray, weights_N: np.ndarray) -> dict[str, Any]:
    difference_N = (first_N - second_N) * weights_N
    n, weight = len(difference_N), float(weights_N.sum())
    binary = bool(np.isin(first_N, (0, 1)).all() and np.isin(second_N, (0, 1)).all())
    p_value = mcnemar_p_value(int((difference_N > 0).sum()), int((difference_N < 0).sum())) if binary else None
    low, high = bootstrap_interval(n, lambda drawn: float(difference_N @ drawn) / float(weights_N @ drawn), RESAMPLES)
    distinct = p_value < 1 - CONFIDENCE if p_value is not None else low > 0 or high < 0
    difference = float(difference_N.sum()) / weight
    verdict: Verdict = "not distinguishable" if not distinct else "better" if difference > 0 else "worse"
    first, second = (float(scores_N @ weights_N) / weight for scores_N in (first_N, second_N))
    values = {"first": first, "second": second, "difference": difference}
    return {**values, "low": low, "high": high, "p_value": p_value, "n": n, "verdict": verdict}
