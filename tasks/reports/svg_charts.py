"""Charts as SVG: captions over queries before and after balancing, and histograms. Legible on light and dark ground."""

import math
from collections.abc import Mapping, Sequence

from tasks.reports.svg_drawing import Drawing

KEPT, BEFORE, AFTER, LINE = "#1f6feb", "#7b8794", "#d1480f", "#7b879455"
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 24, 42
"""Margins, in the units of the drawing."""


def draw_curve(points: Sequence[Sequence[float]]) -> Drawing:
    """Draw captions over queries, from the most frequent query to the rarest, before and after balancing.

    Both axes are logarithmic.

    Args:
        points: rank (from 1), captions before, captions after; those without a caption are not drawn.
    """
    found = [point for point in points if point[1] > 0]
    smallest = min((value for _, *values in found for value in values if value > 0), default=1)
    x_range = 0, math.log10(max([10, *(point[0] for point in found)]))
    y_range = math.floor(math.log10(smallest)), math.log10(max([10, *(point[1] for point in found)]))
    chart = _Chart("captions by query, before and after balancing", 760, x_range, y_range)
    for power in range(int(x_range[1]) + 1):
        chart.add_x_tick(power, f"{10**power:,}")
    for power in range(int(y_range[0]), int(y_range[1]) + 1):
        chart.add_y_tick(power, f"{10**power:,}" if power >= 0 else f"{10.0**power:g}")
    for column, color, width in ((1, BEFORE, 4), (2, AFTER, 1.8)):
        chart.add_line([(math.log10(p[0]), math.log10(p[column])) for p in found if p[column] > 0], color, width)
    chart.add_key([("before balancing", BEFORE), ("after", AFTER)])
    chart.add_axis_titles("query, from the most frequent to the rarest", "captions")
    return chart.drawing


def draw_histogram(
    title: str, counts: Mapping[str, int], step: float, labels: tuple[str, str], last: int | None = None
) -> Drawing:
    """Draw how many there are in each step of a number.

    Args:
        title: for screen readers.
        counts: by the number of the step.
        step: its size.
        labels: of the number, and of what is counted.
        last: the step that holds all larger ones too.
    """
    steps = [int(name) for name in counts]
    highest, start, end = max(counts.values(), default=1), min([0, *steps]), max(steps, default=0) + 1
    chart = _Chart(title, 520, (start, end), (0, highest))
    for tick in range(start, end, max(1, math.ceil((end - start) / 8))):
        chart.add_x_tick(tick, f"{step * tick:g}")
    for tick in _round_values(highest):
        chart.add_y_tick(tick, f"{tick:,}")
    for name, count in counts.items():
        chart.add_bar(int(name), count)
    more = f" (the last bar: {step * last:g} and more)" if last is not None and last in steps else ""
    chart.add_axis_titles(labels[0] + more, labels[1])
    return chart.drawing


class _Chart:
    """Two axes in a drawing: methods take values and add shapes."""

    def __init__(self, title: str, width: int, x_range: tuple[float, float], y_range: tuple[float, float]):
        self.drawing = Drawing("chart.svg", title, width, 300)
        self.x_range, self.y_range = x_range, y_range
        self.right, self.bottom = width - RIGHT, 300 - BOTTOM

    def x(self, value: float) -> float:
        low, high = self.x_range
        return LEFT + (self.right - LEFT) * (value - low) / ((high - low) or 1)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return self.bottom - (self.bottom - TOP) * (value - low) / ((high - low) or 1)

    def add_text(self, x: float, y: float, text: str, anchor: str, color: str | None = None) -> None:
        self.drawing.add("text", text, x=float(x), y=float(y), text_anchor=anchor, fill=color)

    def add_x_tick(self, value: float, label: str) -> None:
        self.add_text(self.x(value), self.bottom + 17, label, "middle")

    def add_y_tick(self, value: float, label: str) -> None:
        y = self.y(value)
        self.drawing.add("line", x1=LEFT, x2=self.right, y1=y, y2=y, stroke=LINE)
        self.add_text(LEFT - 8, y + 4, label, "end")

    def add_line(self, points: Sequence[tuple[float, float]], color: str, width: float) -> None:
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        self.drawing.add(
            "polyline", points=path, fill="none", stroke=color, stroke_width=width, stroke_linejoin="round"
        )

    def add_bar(self, step: int, value: float) -> None:
        left, right, top = self.x(step + 0.06), self.x(step + 0.94), self.y(value)
        self.drawing.add("rect", x=left, y=top, width=right - left, height=self.y(0) - top, fill=KEPT)

    def add_key(self, names: Sequence[tuple[str, str]]) -> None:
        """Add the name of each colour, at the top right."""
        right = float(self.right)
        for name, color in reversed(names):
            self.add_text(right, 14, name, "end", color)
            right -= 7.5 * len(name) + 18

    def add_axis_titles(self, x: str, y: str) -> None:
        self.add_text((LEFT + self.right) / 2, self.drawing.height - 6, x, "middle")
        self.add_text(0, 14, y, "start")


def _round_values(highest: float) -> list[int]:
    """Return a few round numbers from 0 to `highest`."""
    rough = max(highest, 1) / 4
    power = 10 ** math.floor(math.log10(rough))
    step = max(1, next(int(n * power) for n in (1, 2, 5, 10) if n * power >= rough))
    return list(range(0, int(highest) + 1, step))
