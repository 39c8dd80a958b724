"""The results of an evaluation as one drawing: each metric with its interval, beside chance and another model."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dataops.formatting import format_percent
from tasks.reports.page import shorten
from tasks.reports.svg_drawing import Drawing

WIDTH, LEFT, RIGHT = 960, 300, 660
"""Width of the drawing, and the ends of its axis, in its units."""
TOP, ROW_HEIGHT, BOTTOM = 44, 24, 30
"""Heights above the first row, of a row, and below the last row."""
SMALLEST = 0.01
"""The axis begins at half of this share, or of the smallest value if that is smaller."""


def draw_results(rows: Sequence[Mapping[str, Any]], others: Mapping[str, float] | None = None) -> Drawing:
    """Draw each metric with its interval beside chance, on a log axis: they differ by orders of magnitude.

    Args:
        rows: of `training.evaluation.intervals.flatten_metrics`; `value` and `chance` are shares (0 to 1). A value of 0
            is drawn at the left end.
        others: values of another model, by the rows' `key`.
    """
    others = others or {}
    drawing = Drawing("results.svg", "results beside chance", WIDTH, TOP + ROW_HEIGHT * len(rows) + BOTTOM)
    found = [row[name] for row in rows for name in ("value", "low", "chance")]
    floor = min([*(value for value in found if _is_finite(value) and value > 0), SMALLEST]) / 2
    _add_key(drawing, bool(others))
    _add_axis(drawing, floor)
    for number, row in enumerate(rows):
        _add_row(drawing, row, others.get(row.get("key", "")), floor, TOP + ROW_HEIGHT * number + ROW_HEIGHT / 2)
    return drawing


def _x(share: float, floor: float) -> float:
    return LEFT + (RIGHT - LEFT) * (1 - math.log10(max(share, floor)) / math.log10(floor))


def _add_key(drawing: Drawing, has_other: bool) -> None:
    """Add the meaning of each mark, in one line at the top."""
    y, x = 16.0, float(LEFT)
    drawing.add("rect", x=x, y=y - 3, width=26, height=6, class_="interval")
    drawing.add("circle", cx=x + 13, cy=y, r=4, class_="value")
    drawing.add("text", "value and 99.5% interval", x=x + 34, y=y + 4)
    drawing.add("line", x1=x + 206, x2=x + 206, y1=y - 7, y2=y + 7, class_="chance")
    drawing.add("text", "chance", x=x + 216, y=y + 4)
    if has_other:
        _add_diamond(drawing, x + 286, y)
        drawing.add("text", "the other model", x=x + 298, y=y + 4)


def _add_axis(drawing: Drawing, floor: float) -> None:
    bottom = drawing.height - BOTTOM
    for power in range(math.ceil(math.log10(floor)), 1):
        x = _x(10.0**power, floor)
        drawing.add("line", x1=x, x2=x, y1=TOP - 8, y2=bottom, class_="grid")
        drawing.add("text", f"{100 * 10.0**power:g}%", x=x, y=bottom + 18, class_="tick")


def _add_row(drawing: Drawing, row: Mapping[str, Any], other: Any, floor: float, y: float) -> None:
    drawing.add("text", shorten(f"{row['task']}  {row['metric']}", 42), x=LEFT - 14, y=y + 4, class_="name")
    if _is_finite(row["low"]) and _is_finite(row["high"]):
        low, high = _x(row["low"], floor), _x(row["high"], floor)
        drawing.add("rect", x=low, y=y - 3, width=max(high - low, 1.0), height=6, class_="interval")
    if _is_finite(row["chance"]):
        x = _x(row["chance"], floor)
        drawing.add("line", x1=x, x2=x, y1=y - 8, y2=y + 8, class_="chance")
    if _is_finite(other):
        _add_diamond(drawing, _x(other, floor), y)
    if _is_finite(row["value"]):
        drawing.add("circle", cx=_x(row["value"], floor), cy=y, r=4, class_="value")
    drawing.add("text", _format_scores(row), x=RIGHT + 16, y=y + 4, class_="scores")


def _add_diamond(drawing: Drawing, x: float, y: float) -> None:
    points = " ".join(f"{px:.1f},{py:.1f}" for px, py in ((x - 6, y), (x, y - 6), (x + 6, y), (x, y + 6)))
    drawing.add("polygon", points=points, class_="other")


def _format_scores(row: Mapping[str, object]) -> str:
    interval = f" ({_percent(row['low'])}-{_percent(row['high'])})" if _is_finite(row["low"]) else ""
    chance = f"   chance {_percent(row['chance'])}" if _is_finite(row["chance"]) else ""
    return f"{_percent(row['value'])}{interval}{chance}"


def _percent(value: Any) -> str:
    return format_percent(value if _is_finite(value) else None)


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
