"""Test the inputs, the measurement and the simulation of the benchmarks."""

import subprocess
import sys

from benchmarks.cases.filter_cases import split_words
from benchmarks.inputs.rows import make_pairs
from benchmarks.measure import TreeMemory
from benchmarks.plan import format_table, read_costs, summarise
from dataops.home import CHECKOUT
from flows.planning.corpus import Prices, simulate


def test_make_pairs_returns_the_same_rows_for_any_size():
    whole = make_pairs(0, 3000)
    assert whole.slice(1000, 500).equals(make_pairs(1000, 500))
    assert len(set(whole["uid"].to_pylist())) < 0.95 * len(whole)
    assert len(set(whole["url"].to_pylist())) < 0.9 * len(whole)


def test_tree_memory_includes_child_processes():
    child = "import time; held = bytearray(60_000_000); time.sleep(1)"
    parent = f"import subprocess, sys; held = bytearray(50_000_000); subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen([sys.executable, "-c", parent]) as process, TreeMemory(process.pid) as memory:
        process.wait()
    assert 110_000_000 < memory.own <= memory.peak < 190_000_000


def test_split_words_equals_query_matching():
    assert split_words("A red-Kite, 赤い!  Straße") == ["a", "red", "kite", "赤", "い", "strasse"]


def test_simulate_is_limited_by_cores_or_driver():
    assert simulate(10, 1.0, 2, 0.0) == 5
    assert simulate(3, 1.0, 2, 0.0) == 2
    assert simulate(0, 1.0, 2, 0.0) == 0
    assert simulate(1001, 0.5, 1000, 0.1) == 100 + 0.5


def test_the_costs_on_the_page_on_scale_are_those_of_the_kept_results() -> None:
    page, costs = (CHECKOUT / "docs" / "scale.md").read_text("utf-8"), read_costs()
    for pairs in (128e6, 1.28e9):
        found = summarise(pairs, Prices(), costs)
        cells = [f"{found[name]:,.0f}" for name in ("pairs", "dataset", "core_hours")]
        cells += [f"{found['wall_hours']:,.1f}", f"{found['gpu_hours']:,.0f}"]
        cells += [f"${value:,.0f}" for value in found["dollars"].values()]
        assert f"| {' | '.join(cells)} |" in page
    rows = [line for line in format_table(found).splitlines() if line.startswith("|")]
    assert "\n".join(rows) in page
