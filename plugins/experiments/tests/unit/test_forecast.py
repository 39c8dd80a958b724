"""Intervals of forecasts hold the true law, and a ladder that determines none is reported as such."""

import numpy as np
import pytest

from plugins.experiments.forecast import find_crossing, fit_curve, is_determined

SIZES = np.repeat([1e5, 2e5, 4e5, 8e5], 3)


def fit(floor, slope, exponent, noise=1e-4, seed=0):
    """Return the fit of a metric of 1 - floor - slope * (samples / 8e5) ** -exponent."""
    values = 1 - floor - slope * (SIZES / 8e5) ** -exponent
    return fit_curve(SIZES.tolist(), (values + np.random.default_rng(seed).normal(0, noise, len(SIZES))).tolist())


def test_the_run_of_ten_times_the_samples_lies_in_the_interval():
    """Over laws of all shapes: of 40 intervals of 95%, more than six miss by chance in 1 of 300 cases."""
    generator, inside, errors = np.random.default_rng(4), 0, []
    for seed in range(40):
        floor, slope, exponent = generator.uniform(0.1, 0.5), generator.uniform(0.05, 0.2), generator.uniform(0.2, 0.9)
        curve = fit(floor, slope, exponent, 0.004, seed)
        expected, true = curve.expect(8e6), 1 - floor - slope * 10**-exponent + generator.normal(0, 0.004)
        inside += expected.low <= true <= expected.high
        errors.append(abs(expected.value - true) / true)
    assert inside >= 34
    assert np.median(errors) < 0.05


def test_more_noise_and_fewer_scales_are_not_determined():
    clear, noisy = fit(0.3, 0.2, 0.5), fit(0.3, 0.2, 0.5, noise=0.15)
    assert is_determined(clear.expect(8e6))
    assert noisy is None or not is_determined(noisy.expect(8e6), 0.1)
    assert fit_curve([1e5, 1e5, 2e5, 2e5], [0.2, 0.21, 0.3, 0.31]) is None
    falling = 0.5 - 0.1 * np.log10(SIZES / 1e5)
    assert fit_curve(SIZES.tolist(), falling.tolist()) is None
    late = 0.5 / (1 + (SIZES / 8e5) ** -2.0)  # it rises faster and faster, until the end of the ladder
    late += np.random.default_rng(0).normal(0, 0.004, len(SIZES))
    assert fit_curve(SIZES.tolist(), late.tolist()) is None


def test_a_loss_falls_to_its_floor():
    losses = 1.5 + 0.8 * (SIZES / 8e5) ** -0.5
    curve = fit_curve(SIZES.tolist(), losses.tolist(), is_loss=True)
    assert curve.expect(3.2e6).value == pytest.approx(1.9, abs=0.01)
    found = curve.find_samples(1.7)
    assert found.value == pytest.approx(1.28e7, rel=0.1)


def test_samples_that_reach_a_metric_are_those_of_the_law():
    """0.65 = 1 - 0.3 - 0.2 * 16 ** -0.5; above the limit of 0.7, nothing does."""
    curve = fit(0.3, 0.2, 0.5, 1e-3)
    found = curve.find_samples(0.65)
    assert found.low <= 16 * 8e5 <= found.high
    assert curve.find_samples(0.72) is None


def test_curves_cross_where_their_laws_do():
    """0.1 + 0.4 * r ** -0.4 = 0.3 + 0.1 * r ** -0.4 at r = 1.5 ** 2.5."""
    steep, flat = fit(0.1, 0.4, 0.4, 2e-3), fit(0.3, 0.1, 0.4, 2e-3)
    found = find_crossing(steep, flat)
    assert found.value == pytest.approx(8e5 * 1.5**2.5, rel=0.05)
    assert find_crossing(steep, steep) is None
