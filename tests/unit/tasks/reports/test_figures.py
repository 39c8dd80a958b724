import io
import math
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

from tasks.reports.figures import accuracy_figure, curves_figure, funnel_figure, png

STAGES = [
    {"stage": "extract", "input": 900, "kept": 800, "dropped": 100, "reasons": {"not_http": 100}},
    {"stage": "filter", "input": 800, "kept": 0, "dropped": 800, "reasons": {f"reason_{i}": 100 for i in range(8)}},
    {"stage": "download", "input": 0, "kept": 0, "dropped": 0, "reasons": {}},
]
HOSTILE = "$x_1$ \\frac{ 中 <b>"


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def row(**values: Any) -> dict[str, Any]:
    return {"task": "seen", "metric": "top1", "value": 0.1, "low": 0.05, "high": 0.2, "chance": 0.01} | values


FIGURES = {
    "funnel": lambda: funnel_figure(STAGES),
    "funnel of nothing": lambda: funnel_figure([]),
    "funnel, hostile": lambda: funnel_figure([STAGES[0] | {"reasons": {HOSTILE: 100}}]),
    "curves": lambda: curves_figure([{"step": i, "loss": 1 / i, "lr": 0.1, "n": i} for i in range(1, 100)]),
    "curves of one step": lambda: curves_figure([{"step": 1, "loss": 2.0}]),
    "curves of nothing": lambda: curves_figure([]),
    "accuracy": lambda: accuracy_figure([row(), row(value=0.0, low=0.0, high=0.01), row(low=None, high=None)]),
    "accuracy, no number": lambda: accuracy_figure([row(value=math.nan, chance=None)]),
    "accuracy of nothing": lambda: accuracy_figure([]),
    "accuracy, hostile": lambda: accuracy_figure([row(task=HOSTILE)]),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figure_is_a_picture_and_the_same_twice(name: str) -> None:
    data = png(FIGURES[name]())
    assert data == png(FIGURES[name]())
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG"
        assert min(image.size) > 100


def test_bars_of_a_stage_add_up_to_its_input() -> None:
    figure = funnel_figure(STAGES)
    widths = [bar.get_width() for bar in figure.axes[0].patches]  # pyright: ignore[reportAttributeAccessIssue]
    assert widths[:2] == [800, 100]
    assert sum(widths[2:-1]) == 800


def test_reasons_beyond_the_colours_are_folded_without_loss() -> None:
    assert "3 others 300" in texts(funnel_figure(STAGES))


def test_figures_of_a_metric_stand_beside_chance() -> None:
    assert texts(accuracy_figure([row(), row(low=None, high=None, chance=None)])) == [
        "10.00% (5.00%-20.00%)   chance 1.00%",
        "10.00%",
    ]


def test_smoothed_curve_does_not_lag_a_straight_line() -> None:
    rows = [{"step": i, "loss": float(i)} for i in range(200)]
    raw, smooth = curves_figure(rows).axes[0].lines
    assert list(smooth.get_ydata()) == pytest.approx(list(raw.get_ydata()))  # pyright: ignore[reportArgumentType]


def test_values_that_are_no_numbers_are_left_out() -> None:
    figure = curves_figure([{"step": 1, "loss": 1.0}, {"step": 2, "loss": math.inf}, {"step": 3, "loss": 3.0}])
    assert list(figure.axes[0].lines[0].get_xdata()) == [1, 3]  # pyright: ignore[reportArgumentType]
