"""The probe, compared with scikit-learn's logistic regression, and its search, compared with a full search."""

import numpy as np
import pytest
import torch

from plugins.evaluation_sets.linear_probe import (
    GRID,
    SHOTS,
    evaluate_few_shot,
    fit_each,
    probe,
    search_strength,
)
from training.evaluation.features import Examples


def linear_model():
    """Import the oracle only where it is used, since each process collects all tests."""
    from sklearn import linear_model

    return linear_model


@pytest.fixture(scope="module")
def digits():
    from sklearn.datasets import load_digits

    scans, labels = load_digits(return_X_y=True)
    examples = Examples(torch.from_numpy(scans / 16).float(), torch.from_numpy(labels).long())
    return examples.select(np.arange(500)), examples.select(np.arange(500, 1000))


@pytest.mark.parametrize("strength", [1e-2, 100.0])
def test_fit_equals_scikit_learn(digits, strength):
    train, test = digits
    (ours,) = fit_each(train, 10, [strength])
    theirs = linear_model().LogisticRegression(C=1 / strength, max_iter=1000, tol=1e-4)
    theirs.fit(train.features_NW.double().numpy(), train.labels_N.numpy())
    np.testing.assert_allclose(ours.weights_CW.numpy(), theirs.coef_, atol=1e-3 * abs(theirs.coef_).max())
    expected = theirs.score(test.features_NW.double().numpy(), test.labels_N.numpy())
    assert ours.accuracy(test) == pytest.approx(expected)


@pytest.mark.parametrize("peak", range(0, 97, 7))
def test_the_search_finds_the_peak_in_few_steps(peak):
    tried = []

    def score(strengths):
        tried.extend(strengths)
        return [-abs(np.log10(strength) - np.log10(GRID[peak])) for strength in strengths]

    assert search_strength(score) == GRID[peak]
    assert len(tried) == len(set(tried)) <= 7 + 2 * 4


def test_the_probe_refits_on_all_and_counts_unreadable_images_as_wrong(digits):
    train, test = digits[0].select(np.arange(120)), digits[1].select(np.arange(200))
    found = probe(train, None, test, 10, unreadable=[0, 0, 5])
    theirs = linear_model().LogisticRegression(C=1 / found["strength"], max_iter=1000)
    theirs.fit(train.features_NW.double().numpy(), train.labels_N.numpy())
    right = theirs.predict(test.features_NW.double().numpy()) == test.labels_N.numpy()
    seen = np.bincount(test.labels_N.numpy()) + np.bincount([0, 0, 5], minlength=10)
    assert found["train"] == 120
    assert found["top1"]["value"] == pytest.approx(right.sum() / (len(test.labels_N) + 3))
    assert found["mean_per_class"]["value"] == pytest.approx((np.bincount(test.labels_N[right]) / seen).mean())
    assert probe(train, None, test, 10, unreadable=[0, 0, 5]) == found
    result = probe(train.select(np.arange(80)), train.select(np.arange(80, 120)), test, 10, unreadable=[])
    assert result["train"] == 120


def test_few_shot_draws_grow_and_are_equal_in_each_class(digits):
    train, test = digits[0].select(np.arange(60)), digits[1].select(np.arange(200))
    least = int(np.bincount(train.labels_N.numpy()).min())
    found = evaluate_few_shot(train, None, test, 10, unreadable=[])
    assert [each["shots"] for each in found] == [shots for shots in SHOTS if shots < least]
    assert [each["train"] for each in found] == [10 * each["shots"] for each in found]
    assert all(each["top1"]["value"] > 0.3 for each in found)
    assert evaluate_few_shot(train, test, test, 10, unreadable=[])[-1]["shots"] <= least
