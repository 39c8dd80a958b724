import re

import pytest

from tasks.reports.page import render
from tasks.reports.svg_funnel import BARS, draw_funnel

STAGES = [
    {"stage": "extract", "input": 900, "kept": 800, "dropped": 100, "reasons": {"not_http": 100}},
    {"stage": "filter", "input": 800, "kept": 0, "dropped": 800, "reasons": {f"reason_{i}": 100 for i in range(8)}},
    {"stage": "download", "input": 0, "kept": 0, "dropped": 0, "reasons": {}},
]


def bar_widths(stages: list[dict[str, object]]) -> list[float]:
    drawing = render("funnel.svg", drawing=draw_funnel(stages, "heading", "total"))
    return [float(width) for width in re.findall(r'width="([0-9.]+)" height="26"', drawing)]


def test_draw_funnel_draws_all_stages_to_one_scale() -> None:
    stages = [
        {"stage": "extract", "input": 1000, "kept": 500, "dropped": 500, "reasons": {f"r{n}": 50 for n in range(10)}},
        {"stage": "filter", "input": 500, "kept": 0, "dropped": 500, "reasons": {"x": 499, "y": 1}},
    ]
    bars = bar_widths(stages)
    assert sum(bars[:7]) == pytest.approx(BARS, abs=1), "kept, five reasons, and all others as one"
    assert bars[0] == pytest.approx(310)
    assert bars[7:] == [0, pytest.approx(309.4, abs=0.1), 1.0], "a small reason has a bar too"
    assert "5 other reasons 250" in render("funnel.svg", drawing=draw_funnel(stages, "heading", "total"))


def test_draw_funnel_draws_bars_that_add_up_to_the_input() -> None:
    scale = BARS / 900
    bars = bar_widths(STAGES)
    assert bars[:2] == pytest.approx([800 * scale, 100 * scale], abs=0.1)
    assert sum(bars[2:-1]) == pytest.approx(800 * scale, abs=0.4)
    assert bars[-1] == 0


def test_draw_funnel_merges_rare_reasons_without_loss() -> None:
    assert "3 other reasons 300" in render("funnel.svg", drawing=draw_funnel(STAGES, "heading", "total"))
