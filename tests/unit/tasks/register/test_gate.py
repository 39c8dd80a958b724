"""Floors of the gate."""

import pytest

from dataops.errors import ConfigError
from tasks.register.gate import check_floors

ROWS = [
    {"key": "seen/top1", "value": 0.06},
    {"key": "held-out/R_at_1", "value": 0.1},
    {"key": "seen/nothing", "value": None},
    {"key": "seen/nan", "value": float("nan")},
]


@pytest.mark.parametrize(
    ("floors", "verdict"),
    [
        ({}, "passed"),
        ({"seen/top1": 0.06}, "passed"),  # a floor is the lowest value that passes
        ({"held-out/R@1": 0.1}, "passed"),
        ({"seen/top1": 0.061}, "refused: seen/top1 is 0.06, floor 0.061"),
        ({"seen/top1": 1, "held-out/R@1": 0.2}, "refused: held-out/R@1 is 0.1, floor 0.2; seen/top1 is 0.06, floor 1"),
        ({"seen/nothing": 0.0}, "refused: seen/nothing is no number, floor 0"),
        ({"seen/nan": 0.0}, "refused: seen/nan is nan, floor 0"),
    ],
)
def test_check_floors_refuses_each_metric_below_its_floor(floors: dict[str, float], verdict: str) -> None:
    assert str(check_floors(floors, ROWS)) == verdict


def test_check_floors_names_all_unknown_metrics() -> None:
    with pytest.raises(ConfigError, match=r"a/b, c/d: no such metric; there are held-out/R_at_1, "):
        check_floors({"c/d": 1, "seen/top1": 0, "a/b": 1}, ROWS)
