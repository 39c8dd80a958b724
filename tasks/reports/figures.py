"""Draw the training curves as an image for an MLflow run.

Figures are made without pyplot, which needs global state and perhaps a window system: any thread can draw them. No text
is parsed as markup: `$` in a name is a dollar sign.
"""

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dataops.escaping import escape_controls
from tasks.reports.page import shorten

INK, GREY, PALE = "#1b2733", "#7b8794", "#dfe4ea"
VALUE = "#1f6feb"
NOISY = ("loss", "grad_norm")
"""Quantities that are also drawn smoothed."""


def png(figure: Figure) -> bytes:
    """Return the figure as PNG; the same figure gives the same bytes."""
    sink = io.BytesIO()
    with warnings.catch_warnings():
        # a name in a script that the font lacks is drawn as boxes
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        FigureCanvasAgg(figure).print_png(sink, metadata={"Software": None})
    return sink.getvalue()


def curves_figure(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Draw one panel for each quantity that training logged, over steps; noisy ones also smoothed.

    Args:
        rows: of metrics.jsonl, each with `step`.
    """
    names = [name for name in dict.fromkeys(key for row in rows for key in row) if name != "step"]
    names = [name for name in names if any(_is_finite(row.get(name)) for row in rows)]
    columns = 2 if len(names) > 1 else 1
    lines = max(1, math.ceil(len(names) / columns))
    figure = Figure(figsize=(4.9 * columns, 2.5 * lines), dpi=130, layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    for index, axes in enumerate(grid.flat):
        if index >= len(names):
            axes.set_axis_off()
            continue
        points = [(row["step"], row[names[index]]) for row in rows if _is_finite(row.get(names[index]))]
        _draw_curve(axes, names[index], [p[0] for p in points], [p[1] for p in points])
    return figure


def _draw_curve(axes: Axes, name: str, steps: Sequence[float], values: Sequence[float]) -> None:
    _plain(axes)
    smooth = name in NOISY and len(values) > 50
    axes.plot(steps, values, color=VALUE, linewidth=0.6 if smooth else 1.3, alpha=0.35 if smooth else 1.0)
    if smooth:
        axes.plot(steps, _smooth(values), color=VALUE, linewidth=1.5)
    if len(values) == 1:
        axes.plot(steps, values, "o", color=VALUE)
    axes.grid(axis="y", color=PALE, linewidth=0.7)
    axes.set_xlabel("step", color=GREY, fontsize=8)
    last = f"{values[-1]:.4g}"
    axes.set_title(f"{_shorten(name, 60)}   (last {last})", loc="left", fontsize=10, color=INK, parse_math=False)


def _smooth(values: Sequence[float]) -> list[float]:
    """Return the mean over a window of a fortieth of the run around each point, narrower at the ends."""
    half = max(1, len(values) // 80)
    sums = list(accumulate(values, initial=0.0))
    out = []
    for index in range(len(values)):
        reach = min(half, index, len(values) - 1 - index)
        out.append((sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1))
    return out


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _shorten(text: str, limit: int) -> str:
    return shorten(escape_controls(text), limit)  # a font has no lone surrogate


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(PALE)
    axes.tick_params(which="both", colors=GREY, labelsize=8, length=0)
