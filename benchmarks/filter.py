"""Filtering against what is in use: pandas for rules and dedupe, pyahocorasick for queries (as MetaCLIP does), and
datasketch and rensa for MinHash signatures.

    pip install -e '.[bench]'
    python -m benchmarks.filter [--quick] [--json] [--rows 5000000] [--memory] [--folder DIR] [--only rules,stage]

benchmarks/filter_rows.py says how the pairs are made; a folder that is given keeps them for the next time. Each side of a
comparison runs in a process of its own, in turn (A B A B, medians of the clock), and that both found the same is checked in
every case. Memory is the greatest sum, over a process and all that it started, of what they had at one time. `--memory`
adds the whole stage at 1, 4 and 20 million rows.
"""

import json
import multiprocessing
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import filter_cases
from benchmarks.filter_minhash import minhash
from benchmarks.filter_rows import make_parts, told
from benchmarks.measure import Row, TreeMemory, arguments, finish

PACKAGES = (
    *("polars", "pandas", "pyarrow", "numba", "wordfreq"),
    *("pyahocorasick", "ahocorasick_rs", "datasketch", "rensa"),
)
MATCHED_PARTS = 1
"""Parts whose captions are matched: the peers take seconds for each."""


def _child(name: str, paths: list[str], sink: Any) -> None:
    sink.send(getattr(filter_cases, name)([Path(path) for path in paths]))


def alone(name: str, paths: Sequence[Path]) -> tuple[float, int, Any]:
    """(seconds, peak bytes, result) of a function of filter_cases, run in a process of its own."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(name, [str(path) for path in paths], sender))
    process.start()
    sender.close()
    with TreeMemory(process.pid or 0) as memory:
        try:
            seconds, result = receiver.recv()
        finally:
            process.join()
    return seconds, memory.peak, result


def compare(
    case: str, ours: str, peers: Sequence[str], paths: Sequence[Path], rows: int, times: int, goal: float
) -> Any:
    """Ours and the peers' in turn, on the same parts: rows of the result, whether all found the same, and a line."""
    runs: dict[str, list[tuple[float, int, Any]]] = {name: [] for name in (ours, *peers)}
    for _ in range(times):
        for name, measured in runs.items():
            measured.append(alone(name, paths))
    speed = {name: rows / statistics.median(run[0] for run in measured) for name, measured in runs.items()}
    memory = {name: max(run[1] for run in measured) / 1e6 for name, measured in runs.items()}
    equal = len({json.dumps(run[2]) for measured in runs.values() for run in measured}) == 1
    table = []
    for peer in peers:
        called = peer.partition("_")[2]
        table.append(Row(case, speed[ours], speed[peer], called, "rows/s", goal if peer == peers[0] else None))
        table.append(
            Row(f"{case} memory", 1 / memory[ours], 1 / memory[peer], called, "1/MB", 5 if case == "dedupe" else None)
        )
    said = ", ".join(f"{name} {n:,.0f} MB" for name, n in memory.items())
    return table, equal, f"{case}, {rows:,} rows: {said}; found {json.dumps(runs[ours][0][2])}, equal: {equal}"


def stage_row(folder: Path, size: int, say: Callable[[str], Any]) -> list[Row]:
    """The whole stage on the first `size` rows."""
    paths, _ = make_parts(folder, size)
    seconds, peak, result = alone("stage", paths)
    say(f"whole stage, {size:,} rows: {seconds:.1f} s, {peak / 1e6:,.0f} MB in all processes; {json.dumps(result)}")
    return [
        Row(f"stage {size}", size / seconds, 200_000, "the goal", "rows/s", 1),
        Row(f"stage {size} memory", peak / 1e6, filter_cases.MEMORY_LIMIT / 1e6, "its limit", "MB"),
    ]


def main() -> int:
    """Run the benchmark."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--memory", action="store_true", help="also the whole stage at 1, 4 and 20 million rows")
    parser.add_argument(
        "--folder", type=Path, help="where the pairs are kept for the next time (2.5 GB for 20 million)"
    )
    parser.add_argument("--only", default="rules,dedupe,match,minhash,stage", help="the cases to run")
    options = parser.parse_args()
    number = 300_000 if options.quick else options.rows
    times = 1
    say: Callable[[str], Any] = (lambda line: None) if options.json else lambda line: sys.stdout.write(line + "\n")
    with tempfile.TemporaryDirectory(prefix="pairmill-benchmark-") as temporary:
        folder = options.folder or Path(temporary)
        paths, parts = make_parts(folder, number)
        say(told(paths[0]))
        few = paths[:MATCHED_PARTS]
        filter_cases.query_list(folder)
        cases: list[tuple[str, str, list[str], Sequence[Path], float]] = [
            ("rules", "rules_ours", ["rules_pandas"], paths, 6),
            ("dedupe", "dedupe_ours", ["dedupe_pandas"], paths, 5),
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
            table, same, line = minhash(paths[0], times)
            rows, equal = rows + table, equal and same
            say(line)
        for size in [1_000_000, 4_000_000, 20_000_000] if options.memory else [number]:
            if "stage" in options.only:
                rows += stage_row(folder, size, say)
    return finish("filter", rows, PACKAGES, equal=equal, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
