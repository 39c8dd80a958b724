"""Metrics, compared with scikit-learn and with their definitions."""

from itertools import combinations

import numpy as np
import pytest

from plugins.evaluation_sets.association import expected_jaccard, jaccard_index
from plugins.evaluation_sets.multilabel import average_precision, average_precision_11_points


def oracle():
    """Import scikit-learn only where it is used, since each process collects all tests."""
    from sklearn import metrics

    return metrics


def test_average_precision_equals_scikit_learn():
    draws = np.random.default_rng(5)
    for _ in range(5):
        scores, relevant = draws.normal(size=200), draws.random(200) < 0.1
        assert average_precision(scores, relevant) == pytest.approx(oracle().average_precision_score(relevant, scores))
    assert average_precision(scores, np.zeros(200, dtype=bool)) == 0


def test_eleven_point_precision_equals_a_hand_count():
    # right at ranks 1, 3 and 6 of 6: precision 1, 2/3, 1/2 at recall 1/3, 2/3, 1
    scores, relevant = -np.arange(6.0), np.array([1, 0, 1, 0, 0, 1], dtype=bool)
    assert average_precision_11_points(scores, relevant) == pytest.approx((4 * 1 + 3 * 2 / 3 + 4 / 2) / 11)
    # ten right ones: every tenth of recall is met exactly
    assert average_precision_11_points(-np.arange(10.0), np.ones(10, dtype=bool)) == 1
    assert average_precision_11_points(scores, np.zeros(6, dtype=bool)) == 0


def test_jaccard_equals_scikit_learn_and_chance_is_the_mean_of_all_choices():
    names = list("abcdef")
    right = ("a", "c")
    each = [jaccard_index(right, choice) for choice in combinations(names, 2)]
    truth = np.isin(names, right)
    assert each == [oracle().jaccard_score(truth, np.isin(names, choice)) for choice in combinations(names, 2)]
    assert expected_jaccard(2, 6) == pytest.approx(np.mean(each))
    assert expected_jaccard(6, 6) == 1
