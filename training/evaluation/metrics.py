"""Metrics over labels and scores, in plain numpy. An unreadable image has the prediction -1, which is never right.

Shape suffixes: N images, C classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from training.evaluation.intervals import bootstrap_interval, clopper_pearson_interval

MIN_CLASS_SIZE = 10
"""Minimum images of each class for an interval: with fewer, resampling whole sets says little about the class."""


def mean_per_class(labels_N: np.ndarray, right_N: np.ndarray, weights_N: np.ndarray | None = None) -> float:
    """Return the mean, over the classes that have images, of the share that is right (scikit-learn's balanced accuracy).

    Args:
        right_N: 1 where the prediction is right, else 0.
        weights_N: how often each image counts; None: once.
    """
    seen = np.bincount(labels_N, weights=weights_N)
    right = np.bincount(labels_N, weights=right_N if weights_N is None else right_N * weights_N)
    present = seen > 0
    return float((right[present] / seen[present]).mean())


def mean_per_class_record(labels: Sequence[int], right: Sequence[int], classes: int) -> dict[str, float | None]:
    """Return the record of `mean_per_class`, with a bootstrap interval if each class has MIN_CLASS_SIZE images."""
    labels_N, right_N = np.asarray(labels), np.asarray(right, dtype=float)
    counts = np.bincount(labels_N)
    low = high = None
    if counts[counts > 0].min() >= MIN_CLASS_SIZE:
        low, high = bootstrap_interval(len(labels_N), lambda drawn: mean_per_class(labels_N, right_N, drawn))
    return {"value": mean_per_class(labels_N, right_N), "low": low, "high": high, "chance": 1 / classes}


def macro_f1(labels_N: np.ndarray, predicted_N: np.ndarray) -> float:
    """Return the mean, over the classes that have images, of the harmonic mean of precision and recall.

    Source: WILDS, common/metrics/all_metrics.py: scikit-learn's macro F1 over the labels that occur.
    """
    scores = []
    for label in np.unique(labels_N):
        hits = np.sum((predicted_N == label) & (labels_N == label))
        scores.append(2 * hits / (np.sum(predicted_N == label) + np.sum(labels_N == label)))
    return float(np.mean(scores))


def roc_auc(scores_N: np.ndarray, relevant_N: np.ndarray, weights_N: np.ndarray | None = None) -> float:
    """Return the area under the ROC curve: the probability that a relevant image outscores another (a tie: 1/2).

    Args:
        weights_N: how often each image counts; None: once.

    Raises: ValueError unless some images are relevant, and some are not.
    Source: Fawcett 2006, "An introduction to ROC analysis", section 7.
    """
    weights_N = np.ones(len(scores_N)) if weights_N is None else weights_N
    _, bin_N = np.unique(scores_N, return_inverse=True)
    relevant, other = (np.bincount(bin_N, weights_N * members_N) for members_N in (relevant_N, ~relevant_N))
    pairs = relevant.sum() * other.sum()
    if not pairs:
        raise ValueError("a ROC curve needs images of both classes")
    return float(relevant @ (np.cumsum(other) - other / 2) / pairs)


def roc_auc_record(scores_N: np.ndarray, relevant_N: np.ndarray) -> dict[str, float | None]:
    """Return the record of `roc_auc`, with a bootstrap interval if each class has MIN_CLASS_SIZE images."""
    low = high = None
    if min(relevant_N.sum(), (~relevant_N).sum()) >= MIN_CLASS_SIZE:
        low, high = bootstrap_interval(len(scores_N), lambda drawn: roc_auc(scores_N, relevant_N, drawn))
    return {"value": roc_auc(scores_N, relevant_N), "low": low, "high": high, "chance": 0.5}


def group_records(
    groups_N: np.ndarray, right_N: np.ndarray, names: Sequence[str] = (), ignore: Sequence[int] = ()
) -> list[dict[str, Any]]:
    """Return the accuracy of each group with its exact interval: group, name, n, value, low, high, counts_as_worst."""
    records = []
    for group in np.unique(groups_N).tolist():
        right = right_N[groups_N == group]
        low, high = clopper_pearson_interval(int(right.sum()), len(right))
        name = names[group] if 0 <= group < len(names) else str(group)
        figures = {"n": len(right), "value": float(right.mean()), "low": low, "high": high}
        records.append({"group": group, "name": name, **figures, "counts_as_worst": group not in ignore})
    return records


def find_worst_group(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the group with the lowest accuracy among those that count, or among all if none does."""
    return min([r for r in records if r["counts_as_worst"]] or records, key=lambda record: record["value"])
