"""The funnel from archive to shard as one drawing (SVG): what each stage kept, and what left and why, all to one scale."""

from collections.abc import Mapping, Sequence
from typing import Any

from dataops.formatting import format_share
from tasks.reports.page import text

WIDTH, LEFT, BARS, TOP, HIGH, APART = 940, 92, 620, 46, 26, 92
"""Of the drawing, of the stages' names, of the widest bar; above the first bar, of a bar, from one to the next."""
REASONS = ("#f4a259", "#e9775f", "#c8553d", "#9c6644", "#b08968", "#8d99ae")
"""Colours of the reasons of a stage, most frequent first; the last is that of all others together."""
CHARACTER = 6.1
"""Mean width of a character of the smallest text."""


def funnel_svg(stages: Sequence[Mapping[str, Any]], came: str, left: str) -> str:
    """The drawing.

    Args:
        stages: rows of `dataops.funnel.funnel_stages`.
        came: what stands above the first bar: what the first stage read.
        left: what stands below the last one.
    """
    most = max([1, *(row["input"] for row in stages)])
    drawn = [_text(LEFT, 18, came, "soft")]
    for number, row in enumerate(stages):
        y = TOP + number * APART
        if number:
            drawn.append(_band(stages[number - 1]["kept"] / most, row["input"] / most, y))
        drawn += [_text(LEFT - 12, y + 18, row["stage"], "name"), *_bar(row, y, most)]
    end = TOP + len(stages) * APART
    last = stages[-1]["kept"] / most if stages else 0
    drawn.append(_band(last, last, end - HIGH - 8, end - 26))
    drawn.append(_text(LEFT, end - 4, left, "end"))
    style = (
        "<style>.funnel text { font: 12px system-ui, sans-serif; fill: var(--ink, #1b2733); } "
        ".funnel .name { font-weight: 600; font-size: 13px; text-anchor: end; } .funnel .end { font-weight: 600; } "
        ".funnel .soft, .funnel .why { fill: var(--soft, #5b6875); } .funnel .why { font-size: 11px; }</style>"
    )
    size = f'viewBox="0 0 {WIDTH} {end + 8}" width="{WIDTH}"'
    title = "<title>pairs kept and dropped, by stage</title>"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="funnel" {size} role="img">{title}{style}{"".join(drawn)}</svg>'
    )


def _bar(row: Mapping[str, Any], y: float, most: int) -> list[str]:
    """A stage: what it kept, then what left by reason; the numbers beside it and the reasons below."""
    scale = BARS / most
    drawn = [_rect(LEFT, y, row["kept"] * scale, "var(--kept, #1f6feb)")]
    x = LEFT + row["kept"] * scale
    reasons = _folded(row["reasons"])
    for color, (_, number) in zip(REASONS, reasons, strict=False):
        drawn.append(_rect(x, y, number * scale, color))
        x += number * scale
    part = f" ({format_share(row['kept'], row['input'])})" if row["input"] else ""
    drawn.append(_text(x + 10, y + 18, f"{row['kept']:,} of {row['input']:,}{part}", ""))
    return drawn + _legend(reasons, y + HIGH + 15)


def _folded(reasons: Mapping[str, int]) -> list[tuple[str, int]]:
    items = list(reasons.items())
    shown = len(REASONS) - 1
    if len(items) <= len(REASONS):
        return items
    return [*items[:shown], (f"{len(items) - shown} other reasons", sum(number for _, number in items[shown:]))]


def _legend(reasons: Sequence[tuple[str, int]], y: float) -> list[str]:
    """The reasons in their colours, in as many lines as they need."""
    x, drawn = float(LEFT), []
    for color, (reason, number) in zip(REASONS, reasons, strict=False):
        label = f"{reason if len(reason) <= 40 else reason[:39] + '…'} {number:,}"
        if x > LEFT and x + 14 + CHARACTER * len(label) > WIDTH:
            x, y = float(LEFT), y + 16
        drawn += [_rect(x, y - 9, 9, color, 9), _text(x + 14, y, label, "why")]
        x += 14 + CHARACTER * len(label) + 16
    return drawn


def _band(above: float, below: float, y: float, end: float | None = None) -> str:
    """What a stage kept, on its way to the next."""
    top, bottom = (y - APART + HIGH, y) if end is None else (y - APART + HIGH + HIGH + 8, end)
    points = [(LEFT, top), (LEFT + above * BARS, top), (LEFT + below * BARS, bottom), (LEFT, bottom)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polygon points="{path}" fill="var(--kept, #1f6feb)" opacity=".13"/>'


def _rect(x: float, y: float, width: float, color: str, height: float = HIGH) -> str:
    wide = max(width, 1.0) if width else 0
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{height}" fill="{color}"/>'


def _text(x: float, y: float, said: str, style: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}">{text(said)}</text>'
