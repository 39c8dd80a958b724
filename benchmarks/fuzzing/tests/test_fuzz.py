"""Fuzz each parser of foreign bytes with a fixed seed, and test that the fuzzing finds what it must.

`python -m benchmarks.fuzz --seconds 3600` does the same for longer.
"""

import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from benchmarks.fuzz import fuzz_target
from benchmarks.fuzzing.engines import fuzz_at_random
from benchmarks.fuzzing.runner import Runner
from benchmarks.fuzzing.target import Limits, Parser, Target
from benchmarks.fuzzing.targets import TARGETS

EXAMPLES = 25
"""Inputs of each target: all of them take about 5 s of CPU time."""
SLACK = 10.0
"""Factor of the time limits on a machine with other load; what they must find takes minutes."""
SEED = 21


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.timeout(300)
def test_mutated_input_raises_only_deliberate_errors_within_its_limits(name, tmp_path):
    runner = Runner(TARGETS[name], tmp_path, slack=SLACK)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # libraries' warnings about damaged files
        fuzz_at_random(runner, SEED, lambda: False, EXAMPLES)
    assert runner.stats.finds == []
    assert runner.stats.executions >= EXAMPLES


# The fuzzing itself ---------------------------------------------------------------------------------------------------


def parse_planted(data):
    """Fail in the ways that fuzzing must find."""
    if b"<bug>" in data:
        raise KeyError("planted")
    if b"<loop>" in data:
        while time.process_time() >= 0:
            pass
    if b"<slow>" in data:
        started = time.process_time()
        while time.process_time() - started < 0.12:
            pass
    if b"<memory>" in data:
        bytearray(b"x" * 60_000_000)
    if b"<abort>" in data:
        os.abort()
    if data.startswith(b"no"):
        raise ValueError("deliberate")
    return f"{data[:1]!r}"


def planted(*tokens):
    limits = Limits(
        seconds=0.05 if b"<slow>" in tokens or b"<loop>" in tokens else 30.0,
        seconds_per_mb=0,
        memory_mb=30,
        memory_per_byte=0,
    )
    return Target("planted", lambda: Parser(parse_planted, (ValueError,)), lambda: [b"no", b"seed"], tokens, limits)


PLANTED_ABORT = planted(b"<abort>")
PLANTED_LOOP = planted(b"<loop>")


@pytest.mark.parametrize(
    ("token", "kind", "what"),
    [(b"<bug>", "error", "KeyError"), (b"<slow>", "slow", "CPU"), (b"<memory>", "memory", "MB")],
)
def test_a_planted_defect_is_found_and_its_input_is_kept(token, kind, what, tmp_path):
    runner = Runner(planted(token), tmp_path)
    fuzz_at_random(runner, 0, lambda: bool(runner.stats.finds), 20_000)  # it ends at the first find
    [find] = runner.stats.finds
    assert (find["kind"], what in find["what"]) == (kind, True)
    kept = Path(find["repeat"].split()[-1])
    assert token in kept.read_bytes()
    assert kept.with_suffix(".txt").read_text().startswith(find["what"])
    again = Runner(planted(token), tmp_path)
    again.run(kept.read_bytes())
    assert [one["kind"] for one in again.stats.finds] == [kind]


RETAINED = """
import ctypes, sys
from pathlib import Path
libc = ctypes.CDLL(None)
libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD: large blocks come from the heap
libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD: which never shrinks
from benchmarks.fuzzing.runner import Runner
from benchmarks.fuzzing.tests.test_fuzz import planted
runner = Runner(planted(b"<memory>"), Path(sys.argv[1]))
kept = bytearray(b"x" * 60_000_000), bytearray(b"x" * 60_000_000)
above = bytearray(1_000)
del kept
runner.run(b"<memory>")
print(runner.stats.finds)
"""


def test_memory_that_the_allocator_retains_hides_no_defect(tmp_path):
    done = subprocess.run([sys.executable, "-c", RETAINED, tmp_path], check=True, capture_output=True, text=True)
    assert "'kind': 'memory'" in done.stdout


@pytest.mark.parametrize("name", ["PLANTED_ABORT", "PLANTED_LOOP"])
@pytest.mark.timeout(300)
def test_an_input_that_ends_or_stops_the_process_is_kept(name, tmp_path):
    result = fuzz_target(f"{__name__}:{name}", "random", 600, 0, tmp_path, max_crashes=1)
    [find] = result["finds"]
    assert find["kind"] == "crash"
    assert name.removeprefix("PLANTED_").lower().encode() in Path(find["repeat"].split()[-1]).read_bytes()
