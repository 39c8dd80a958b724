"""Compare filtering with pandas for rules, DuckDB for dedupe, ahocorasick_rs for queries, and rensa for MinHash
signatures.

    pip install -e '.[bench]'
    python -m benchmarks.filter [--quick] [--json] [--rows 5000000] [--folder DIR] [--only rules,stage]

The pairs are synthetic (benchmarks/inputs/rows.py); `--folder` keeps them for the next run. Each side of a comparison runs
in its own process, in turn (A B A B, medians of wall time), and each case checks that both find the same. Memory is the
peak of the private memory of a process and all its descendants; resident memory includes libraries, once per process.
The limits read the columns and do no more.
The resident memory of the whole stage must be below `memory_limit_bytes` (else the exit code is 1).
"""

import json
import resource
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.cases import filter_cases
from benchmarks.cases.filter_minhash import CAPTIONS, measure_minhash
from benchmarks.inputs.rows import make_parts
from benchmarks.measure import Row, finish, make_parser, make_printer, require_peers, run_in_process

PACKAGES = (
    *("polars", "pandas", "duckdb", "pyarrow", "numba", "wordfreq"),
    *("ahocorasick_rs", "rensa"),
)
PEERS = ("pandas", "duckdb", "ahocorasick_rs", "rensa", "wordfreq")
MANY = 4_000_000
"""Minimum number of rows with which the whole stage has a goal."""
QUICK_QUERIES, QUICK_CAPTIONS = 100_000, 5_000
MATCHED_PARTS = 1
"""Number of parts whose captions are matched: the peers take seconds for each."""


def _run_case(name: str, paths: list[str]) -> tuple[float, float, Any]:
    seconds, result = getattr(filter_cases, name)([Path(path) for path in paths])
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return seconds, sum(one.ru_utime + one.ru_stime for one in used), result


class Measured(NamedTuple):
    """Cost and result of a function of filter_cases."""

    seconds: float
    cpu_seconds: float
    """CPU time of all its processes, with their start; it depends less on other processes than wall time."""
    peak: int
    """Peak resident memory of all processes, in bytes."""
    own: int
    """Peak private memory of all processes, in bytes."""
    result: Any


def run_case(name: str, paths: Sequence[Path]) -> Measured:
    """Run a function of filter_cases in its own process."""
    (seconds, cpu_seconds, result), memory = run_in_process(_run_case, name, [str(path) for path in paths])
    return Measured(seconds, cpu_seconds, memory.peak, memory.own, result)


def compare(
    case: str, ours: str, peers: Sequence[str], paths: Sequence[Path], rows: int, times: int, goal: float | None
) -> Any:
    """Measure ours and the peers in turn on the same parts; return rows, whether all results are equal, and a line."""
    runs: dict[str, list[Measured]] = {name: [] for name in (ours, *peers)}
    for _ in range(times):
        for name, measured in runs.items():
            measured.append(run_case(name, paths))
    speed = {name: rows / statistics.median(run.seconds for run in measured) for name, measured in runs.items()}
    limit = rows / run_case(f"{case}_limit", paths).seconds
    memory = {name: max(run.own for run in measured) / 1e6 for name, measured in runs.items()}
    equal = len({json.dumps(run.result) for measured in runs.values() for run in measured}) == 1
    table = []
    for peer in peers:
        name = peer.partition("_")[2]
        memory_goal = goal if case == "dedupe" else None
        table += [
            Row(case, speed[ours], speed[peer], name, "rows/s", goal if peer == peers[0] else None, limit),
            Row(f"{case} memory", 1 / memory[ours], 1 / memory[peer], name, "1/MB", memory_goal),
        ]
    costs = ", ".join(f"{name} {speed[name]:,.0f} rows/s, {n:,.0f} MB" for name, n in memory.items())
    return table, equal, f"{case}, {rows:,} rows: {costs}; found {json.dumps(runs[ours][0].result)}, equal: {equal}"


def measure_stage(folder: Path, size: int, say: Callable[[str], Any]) -> tuple[list[Row], bool]:
    """Run the whole stage on the first `size` rows; return rows, and whether its memory is below the limit."""
    paths, _ = make_parts(folder, size)
    run = run_case("stage", paths)
    costs = f"{run.seconds:.1f} s, {run.cpu_seconds:.1f} s of CPU, {run.peak / 1e6:,.0f} MB resident in all processes"
    say(f"whole stage, {size:,} rows: {costs}; {json.dumps(run.result)}")
    goal = 1 if size >= MANY else None  # with fewer, starting a process takes longer
    rows = [
        Row(f"stage {size}", size / run.seconds, 200_000, "the goal", "rows/s", goal),
        Row(f"stage {size}, by CPU", size / run.cpu_seconds, 100_000, "the goal", "rows/s a core", goal),
        Row(f"stage {size}, room in memory", filter_cases.MEMORY_LIMIT / 1e6, run.peak / 1e6, "resident", "MB", 1),
    ]
    return rows, run.peak <= filter_cases.MEMORY_LIMIT


def main() -> int:
    """Run the benchmark."""
    parser = make_parser(__doc__ or "")
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--times", type=int, default=3, help="repetitions of each measurement")
    parser.add_argument("--folder", type=Path, help="folder that keeps the pairs (0.6 GB for 5 million)")
    parser.add_argument("--only", default="rules,dedupe,match,minhash,stage", help="the cases to run")
    options = parser.parse_args()
    number = 300_000 if options.quick else options.rows
    times = 1 if options.quick else options.times
    say = make_printer(options.json)
    require_peers(*PEERS)
    with tempfile.TemporaryDirectory(prefix="pairmill-benchmark-") as temporary:
        folder = options.folder or Path(temporary)
        paths, parts = make_parts(folder, number)
        few = paths[:MATCHED_PARTS]
        if "match" in options.only:
            filter_cases.make_queries(folder, QUICK_QUERIES if options.quick else filter_cases.QUERIES)
        cases: list[tuple[str, str, list[str], Sequence[Path], float | None]] = [
            ("rules", "rules_ours", ["rules_pandas"], paths, 6),
            ("dedupe", "dedupe_ours", ["dedupe_duckdb"], paths, None if options.quick else 1.2),
            ("match", "match_ours", ["match_ahocorasick_rs"], few, 5),
        ]
        rows: list[Row] = []
        equal = True
        for case, ours, peers, inputs, goal in cases:
            if case in options.only:
                measured = sum(part.rows for part in parts[: len(inputs)])
                table, same, line = compare(case, ours, peers, inputs, measured, times, goal)
                rows, equal = rows + table, equal and same
                say(line)
        if "minhash" in options.only:
            table, same, line = measure_minhash(paths[0], QUICK_CAPTIONS if options.quick else CAPTIONS, times)
            rows, equal = rows + table, equal and same
            say(line)
        if "stage" in options.only:
            table, same = measure_stage(folder, number, say)
            rows, equal = rows + table, equal and same
    return finish("filter", rows, PACKAGES, equal=equal, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
