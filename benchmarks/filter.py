"""Filtering against what is in use: pandas for rules and dedupe, pyahocorasick for queries (as MetaCLIP does), and
datasketch and rensa for MinHash signatures.

    pip install -e '.[bench]'
    python -m benchmarks.filter [--quick] [--json] [--rows 5000000] [--memory] [--folder DIR] [--only rules,stage]

benchmarks/inputs/rows.py says how the pairs are made; a folder that is given keeps them for the next time. Each side of a
comparison runs in a process of its own, in turn (A B A B, medians of the clock), and that both found the same is checked in
every case. Memory is the greatest sum, over a process and all that it started, of what they had allocated at one time;
resident memory has the code of libraries too, once for each process. `--memory` runs the whole stage at 1, 4 and 20 million
rows: its resident memory must stay under `memory_limit_bytes`, and be about the same for all (else the exit code is 1).
"""

import json
import multiprocessing
import resource
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.cases import filter_cases
from benchmarks.cases.filter_minhash import CAPTIONS, minhash
from benchmarks.inputs.rows import make_parts, told
from benchmarks.measure import Row, TreeMemory, arguments, finish

PACKAGES = (
    *("polars", "pandas", "pyarrow", "numba", "wordfreq"),
    *("pyahocorasick", "ahocorasick_rs", "datasketch", "rensa"),
)
MANY = 4_000_000
"""Rows from which on the whole stage has a goal."""
FLAT = 0.75
"""Of the memory that the most rows take, the least rows must take this share at least for it to count as flat."""
QUICK_QUERIES, QUICK_CAPTIONS = 100_000, 5_000
MATCHED_PARTS = 1
"""Parts whose captions are matched: the peers take seconds for each."""


def _child(name: str, paths: list[str], sink: Any) -> None:
    seconds, result = getattr(filter_cases, name)([Path(path) for path in paths])
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    sink.send((seconds, sum(one.ru_utime + one.ru_stime for one in used), result))


class Measured(NamedTuple):
    """What a function of filter_cases took, and what it found."""

    seconds: float
    cpu_seconds: float
    """Of all its processes, with their start: neighbours on the machine disturb it less than the clock."""
    peak: int
    """Bytes that were resident, in all processes."""
    own: int
    """Of them, those that belong to no file."""
    result: Any


def alone(name: str, paths: Sequence[Path]) -> Measured:
    """Run a function of filter_cases in a process of its own."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(name, [str(path) for path in paths], sender))
    process.start()
    sender.close()
    with TreeMemory(process.pid or 0) as memory:
        try:
            seconds, cpu_seconds, result = receiver.recv()
        finally:
            process.join()
    return Measured(seconds, cpu_seconds, memory.peak, memory.own, result)


def compare(
    case: str, ours: str, peers: Sequence[str], paths: Sequence[Path], rows: int, times: int, goal: float | None
) -> Any:
    """Ours and the peers' in turn, on the same parts: rows of the result, whether all found the same, and a line."""
    runs: dict[str, list[Measured]] = {name: [] for name in (ours, *peers)}
    for _ in range(times):
        for name, measured in runs.items():
            measured.append(alone(name, paths))
    speed = {name: rows / statistics.median(run.seconds for run in measured) for name, measured in runs.items()}
    memory = {name: max(run.own for run in measured) / 1e6 for name, measured in runs.items()}
    resident = {name: max(run.peak for run in measured) / 1e6 for name, measured in runs.items()}
    equal = len({json.dumps(run.result) for measured in runs.values() for run in measured}) == 1
    table = []
    for peer in peers:
        called = peer.partition("_")[2]
        table.append(Row(case, speed[ours], speed[peer], called, "rows/s", goal if peer == peers[0] else None))
        table.append(
            Row(
                f"{case} memory", 1 / memory[ours], 1 / memory[peer], called, "1/MB", goal if case == "dedupe" else None
            )
        )
        table.append(Row(f"{case} resident memory", 1 / resident[ours], 1 / resident[peer], called, "1/MB"))
    said = ", ".join(
        f"{name} {speed[name]:,.0f} rows/s, {n:,.0f} MB ({resident[name]:,.0f} MB resident)"
        for name, n in memory.items()
    )
    return table, equal, f"{case}, {rows:,} rows: {said}; found {json.dumps(runs[ours][0].result)}, equal: {equal}"


def stage_rows(folder: Path, size: int, say: Callable[[str], Any]) -> tuple[list[Row], int]:
    """The whole stage on the first `size` rows, and its greatest resident memory."""
    paths, _ = make_parts(folder, size)
    run = alone("stage", paths)
    took = f"{run.seconds:.1f} s, {run.cpu_seconds:.1f} s of CPU, {run.peak / 1e6:,.0f} MB resident in all processes"
    say(f"whole stage, {size:,} rows: {took}; {json.dumps(run.result)}")
    goal = 1 if size >= MANY else None  # of fewer, a process takes longer to start
    rows = [
        Row(f"stage {size}", size / run.seconds, 200_000, "the goal", "rows/s", goal),
        Row(f"stage {size}, by CPU", size / run.cpu_seconds, 100_000, "the goal", "rows/s a core", goal),
        Row(f"stage {size}, room in memory", filter_cases.MEMORY_LIMIT / 1e6, run.peak / 1e6, "resident", "MB", 1),
    ]
    return rows, run.peak


def stage(folder: Path, sizes: Sequence[int], say: Callable[[str], Any]) -> tuple[list[Row], bool]:
    """The whole stage on so many rows each, and whether its memory stayed within the limit, and about the same for all."""
    measured = {size: stage_rows(folder, size, say) for size in sizes}
    rows = [row for some, _ in measured.values() for row in some]
    least, most = (measured[size][1] / 1e6 for size in (min(sizes), max(sizes)))
    if len(sizes) > 1:
        rows.append(Row("stage memory, least against most rows", least, most, f"{max(sizes)} rows", "MB", FLAT))
    return rows, most <= filter_cases.MEMORY_LIMIT / 1e6 and least >= FLAT * most


def main() -> int:
    """Run the benchmark."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--times", type=int, default=3, help="of each measurement, of which the median counts")
    parser.add_argument("--memory", action="store_true", help="also the whole stage at 1, 4 and 20 million rows")
    parser.add_argument(
        "--folder", type=Path, help="where the pairs are kept for the next time (2.5 GB for 20 million)"
    )
    parser.add_argument("--only", default="rules,dedupe,match,minhash,stage", help="the cases to run")
    options = parser.parse_args()
    number = 300_000 if options.quick else options.rows
    times = 1 if options.quick else options.times
    say: Callable[[str], Any] = (lambda line: None) if options.json else lambda line: sys.stdout.write(line + "\n")
    with tempfile.TemporaryDirectory(prefix="pairmill-benchmark-") as temporary:
        folder = options.folder or Path(temporary)
        paths, parts = make_parts(folder, number)
        say(told(paths[0]))
        few = paths[:MATCHED_PARTS]
        if "match" in options.only:
            filter_cases.query_list(folder, QUICK_QUERIES if options.quick else filter_cases.QUERIES)
        cases: list[tuple[str, str, list[str], Sequence[Path], float | None]] = [
            ("rules", "rules_ours", ["rules_pandas"], paths, 6),
            ("dedupe", "dedupe_ours", ["dedupe_pandas"], paths, None if options.quick else 5),
            ("match", "match_ours", ["match_pyahocorasick", "match_ahocorasick_rs"], few, 5),
        ]
        rows: list[Row] = []
        equal = True
        for case, ours, peers, where, goal in cases:
            if case in options.only:
                measured = sum(part.rows for part in parts[: len(where)])
                table, same, line = compare(case, ours, peers, where, measured, times, goal)
                rows, equal = rows + table, equal and same
                say(line)
        if "minhash" in options.only:
            table, same, line = minhash(paths[0], QUICK_CAPTIONS if options.quick else CAPTIONS, times)
            rows, equal = rows + table, equal and same
            say(line)
        if "stage" in options.only:
            table, same = stage(folder, [1_000_000, 4_000_000, 20_000_000] if options.memory else [number], say)
            rows, equal = rows + table, equal and same
    return finish("filter", rows, PACKAGES, equal=equal, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
