"""Compare filtering with pandas for rules, DuckDB for dedupe, ahocorasick_rs for queries, and rensa for MinHash
signatures.

    pip install -e '.[bench]'
    python -m benchmarks.filter [--quick] [--json] [--rows 5000000] [--folder DIR] [--only rules,dedupe]

The pairs are synthetic (benchmarks/inputs/rows.py); `--folder` keeps them for the next run. Each side of a comparison runs
in its own process, in turn (A B A B, medians of wall time), and each case checks that both find the same. Memory is the
peak of the private memory of a process and all its descendants; deduplication has two, as the stage, and each its imports.
The limits read the columns and do no more. benchmarks/scale.py measures the whole stage.
"""

import json
import statistics
import tempfile
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.cases import filter_cases
from benchmarks.cases.filter_minhash import CAPTIONS, measure_minhash
from benchmarks.inputs.rows import make_parts
from benchmarks.measure import Row, finish, make_parser, make_printer, require_peers, run_in_process

PACKAGES = ("polars", "pandas", "duckdb", "pyarrow", "numba", "wordfreq", "ahocorasick_rs", "rensa")
QUICK_QUERIES, QUICK_CAPTIONS = 100_000, 5_000


def compare(case, peer, paths, times, goal):
    """Measure ours and the peer in turn on the same parts; return rows, whether all results are equal, and a line."""
    rows, seconds, memory, results = sum(pq.read_metadata(path).num_rows for path in paths), {}, {}, []
    for name in ("ours", peer) * times:
        (took, result), used = run_in_process(getattr(filter_cases, f"{case}_{name}"), paths)
        seconds.setdefault(name, []).append(took)
        memory[name] = max(memory.get(name, 0), used.own / 1e6)
        results.append(json.dumps(result))
    speed = {name: rows / statistics.median(some) for name, some in seconds.items()}
    title, memory_goal = f"{case}, {rows:,} rows", goal if case == "dedupe" else None
    limit = rows / run_in_process(getattr(filter_cases, f"{case}_limit"), paths)[0][0]
    equal = len(set(results)) == 1
    table = [
        Row(title, speed["ours"], speed[peer], peer, "rows/s", goal, limit),
        Row(f"{title}, memory", 1 / memory["ours"], 1 / memory[peer], peer, "1/MB", memory_goal),
    ]
    costs = ", ".join(f"{name} {speed[name]:,.0f} rows/s, {n:,.0f} MB" for name, n in memory.items())
    return table, equal, f"{title}: {costs}; found {results[0]}, equal: {equal}"


def main():
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--folder", type=Path, help="folder that keeps the pairs (0.6 GB for 5 million)")
    parser.add_argument("--only", default="rules,dedupe,match,minhash", help="the cases to run")
    options = parser.parse_args()
    number = 300_000 if options.quick else options.rows
    times = 1 if options.quick else 3
    say = make_printer(options.json)
    require_peers(*PACKAGES)
    with tempfile.TemporaryDirectory(prefix="pairmill-benchmark-") as temporary:
        folder = options.folder or Path(temporary)
        paths = make_parts(folder, number)
        if "match" in options.only:
            filter_cases.make_queries(folder, QUICK_QUERIES if options.quick else filter_cases.QUERIES)
        cases = [
            ("rules", "pandas", paths, 6),
            ("dedupe", "duckdb", paths, 1.2),
            ("match", "ahocorasick_rs", paths[:1], 5),  # the peer takes seconds for each
        ]
        found = [compare(case, peer, inputs, times, goal) for case, peer, inputs, goal in cases if case in options.only]
        if "minhash" in options.only:
            found.append(measure_minhash(paths[0], QUICK_CAPTIONS if options.quick else CAPTIONS, times))
    for _, _, line in found:
        say(line)
    rows, equal = [row for table, _, _ in found for row in table], all(same for _, same, _ in found)
    return finish("filter", rows, PACKAGES, equal=equal, as_json=options.json)


if __name__ == "__main__":
    raise SystemExit(main())
