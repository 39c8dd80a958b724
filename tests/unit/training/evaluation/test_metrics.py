"""Metrics, compared with scikit-learn and with their definitions."""

import numpy as np
import pytest

from tests.oracles import sklearn
from training.evaluation.metrics import (
    macro_f1,
    mean_per_class,
    roc_auc,
    roc_auc_record,
)


@pytest.fixture
def answers():
    draws = np.random.default_rng(3)
    labels = draws.integers(0, 7, 400)
    predicted = np.where(draws.random(400) < 0.4, labels, draws.integers(0, 9, 400))  # 7 and 8 are no one's label
    return labels, predicted


def test_mean_per_class_equals_balanced_accuracy(answers):
    labels, predicted = answers
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        expected = sklearn("metrics").balanced_accuracy_score(labels, predicted)
    assert mean_per_class(labels, (labels == predicted).astype(float)) == pytest.approx(expected)


def test_macro_f1_counts_the_labels_that_occur(answers):
    labels, predicted = answers
    expected = sklearn("metrics").f1_score(labels, predicted, average="macro", labels=np.unique(labels))
    assert macro_f1(labels, predicted) == pytest.approx(expected)
    assert macro_f1(labels, np.full(400, -1)) == 0


@pytest.mark.parametrize("levels", [5, 1000])  # with few levels, most scores have equals
def test_roc_auc_equals_scikit_learn(levels):
    draws = np.random.default_rng(levels)
    scores, relevant, weights = (
        draws.integers(0, levels, 300) / levels,
        draws.random(300) < 0.3,
        draws.integers(0, 4, 300),
    )
    assert roc_auc(scores, relevant) == pytest.approx(sklearn("metrics").roc_auc_score(relevant, scores))
    expected = sklearn("metrics").roc_auc_score(relevant, scores, sample_weight=weights)
    assert roc_auc(scores, relevant, weights) == pytest.approx(expected)
    record = roc_auc_record(scores, relevant)
    assert record["low"] < record["value"] < record["high"]
    with pytest.raises(ValueError, match="both classes"):
        roc_auc(scores, relevant | True)
