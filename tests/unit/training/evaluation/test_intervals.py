"""Intervals and chance, compared with scipy's exact interval, enumeration and a simulation of the definition."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles import scipy
from training.evaluation.intervals import clopper_pearson_interval, expected_recall


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_clopper_pearson_equals_scipys_exact_interval(case):
    successes, n = case
    expected = scipy("stats").binomtest(successes, n).proportion_ci(0.995, method="exact")
    low, high = clopper_pearson_interval(successes, n)
    assert low == pytest.approx(expected.low, abs=1e-9)
    assert high == pytest.approx(expected.high, abs=1e-9)
    assert low <= successes / n <= high


@pytest.mark.parametrize(("right", "gallery", "k"), [([1, 1], 6, 1), ([2, 3, 5], 7, 5), ([1, 4], 4, 10), ([3], 9, 5)])
def test_expected_recall_equals_the_mean_of_all_draws(right, gallery, k):
    draws = list(combinations(range(gallery), min(k, gallery)))
    by_hand = [sum(any(item < r for item in draw) for draw in draws) / len(draws) for r in right]
    assert expected_recall(k, right, gallery) == pytest.approx(sum(by_hand) / len(by_hand))
