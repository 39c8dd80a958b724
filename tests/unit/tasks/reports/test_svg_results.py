"""The drawing of results: value, interval, chance and another model, whatever numbers there are."""

import math
from typing import Any

import pytest

from tasks.reports.svg_results import LEFT, RIGHT, draw_results


def row(**values: Any) -> dict[str, Any]:
    return {
        "task": "seen",
        "metric": "top1",
        "key": "k",
        "value": 0.1,
        "low": 0.05,
        "high": 0.2,
        "chance": 0.01,
    } | values


def shapes(style: str, rows: list[dict[str, Any]], others: dict[str, float] | None = None) -> list[Any]:
    found = [shape for shape in draw_results(rows, others).shapes if shape.attributes.get("class") == style]
    return found[1:] if style in ("value", "interval", "chance", "other") else found  # the first is that of the key


def test_each_metric_has_its_value_interval_and_chance() -> None:
    rows = [row(), row(low=None, high=None, chance=None)]
    assert [shape.text for shape in shapes("scores", rows)] == ["10.00% (5.00%-20.00%)   chance 1.00%", "10.00%"]
    assert [len(shapes(style, rows)) for style in ("value", "interval", "chance", "other")] == [2, 1, 1, 0]
    assert len(shapes("other", rows, {"k": 0.3})) == 2
    (low, *_), (value, *_) = (shapes(style, rows) for style in ("interval", "value"))
    assert float(low.attributes["x"]) < float(value.attributes["cx"])
    assert [shape.text for shape in shapes("tick", rows)] == ["1%", "10%", "100%"]


@pytest.mark.parametrize(
    "values", [{"value": 0.0, "low": 0.0}, {"value": 1.0, "high": 1.0}, {"value": 1e-9, "low": 0.0}]
)
def test_every_value_lies_on_the_axis(values: dict[str, float]) -> None:
    (value,) = shapes("value", [row(**values)])
    assert LEFT <= float(value.attributes["cx"]) <= RIGHT


@pytest.mark.parametrize("rows", [[], [row(value=math.nan, chance=None)], [row(value=None, low=None, high=None)]])
def test_missing_numbers_are_left_out(rows: list[dict[str, Any]]) -> None:
    assert shapes("value", rows) == []
