"""Test the comparison of recipes that were trained with several seeds."""

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binomtest

from benchmarks.recipes.__main__ import RECIPES
from benchmarks.recipes.pool import MAIN_TASK
from benchmarks.recipes.significance import choose_epochs, compare_seeds, count_images_needed
from benchmarks.recipes.table import compare_recipes, format_table


def predictions(right: list[bool]) -> pa.Table:
    return pa.table({"key": [f"{n:06d}" for n in range(len(right))], "rank": [1 if one else 7 for one in right]})


def test_a_recipe_is_better_only_if_it_is_for_each_seed() -> None:
    random = np.random.default_rng(0)
    worse = [predictions(list(random.random(400) < 0.2)) for _ in range(3)]
    better = [predictions(list(random.random(400) < 0.5)) for _ in range(3)]
    found = compare_seeds(better, worse)
    assert found["verdict"] == "better"
    assert compare_seeds(worse, better)["verdict"] == "worse"
    rates = [
        [np.mean([rank == 1 for rank in table["rank"].to_pylist()]) for table in tables] for tables in (better, worse)
    ]
    assert found["difference"] == pytest.approx(np.mean(rates[0]) - np.mean(rates[1]))
    assert found["low"] < found["difference"] < found["high"]
    for number, p_value in enumerate(found["p_values"]):
        pairs = list(zip(better[number]["rank"].to_pylist(), worse[number]["rank"].to_pylist(), strict=True))
        only_first, only_second = pairs.count((1, 7)), pairs.count((7, 1))
        assert p_value == pytest.approx(binomtest(only_first, only_first + only_second).pvalue)
    mixed = compare_seeds([better[0], worse[1], better[2]], [worse[0], better[1], worse[2]])
    assert mixed["verdict"] == "not distinguishable"
    assert compare_seeds(worse, worse)["images_needed"] is None


def test_the_images_needed_show_the_difference_with_the_power() -> None:
    random = np.random.default_rng(1)
    drawn = random.choice([-1.0, 0.0, 1.0], p=[0.1, 0.76, 0.14], size=100_000)
    needed = count_images_needed(drawn)
    assert needed is not None
    trials = random.choice(drawn, size=(2000, needed))
    z = trials.mean(axis=1) / (trials.std(axis=1) / needed**0.5)
    assert 0.77 < (np.abs(z) > 2.807).mean() < 0.83


def test_epochs_give_nearly_equal_samples() -> None:
    sizes = {"all": 8000.0, "best": 2400.0, "half": 3985.5, "most": 7100.0}
    epochs = choose_epochs(sizes, 24_000)
    seen = [epochs[name] * size for name, size in sizes.items()]
    assert max(seen) / min(seen) < 1.15
    assert 0.8 < np.mean(seen) / 24_000 < 1.2
    assert choose_epochs({"all": 500.0}, 10) == {"all": 1}


def test_the_table_has_a_row_for_each_recipe_in_the_order_of_accuracy() -> None:
    random = np.random.default_rng(2)
    results = {}
    for name, rate in (("none", 0.1), ("language", 0.6), ("clip-score", 0.1)):
        made = [{"twemoji-rest": predictions(list(random.random(300) < rate))} for _ in range(2)]
        results[name] = {"pairs": 5, "epochs": 2, "samples_seen": [10, 12], "predictions": made}
    lines = format_table(results, compare_recipes(results, "none"), "none", MAIN_TASK).splitlines()
    assert lines[2].startswith("| language | 5 | 11 |")
    assert " better " in lines[2]
    (base,) = (line for line in lines if line.startswith("| none"))
    assert base.count("|  ") >= 4
    assert len(lines) == 5
    assert len(RECIPES) == 8


def test_no_number_of_images_shows_a_difference_that_is_only_rounding():
    assert count_images_needed(np.array([1, -1, 1 / 3, -1 / 3, 1e-16])) is None
