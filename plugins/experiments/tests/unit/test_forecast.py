"""Intervals of forecasts hold the true law, and a ladder that determines none is reported as such."""

import numpy as np
import pytest

from plugins.experiments.forecast import find_crossing, fit_curve, is_determined

SIZES = np.repeat([1e5, 2e5, 4e5, 8e5], 3)


def share(samples, gain, middle, exponent):
    return gain / (1 + (middle / samples) ** exponent)


def fit(gain, middle, exponent, noise=1e-4, seed=0, **more):
    """Return the fit of trainings that follow a law from a chance of 0, with noise."""
    noisy = share(SIZES, gain, middle, exponent) + np.random.default_rng(seed).normal(0, noise, len(SIZES))
    return fit_curve(SIZES.tolist(), noisy.tolist(), **more)


def test_the_run_of_ten_times_the_samples_lies_in_the_interval():
    """Over laws of all shapes: of 40 intervals of 95%, more than six miss by chance in 1 of 300 cases."""
    generator, inside, errors = np.random.default_rng(4), 0, []
    for seed in range(40):
        law = generator.uniform(0.4, 0.9), 8e5 * generator.uniform(0.05, 3), generator.uniform(0.3, 1.2)
        expected = fit(*law, 0.004, seed).expect(8e6)
        true = share(8e6, *law) + generator.normal(0, 0.004)
        inside += expected.low <= true <= expected.high
        errors.append(abs(expected.value - true) / true)
    assert inside >= 34
    assert np.median(errors) < 0.05


def test_more_noise_and_fewer_scales_are_not_determined():
    clear, noisy = fit(0.8, 2e5, 0.7), fit(0.8, 2e5, 0.7, noise=0.15)
    assert is_determined(clear.expect(8e6))
    assert noisy is None or not is_determined(noisy.expect(8e6), 0.1)
    assert fit_curve([1e5, 1e5, 2e5, 2e5], [0.2, 0.21, 0.3, 0.31]) is None
    falling = 0.5 - 0.1 * np.log10(SIZES / 1e5) + np.random.default_rng(0).normal(0, 0.004, len(SIZES))
    assert fit_curve(SIZES.tolist(), falling.tolist()) is None
    assert fit_curve(SIZES.tolist(), (falling - 0.5).tolist(), chance=0.1) is None


def test_a_loss_falls_from_chance_to_its_floor():
    """4.2 for a model that has learnt nothing, and 1.4 in the end."""
    losses = 4.2 - 2.8 * share(SIZES, 1, 2e5, 0.7)
    curve = fit_curve(SIZES.tolist(), losses.tolist(), chance=4.2, bound=0.0)
    assert curve.expect(3.2e6).value == pytest.approx(4.2 - 2.8 * share(3.2e6, 1, 2e5, 0.7), abs=0.01)
    assert curve.find_samples(1.9).value == pytest.approx(2e5 * (2.8 / 2.3 - 1) ** (-1 / 0.7), rel=0.01)


def test_samples_that_reach_a_metric_are_those_of_the_law():
    """0.6 = 0.7 / (1 + (2e5 / samples) ** 0.7); above the limit of 0.7, nothing does."""
    curve = fit(0.7, 2e5, 0.7)
    found = curve.find_samples(0.6)
    assert found.low <= 1.014 * 2e5 * 6 ** (1 / 0.7) <= 1.014 * found.high
    assert curve.find_samples(0.75) is None


def test_further_epochs_give_less_than_new_pairs():
    """With 8e5 pairs, ten epochs; in the first one, all samples are new, and no number is too small."""
    new, repeated = fit(0.7, 2e5, 0.7), fit(0.7, 2e5, 0.7, pairs=8e5)
    at_ten = repeated.expect(8e6)
    assert at_ten.value < new.expect(8e6).value
    assert at_ten.high - at_ten.low > new.expect(8e6).high - new.expect(8e6).low
    assert repeated.expect(8e5).value == pytest.approx(share(8e5, 0.7, 2e5, 0.7), abs=1e-3)
    assert repeated.find_samples(share(4e5, 0.7, 2e5, 0.7)).value == pytest.approx(4e5, rel=0.02)
    assert repeated.find_samples(share(1.2e6, 0.7, 2e5, 0.7)).value > 1.22e6
    assert repeated.find_samples(1e-3).value < 1e5


def test_curves_cross_where_their_laws_do():
    steep, flat = fit(0.9, 2e6, 0.8), fit(0.4, 1e5, 0.8)
    sizes = np.geomspace(8e5, 8e6, 2000)
    crossing = sizes[np.argmax(share(sizes, 0.9, 2e6, 0.8) > share(sizes, 0.4, 1e5, 0.8))]
    assert find_crossing(steep, flat).value == pytest.approx(crossing, rel=0.05)
    assert find_crossing(steep, steep) is None


def test_a_metric_that_begins_to_fall_is_expected_to_fall():
    """The largest training of the ladder sees 1e5 pairs 8 times, and the one that is forecast 80 times."""

    def measure(samples):
        seen = 1e5 * (1 + 8 * -np.expm1(-(samples / 1e5 - 1) / 8))
        return share(seen, 0.7, 2e5, 0.7) / (1 + (samples / 1e5 - 1) / 20)

    noisy = measure(SIZES) + np.random.default_rng(0).normal(0, 1e-3, len(SIZES))
    curve = fit_curve(SIZES.tolist(), noisy.tolist(), pairs=1e5)
    expected = curve.expect(8e6)
    assert expected.low <= measure(8e6) <= expected.high < measure(8e5)
