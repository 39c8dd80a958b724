"""The funnel from archive to shard as one drawing: what each stage kept and dropped, all to one scale."""

from collections.abc import Mapping, Sequence
from typing import Any

from dataops.formatting import format_share
from tasks.reports.page import shorten
from tasks.reports.svg_drawing import Drawing

WIDTH, LEFT, BARS = 940, 92, 620
"""Widths of the drawing, of the stages' names and of the widest bar, in its units."""
TOP, BAR_HEIGHT, STAGE_HEIGHT = 46, 26, 92
"""Heights above the first bar, of a bar, and from one bar to the next."""
KEPT = "var(--kept, #1f6feb)"
REASONS = ("#f4a259", "#e9775f", "#c8553d", "#9c6644", "#b08968", "#8d99ae")
"""Colours of the reasons of a stage, most frequent first; the last is that of all others together."""
CHARACTER_WIDTH = 6.1
"""Mean width of a character of the smallest text."""


def draw_funnel(stages: Sequence[Mapping[str, Any]], heading: str, total: str) -> Drawing:
    """Draw one bar a stage.

    Args:
        stages: rows of `dataops.funnel.funnel_stages`.
        heading: stands above the first bar, for example what the first stage read.
        total: stands below the last bar.
    """
    end = TOP + len(stages) * STAGE_HEIGHT
    drawing = Drawing("funnel.svg", "pairs kept and dropped, by stage", WIDTH, end + 8)
    widest = max([1, *(row["input"] for row in stages)])
    _add_text(drawing, LEFT, 18, heading, "soft")
    for number, row in enumerate(stages):
        y = TOP + number * STAGE_HEIGHT
        if number:
            ends = y - STAGE_HEIGHT + BAR_HEIGHT, y
            _add_band(drawing, stages[number - 1]["kept"] / widest, row["input"] / widest, ends)
        _add_text(drawing, LEFT - 12, y + 18, row["stage"], "name")
        _add_bar(drawing, row, y, widest)
    kept = stages[-1]["kept"] / widest if stages else 0
    _add_band(drawing, kept, kept, (end - STAGE_HEIGHT + BAR_HEIGHT, end - 26))
    _add_text(drawing, LEFT, end - 4, total, "total")
    return drawing


def _add_bar(drawing: Drawing, row: Mapping[str, Any], y: float, widest: int) -> None:
    """Add what a stage kept, then what it dropped by reason, with the numbers beside it and the reasons below."""
    scale = BARS / widest
    reasons = _merge_rare(row["reasons"])
    x = float(LEFT)
    for color, count in [(KEPT, row["kept"]), *zip(REASONS, (count for _, count in reasons), strict=False)]:
        width = float(count * scale)
        drawing.add("rect", x=x, y=float(y), width=max(width, 1.0) if width else 0.0, height=BAR_HEIGHT, fill=color)
        x += width
    share = f" ({format_share(row['kept'], row['input'])})" if row["input"] else ""
    _add_text(drawing, x + 10, y + 18, f"{row['kept']:,} of {row['input']:,}{share}")
    _add_reasons(drawing, reasons, y + BAR_HEIGHT + 15)


def _merge_rare(reasons: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return as many reasons as there are colours: the most frequent ones, and all others as one."""
    items, shown = list(reasons.items()), len(REASONS) - 1
    if len(items) <= len(REASONS):
        return items
    return [*items[:shown], (f"{len(items) - shown} other reasons", sum(count for _, count in items[shown:]))]


def _add_reasons(drawing: Drawing, reasons: Sequence[tuple[str, int]], y: float) -> None:
    """Add the reasons in their colours, in as many lines as they need."""
    x = float(LEFT)
    for color, (reason, count) in zip(REASONS, reasons, strict=False):
        label = f"{shorten(reason, 40)} {count:,}"
        if x > LEFT and x + 14 + CHARACTER_WIDTH * len(label) > WIDTH:
            x, y = float(LEFT), y + 16
        drawing.add("rect", x=x, y=float(y - 9), width=9, height=9, fill=color)
        _add_text(drawing, x + 14, y, label, "reason")
        x += 14 + CHARACTER_WIDTH * len(label) + 16


def _add_band(drawing: Drawing, above: float, below: float, ends: tuple[float, float]) -> None:
    """Add a band from what a stage kept to what comes after it.

    Args:
        above: width at the top, as a share of the widest bar.
        below: width at the bottom.
        ends: y of both.
    """
    points = (LEFT, ends[0]), (LEFT + above * BARS, ends[0]), (LEFT + below * BARS, ends[1]), (LEFT, ends[1])
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    drawing.add("polygon", points=path, fill=KEPT, opacity=".13")


def _add_text(drawing: Drawing, x: float, y: float, text: str, style: str | None = None) -> None:
    drawing.add("text", text, x=float(x), y=float(y), class_=style)
