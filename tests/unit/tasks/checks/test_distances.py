import pytest
from scipy.stats import ks_2samp

from tasks.checks.distances import kolmogorov_smirnov, largest_change, median_step


def test_kolmogorov_smirnov_equals_scipys_distance_of_the_samples():
    a, b = {"0": 5, "2": 3, "10": 12, "": 7}, {"1": 9, "2": 2, "9": 4, "10": 6}
    samples = [[int(step) for step, n in counts.items() if step for _ in range(n)] for counts in (a, b)]
    assert kolmogorov_smirnov(a, b) == pytest.approx(ks_2samp(*samples).statistic)
    assert kolmogorov_smirnov(a, a) == 0
    assert kolmogorov_smirnov({"0": 1}, {"1": 1}) == 1
    assert kolmogorov_smirnov({"": 5}, a) is None


@pytest.mark.parametrize(
    ("counts", "median"), [({"2": 1, "10": 1, "1": 1}, 2), ({"0": 9, "5": 1}, 0), ({"": 9, "5": 1}, 5), ({}, None)]
)
def test_median_step_sorts_steps_as_numbers_and_ignores_rows_without_a_value(counts, median):
    assert median_step(counts) == median


def test_largest_change_names_the_value_and_its_shares():
    assert largest_change({"a": 60, "b": 40}, {"a": 10, "b": 50, "c": 140}, (100, 200), 40) == ("c", 0.0, 0.7)
    assert largest_change({"a": 90}, {"b": 5}, (90, 5), 40) in (("a", 1.0, 0.0), ("b", 0.0, 1.0))
    assert largest_change({"a": 1}, {}, (1, 0), 40) is None
    assert largest_change({}, {}, (1, 1), 40) is None


def test_value_that_a_cut_list_lacks_changed_as_little_as_the_list_allows():
    before, after = {"a": 50, "b": 20}, {"a": 50, "c": 30}
    assert largest_change(before, after, (100, 100), 2) == ("c", 0.2, 0.3)
    name, was, now = largest_change(before, after, (100, 100), 3) or ("", 0, 0)
    assert (name, was, now) == ("c", 0.0, 0.3)
