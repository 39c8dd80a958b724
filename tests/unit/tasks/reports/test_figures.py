import io
import math

import pytest
from PIL import Image

from tasks.reports.figures import curves_figure, png

FIGURES = {
    "curves": lambda: curves_figure([{"step": i, "loss": 1 / i, "lr": 0.1, "n": i} for i in range(1, 100)]),
    "curves of one step": lambda: curves_figure([{"step": 1, "loss": 2.0}]),
    "curves of nothing": lambda: curves_figure([]),
}


@pytest.mark.parametrize("name", FIGURES)
def test_png_returns_the_same_image_twice(name: str) -> None:
    data = png(FIGURES[name]())
    assert data == png(FIGURES[name]())
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG"
        assert min(image.size) > 100


def test_curves_figure_smooths_without_lag() -> None:
    rows = [{"step": i, "loss": float(i)} for i in range(200)]
    raw, smooth = curves_figure(rows).axes[0].lines
    assert list(smooth.get_ydata()) == pytest.approx(list(raw.get_ydata()))  # pyright: ignore[reportArgumentType]


def test_curves_figure_leaves_out_values_that_are_not_finite() -> None:
    figure = curves_figure([{"step": 1, "loss": 1.0}, {"step": 2, "loss": math.inf}, {"step": 3, "loss": 3.0}])
    assert list(figure.axes[0].lines[0].get_xdata()) == [1, 3]  # pyright: ignore[reportArgumentType]
