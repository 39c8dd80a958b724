"""A race drops the best variant no more often than it may, and costs less than all trainings."""

import numpy as np
import pytest

from plugins.experiments.comparisons import TaskScores
from plugins.experiments.race import Race, spend

SEEDS = 5


def run_race(generator, effects):
    """Return a race over 60 classes of 5 images, and the number of its trainings."""
    classes_N, shape = np.repeat(np.arange(60), 5), (len(effects), SEEDS, 300)
    right = 0.5 + np.array(effects)[:, None, None] + generator.normal(0, 0.02, (*shape[:2], 1))
    scores = (generator.random(shape) < right + generator.normal(0, 0.05, (len(effects), 1, 60))[:, :, classes_N]) * 1.0
    race, cost = Race(len(effects), SEEDS, 0.95, racing=True), 0

    def read(variants, seeds):
        return [[TaskScores("a", scores[list(variants), :seeds], np.ones(300), classes_N)], []]

    for seeds in range(1, SEEDS + 1):
        if len(race.active) > 1:
            cost += len(race.active)
            if seeds > 1:
                race.take(read, seeds)
    return race, cost


def test_equal_variants_are_dropped_at_the_stated_rate():
    """A given one of four equal variants is dropped in at most 5% of races, within two standard errors."""
    generator, races = np.random.default_rng(3), 60
    lost = np.mean([0 in run_race(generator, [0.0] * 4)[0].dropped for _ in range(races)])
    assert lost <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / races)


def test_worse_variants_end_early_and_the_best_one_stays():
    generator, races = np.random.default_rng(4), 40
    found = [run_race(generator, [0.3, 0.0, 0.05, 0.1]) for _ in range(races)]
    assert np.mean([cost for _, cost in found]) < 0.7 * 4 * SEEDS
    assert np.mean([race.active == [0] for race, _ in found]) > 0.9
    assert all(0 not in race.dropped for race, _ in found)


def test_the_error_is_spent_as_published():
    """Lan and DeMets 1983 for 5% and five looks: their bounds of the first looks are 4.877 and 3.357."""
    assert [spend(share, 0.05) for share in (0.2, 0.4, 1.0)] == pytest.approx([1.17e-5, 0.00194, 0.05], rel=0.01)
