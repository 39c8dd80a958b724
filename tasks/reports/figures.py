"""Draw the training curves, and zero-shot accuracy beside chance, as images for an MLflow run and for pages.

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
from matplotlib.ticker import FuncFormatter, NullFormatter

from dataops.escaping import escape_controls
from dataops.formatting import format_percent
from tasks.reports.page import shorten

INK, GREY, PALE = "#1b2733", "#7b8794", "#dfe4ea"
VALUE, CHANCE, OTHER = "#1f6feb", "#d1480f", "#3f4a56"
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


def accuracy_figure(rows: Sequence[Mapping[str, Any]], others: Mapping[str, float] | None = None) -> Figure:
    """Draw each metric with its interval beside chance, on a log axis: they differ by orders of magnitude.

    Args:
        rows: of `training.evaluation.intervals.flatten_metrics`; `value` and `chance` are shares (0 to 1). A value of 0
            is drawn at the left edge.
        others: values of another model, by the rows' `key`.
    """
    others = others or {}
    figure, axes = _figure(9.5, 1.2 + 0.36 * max(len(rows), 1))
    positive = [v for row in rows for v in (row["value"], row["low"], row["chance"]) if _is_finite(v) and v > 0]
    floor = min([*positive, 0.01]) / 2
    for y, row in enumerate(rows):
        value, low, high, chance = (row[name] for name in ("value", "low", "high", "chance"))
        if _is_finite(low) and _is_finite(high):
            axes.plot([max(low, floor), max(high, floor)], [y, y], color=VALUE, linewidth=5, alpha=0.28)
        if _is_finite(chance):
            axes.plot([max(chance, floor)], [y], "|", color=CHANCE, markersize=14, markeredgewidth=2)
        if _is_finite(other := others.get(row.get("key", ""))):
            axes.plot([max(other, floor)], [y], "D", color=OTHER, markersize=6, fillstyle="none", clip_on=False)
        if _is_finite(value):
            axes.plot([max(value, floor)], [y], "o", color=VALUE, markersize=6, clip_on=False)
        axes.text(1.25, y, _format_scores(row), va="center", color=INK, fontsize=8.5, clip_on=False)
    axes.set_xscale("log")
    axes.set_xlim(floor, 1.1)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    labels = [_shorten(f"{row['task']}  {row['metric']}", 44) for row in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=9, color=INK, parse_math=False)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="x", color=PALE, linewidth=0.7)
    marks = "value (dot), 99.5% interval (bar), chance (orange)" + (",\nthe other model (diamond)" if others else "")
    _title(axes, f"Results: {marks}")
    return figure


def _format_scores(row: Mapping[str, Any]) -> str:
    interval = f" ({_percent(row['low'])}-{_percent(row['high'])})" if _is_finite(row["low"]) else ""
    chance = f"   chance {_percent(row['chance'])}" if _is_finite(row["chance"]) else ""
    return f"{_percent(row['value'])}{interval}{chance}"


def _percent(value: Any) -> str:
    return format_percent(value if _is_finite(value) else None)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _shorten(text: str, limit: int) -> str:
    return shorten(escape_controls(text), limit)  # a font has no lone surrogate


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    axes = figure.subplots()
    _plain(axes)
    return figure, axes


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(PALE)
    axes.tick_params(which="both", colors=GREY, labelsize=8, length=0)


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=11, color=INK, pad=10)
