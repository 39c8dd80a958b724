import io
import math
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

from tasks.reports.figures import accuracy_figure, curves_figure, png

HOSTILE = "$x_1$ \\frac{ 中 <b>"


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def row(**values: Any) -> dict[str, Any]:
    return {"task": "seen", "metric": "top1", "value": 0.1, "low": 0.05, "high": 0.2, "chance": 0.01} | values


FIGURES = {
    "curves": lambda: curves_figure([{"step": i, "loss": 1 / i, "lr": 0.1, "n": i} for i in range(1, 100)]),
    "curves of one step": lambda: curves_figure([{"step": 1, "loss": 2.0}]),
    "curves of nothing": lambda: curves_figure([]),
    "accuracy": lambda: accuracy_figure([row(), row(value=0.0, low=0.0, high=0.01), row(low=None, high=None)]),
    "accuracy, no number": lambda: accuracy_figure([row(value=math.nan, chance=None)]),
    "accuracy of nothing": lambda: accuracy_figure([]),
    "accuracy, hostile": lambda: accuracy_figure([row(task=HOSTILE)]),
}


@pytest.mark.parametrize("name", FIGURES)
def test_png_returns_the_same_image_twice(name: str) -> None:
    data = png(FIGURES[name]())
    assert data == png(FIGURES[name]())
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG"
        assert min(image.size) > 100


def test_accuracy_figure_has_value_interval_and_chance_of_each_metric() -> None:
    assert texts(accuracy_figure([row(), row(low=None, high=None, chance=None)])) == [
        "10.00% (5.00%-20.00%)   chance 1.00%",
        "10.00%",
    ]


def test_curves_figure_smooths_without_lag() -> None:
    rows = [{"step": i, "loss": float(i)} for i in range(200)]
    raw, smooth = curves_figure(rows).axes[0].lines
    assert list(smooth.get_ydata()) == pytest.approx(list(raw.get_ydata()))  # pyright: ignore[reportArgumentType]


def test_curves_figure_leaves_out_values_that_are_not_finite() -> None:
    figure = curves_figure([{"step": 1, "loss": 1.0}, {"step": 2, "loss": math.inf}, {"step": 3, "loss": 3.0}])
    assert list(figure.axes[0].lines[0].get_xdata()) == [1, 3]  # pyright: ignore[reportArgumentType]
