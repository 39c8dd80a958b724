"""What the benchmarks stand on: rows that do not depend on how many there are, memory of all processes."""

import subprocess
import sys

from benchmarks.cases.filter_cases import said
from benchmarks.inputs.rows import pairs
from benchmarks.measure import TreeMemory
from benchmarks.plan import simulate


def test_a_smaller_set_is_the_beginning_of_a_greater_one():
    whole = pairs(0, 3000)
    assert whole.slice(1000, 500).equals(pairs(1000, 500))
    assert len(set(whole["uid"].to_pylist())) < 0.95 * len(whole)
    assert len(set(whole["url"].to_pylist())) < 0.9 * len(whole)


def test_memory_is_that_of_a_process_and_its_children():
    child = "import time; held = bytearray(60_000_000); time.sleep(1)"
    parent = f"import subprocess, sys; held = bytearray(50_000_000); subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen([sys.executable, "-c", parent]) as process, TreeMemory(process.pid) as memory:
        process.wait()
    assert 110_000_000 < memory.own <= memory.peak < 190_000_000


def test_words_as_the_peers_are_given_them():
    assert said("A red-Kite, 赤い!  Straße") == ["a", "red", "kite", "赤", "い", "strasse"]


def test_a_map_takes_as_long_as_its_cores_or_its_driver():
    assert simulate(10, 1.0, 2, 0.0) == 5
    assert simulate(3, 1.0, 2, 0.0) == 2
    assert simulate(0, 1.0, 2, 0.0) == 0
    assert simulate(1001, 0.5, 1000, 0.1) == 100 + 0.5
