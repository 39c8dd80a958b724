"""Draw the metrics of a model over its versions: one panel for each metric, with an axis of its own."""

import math
from collections.abc import Mapping, Sequence

from tasks.reports.page import shorten
from tasks.reports.svg_drawing import Drawing

WIDTH, LEFT, RIGHT = 440, 10, 305
"""Width of the drawing, and the ends of the axis of versions, in its units."""
TOP, PANEL, GAP, BOTTOM = 56, 48, 36, 10
"""Heights above the first panel, of a panel, between two (with the name of the lower one), and below the last one."""
LINE, MARKED = "#1f6feb", "#d1480f"
TICKS = 12
"""Maximum number of versions that are named below the panels."""


def draw_history(
    versions: Sequence[str], metrics: Mapping[str, Sequence[float | None]], marked: str | None, mark: str
) -> Drawing:
    """Draw a line for each metric, from the oldest version to the newest.

    Args:
        versions: numbers of the versions, oldest first.
        metrics: values by name, one for each version; None where it was not measured.
        marked: the version that is drawn in another colour.
        mark: what the colour means, such as the name of an alias.
    """
    height = TOP + len(metrics) * (PANEL + GAP) + BOTTOM
    drawing = Drawing("chart.svg", "metrics of each version", WIDTH, height)
    if marked in versions:
        drawing.add("circle", cx=LEFT + 2, cy=12, r=4.5, fill=MARKED)
        drawing.add("text", shorten(mark, 60), x=LEFT + 14, y=16)
    for number, (name, values) in enumerate(metrics.items()):
        _add_panel(
            drawing, TOP + number * (PANEL + GAP), name, values, versions.index(marked) if marked in versions else None
        )
    stride = math.ceil(len(versions) / TICKS)
    for number in range(len(versions) - 1, -1, -stride or -1):
        x = _x(number, len(versions))
        drawing.add("text", versions[number], x=x, y=height - BOTTOM - GAP + 22, text_anchor="middle")
    drawing.add("text", "version", x=RIGHT + 16, y=height - BOTTOM - GAP + 22)
    return drawing


def _x(number: int, count: int) -> float:
    return (LEFT + RIGHT) / 2 if count == 1 else LEFT + (RIGHT - LEFT) * number / (count - 1)


def _add_panel(drawing: Drawing, top: float, name: str, values: Sequence[float | None], marked: int | None) -> None:
    points = [(number, value) for number, value in enumerate(values) if value is not None and math.isfinite(value)]
    drawing.add("line", x1=LEFT, x2=RIGHT, y1=top + PANEL, y2=top + PANEL, stroke="#7b879455")
    drawing.add("text", shorten(name, 60), x=LEFT, y=top - 8)
    if not points:
        drawing.add("text", "not measured", x=RIGHT + 16, y=top + PANEL / 2 + 4)
        return
    low, high = min(value for _, value in points), max(value for _, value in points)
    places = [
        (_x(number, len(values)), top + PANEL - (PANEL - 8) * ((value - low) / (high - low) if high > low else 0.5))
        for number, value in points
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    drawing.add("polyline", points=line, fill="none", stroke=LINE, stroke_width=1.5, stroke_linejoin="round")
    for (number, _), (x, y) in zip(points, places, strict=True):
        is_marked = number == marked
        drawing.add("circle", cx=x, cy=y, r=4.5 if is_marked else 3.0, fill=MARKED if is_marked else LINE)
    drawing.add("text", _format(points[-1][1]), x=RIGHT + 16, y=top + PANEL / 2 + 4)
    if high > low:
        drawing.add("text", f"{_format(low)} to {_format(high)}", x=RIGHT + 16, y=top + PANEL / 2 + 20, font_size=11)


def _format(value: float) -> str:
    """Return a share as a percentage, and a count with separators."""
    return f"{100 * value:.2f}%" if abs(value) <= 1 else f"{value:,.0f}" if value == int(value) else f"{value:.4g}"
