"""The plots of a filter's page as SVG: drawn in the page itself, sharp at any width, legible on light and dark ground."""

import math
from collections.abc import Mapping, Sequence

KEPT, BEFORE, AFTER, INK, LINE = "#1f6feb", "#7b8794", "#d1480f", "#7b8794", "#7b879455"
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 24, 42
"""Margins, in the units of the drawing."""


def curve_svg(points: Sequence[Sequence[float]]) -> str:
    """Captions over queries, from the most frequent query to the rarest, before and after balancing; both axes logarithmic.

    Args:
        points: rank (from 1), captions before, captions after; those without a caption are not drawn.
    """
    found = [point for point in points if point[1] > 0]
    smallest = min((value for _, *values in found for value in values if value > 0), default=1)
    frame = _Frame(
        760,
        300,
        (0, math.log10(max([10, *(p[0] for p in found)]))),
        (math.floor(math.log10(smallest)), math.log10(max([10, *(p[1] for p in found)]))),
    )
    ticks = [frame.x_tick(e, f"{10**e:,}") for e in range(int(frame.x_range[1]) + 1)]
    powers = range(int(frame.y_range[0]), int(frame.y_range[1]) + 1)
    ticks += [frame.y_tick(e, f"{10**e:,}" if e >= 0 else f"{10.0**e:g}") for e in powers]
    lines = [
        frame.line([(math.log10(p[0]), math.log10(p[column])) for p in found if p[column] > 0], color, width)
        for column, color, width in ((1, BEFORE, 4), (2, AFTER, 1.8))
    ]
    key = frame.key([("before balancing", BEFORE), ("after", AFTER)])
    labels = frame.labels("query, from the most frequent to the rarest", "captions")
    return frame.svg("captions by query, before and after balancing", [*ticks, *lines, key, labels])


def lengths_svg(lengths: Mapping[str, int], step: int, last: int) -> str:
    """Kept captions by their length.

    Args:
        lengths: captions by length in steps.
        step: characters a step.
        last: the step that holds all longer ones too.
    """
    return histogram_svg("kept captions by length", lengths, step, ("characters", "captions"), last)


def histogram_svg(
    title: str, counted: Mapping[str, int], step: float, labels: tuple[str, str], last: int | None = None
) -> str:
    """How many there are in each step of a number.

    Args:
        counted: by the number of the step.
        step: its size.
        labels: of the number, and of what is counted.
        last: the step that holds all larger ones too.
    """
    steps = [int(name) for name in counted]
    most, start, end = max(counted.values(), default=1), min([0, *steps]), max(steps, default=0) + 1
    frame = _Frame(520, 300, (start, end), (0, most))
    apart = max(1, math.ceil((end - start) / 8))
    ticks = [frame.x_tick(at, f"{step * at:g}") for at in range(start, end, apart)]
    ticks += [frame.y_tick(value, f"{value:,}") for value in _round_values(most)]
    bars = [frame.bar(int(name), number, KEPT) for name, number in counted.items()]
    label = f"{labels[0]} (the last bar: {step * last:g} and more)" if last in steps else labels[0]
    return frame.svg(title, [*ticks, *bars, frame.labels(label, labels[1])])


class _Frame:
    """A drawing of so many units with two axes."""

    def __init__(self, width: int, height: int, x_range: tuple[float, float], y_range: tuple[float, float]):
        self.width, self.height, self.x_range, self.y_range = width, height, x_range, y_range

    def x(self, value: float) -> float:
        low, high = self.x_range
        return LEFT + (self.width - LEFT - RIGHT) * (value - low) / ((high - low) or 1)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return self.height - BOTTOM - (self.height - TOP - BOTTOM) * (value - low) / ((high - low) or 1)

    def x_tick(self, value: float, label: str) -> str:
        return _text(self.x(value), self.height - BOTTOM + 17, label, "middle")

    def y_tick(self, value: float, label: str) -> str:
        y = f"{self.y(value):.1f}"
        grid = f'<line x1="{LEFT}" x2="{self.width - RIGHT}" y1="{y}" y2="{y}" stroke="{LINE}"/>'
        return grid + _text(LEFT - 8, self.y(value) + 4, label, "end")

    def line(self, points: Sequence[tuple[float, float]], color: str, width: float) -> str:
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        return (
            f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{width}" stroke-linejoin="round"/>'
        )

    def bar(self, at: int, value: float, color: str) -> str:
        left, right, top = self.x(at + 0.06), self.x(at + 0.94), self.y(value)
        size = f'width="{right - left:.1f}" height="{self.y(0) - top:.1f}"'
        return f'<rect x="{left:.1f}" y="{top:.1f}" {size} fill="{color}"/>'

    def key(self, names: Sequence[tuple[str, str]]) -> str:
        """What each colour is, at the top right."""
        said, right = "", float(self.width - RIGHT)
        for name, color in reversed(names):
            said += _text(right, 14, name, "end", color)
            right -= 7.5 * len(name) + 18
        return said

    def labels(self, x: str, y: str) -> str:
        middle = (LEFT + self.width - RIGHT) / 2
        return _text(middle, self.height - 6, x, "middle") + _text(0, 14, y, "start")

    def svg(self, title: str, inside: Sequence[str]) -> str:
        """The whole drawing; it can stand in a page or be a file of its own."""
        size = f'viewBox="0 0 {self.width} {self.height}" width="{self.width}"'
        font = f'font-family="system-ui, sans-serif" font-size="13" fill="{INK}"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font} role="img">'
        return f"{head}<title>{title}</title>{''.join(inside)}</svg>"


def _text(x: float, y: float, text: str, anchor: str, color: str | None = None) -> str:
    fill = f' fill="{color}"' if color else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{fill}>{text}</text>'


def _round_values(most: float) -> list[int]:
    """A few round numbers from 0 to `most`."""
    rough = max(most, 1) / 4
    power = 10 ** math.floor(math.log10(rough))
    step = max(1, next(int(n * power) for n in (1, 2, 5, 10) if n * power >= rough))
    return list(range(0, int(most) + 1, step))
