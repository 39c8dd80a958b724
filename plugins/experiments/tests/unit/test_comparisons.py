"""Intervals cover a known effect as often as they state, and verdicts raise no more false alarms than they may."""

from itertools import product

import numpy as np
import pytest

from plugins.experiments.comparisons import TaskScores, adjust_holm, compare_variants
from tests.oracles import scipy

EFFECTS = np.array([0.0, 0.02, 0.05])
"""Added to the scores of the variants."""


def draw_tasks(
    generator,
    effects,
    *,
    seeds=3,
    classes=40,
    of_seeds=0.03,
    of_classes=0.05,
    sets=1,
):
    """Return tasks whose images are right with probability 0.5 + effect + noise of seed + noise of class."""
    variants = len(effects)
    seed_noise = generator.normal(0, of_seeds, (variants, seeds, 1))
    tasks = []
    for number in range(sets):
        classes_N = np.repeat(np.arange(classes), generator.integers(3, 8, classes))
        class_noise = generator.normal(0, of_classes, (variants, 1, classes))[:, :, classes_N]
        right = 0.5 + effects[:, None, None] + seed_noise + class_noise
        scores = (generator.random((variants, seeds, classes_N.size)) < right).astype(float)
        tasks.append(TaskScores(f"set{number}", scores, np.ones(classes_N.size), classes_N))
    return tasks


CASES = {
    "images": {"of_seeds": 0.0, "of_classes": 0.0},
    "classes": {"of_seeds": 0.01, "of_classes": 0.15},
    "sets": {"sets": 2, "of_seeds": 0.03},
    "many-seeds": {"seeds": 6},
    "two-variants": {"variants": 2, "sets": 2, "of_seeds": 0.08, "of_classes": 0.15},
}


@pytest.mark.parametrize("case", CASES)
def test_intervals_cover_known_differences_in_93_to_97_percent_and_alarms_are_as_stated(case):
    """Within two standard errors; Satterthwaite's degrees of freedom raise 7.5% of alarms with two variants."""
    more = {**CASES[case]}
    generator, repetitions, effects = np.random.default_rng(7), 150, EFFECTS[: int(more.pop("variants", 3))]
    covered = []
    alarms = 0
    for _ in range(repetitions):
        for one in compare_variants(draw_tasks(generator, effects, **more)):
            covered.append(one.low <= effects[one.second] - effects[one.first] <= one.high)
        alarms += any(one.distinct for one in compare_variants(draw_tasks(generator, 0 * effects, **more)))
    error = 2 * np.sqrt(0.05 * 0.95 / repetitions)
    assert 0.93 - error <= np.mean(covered) <= 0.97 + error
    assert alarms / repetitions <= 0.05 + error


def test_where_all_seeds_agree_the_interval_is_that_of_a_bootstrap_over_classes():
    """The closed form of the variance against 20,000 draws of classes with all their images."""
    generator = np.random.default_rng(2)
    classes_N = np.repeat(np.arange(60), generator.integers(2, 9, 60))
    weights_N = generator.uniform(0.5, 2, classes_N.size)
    scores = np.repeat(generator.integers(0, 2, (2, 1, classes_N.size)).astype(float), 3, axis=1)
    (found,) = compare_variants([TaskScores("a", scores, weights_N, classes_N)])
    sums_C = np.bincount(classes_N, weights_N * (scores[1, 0] - scores[0, 0]))
    drawn = generator.multinomial(60, np.full(60, 1 / 60), size=20_000)
    deviation = np.std(drawn @ sums_C / (drawn @ np.bincount(classes_N, weights_N))) * np.sqrt(60 / 59)
    assert (found.high - found.low) / 2 == pytest.approx(scipy("stats").t.ppf(0.975, 59) * deviation, rel=0.03)


def test_where_only_seeds_differ_the_p_value_is_that_of_a_paired_t_test():
    """Each image answers alike with one seed, so images show nothing."""
    values = np.random.default_rng(1).normal(0.5, 0.1, (2, 6))
    tasks = [TaskScores("a", np.repeat(values[:, :, None], 50, axis=2), np.ones(50), np.arange(50))]
    (found,) = compare_variants(tasks)
    assert found.p_value == pytest.approx(scipy("stats").ttest_rel(values[1], values[0]).pvalue, rel=1e-6)
    assert found.difference == pytest.approx(values[1].mean() - values[0].mean())


def test_holm_agrees_with_its_definition_and_keeps_the_order():
    """Each p-value, times the number of those that are not smaller; never below that of a smaller one."""
    values = [0.04, 0.001, 0.03, 0.03, 0.6]
    assert adjust_holm(values) == pytest.approx([0.12, 0.005, 0.12, 0.12, 0.6])
    for case in product((0.001, 0.2, 0.9), repeat=3):
        adjusted = np.array(adjust_holm(case))
        assert (adjusted >= scipy("stats").false_discovery_control(case)).all()
        assert (adjusted <= np.minimum(3 * np.array(case), 1)).all()


def test_variants_that_answer_alike_are_equal_and_need_nothing():
    scores = np.repeat(np.random.default_rng(0).integers(0, 2, (1, 3, 60)).astype(float), 2, axis=0)
    (found,) = compare_variants([TaskScores("a", scores, np.ones(60), np.arange(60))])
    assert (found.difference, found.low, found.high, found.p_value, found.needed) == (0, 0, 0, 1, None)


def test_the_seeds_and_images_that_are_needed_do_distinguish():
    """Of experiments with as many seeds as advised, about the stated share finds the difference."""
    effects, generator = np.array([0.0, 0.04]), np.random.default_rng(11)
    advised = [
        needed.seeds
        for _ in range(60)
        if (needed := compare_variants(draw_tasks(generator, effects, seeds=4, of_classes=0.0))[0].needed)
        and needed.seeds is not None
    ]
    seeds = int(np.median(advised))
    found = [
        compare_variants(draw_tasks(generator, effects, seeds=seeds, of_classes=0.0))[0].distinct for _ in range(60)
    ]
    assert 4 < seeds < 60
    assert np.mean(found) > 0.5


def test_a_difference_that_more_seeds_cannot_show_needs_images():
    """With one image per class and no noise of seeds, only images help."""
    scores = np.zeros((2, 3, 30))
    scores[1, :, :12] = scores[0, :, 12:22] = 1  # the same with each seed
    (found,) = compare_variants([TaskScores("a", scores, np.ones(30), np.arange(30))])
    assert found.needed.seeds is None
    assert found.needed.images > 30


def test_a_comparison_of_one_seed_is_refused():
    with pytest.raises(ValueError, match="two seeds"):
        compare_variants([TaskScores("a", np.zeros((2, 1, 5)), np.ones(5), np.arange(5))])
