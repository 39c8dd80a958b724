"""Run all comparisons with peers, keep the results, and write the table of docs/speed.md from them.

    python -m benchmarks.peers [--quick] [--json] [--write] [--only extract loader]
    python -m benchmarks.peers --page     # only write the table, from the kept results

Each comparison is a process of its own, which runs ours and theirs in turn and checks the outputs; its row is its median.
A row is printed in red if its ratio is less than 0.9 of that in the last kept result of the same processor and length.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import make_parser

NAMES = (
    *("tokenizer", "extract", "filter", "language", "curate", "curate_pack", "download", "loader", "train"),
    "evaluate",
)
RESULTS = Path(__file__).with_name("results")
PAGE = RESULTS.parents[1] / "docs" / "speed.md"
BEGIN, END = "<!-- rows: python -m benchmarks.peers --page -->\n", "<!-- end of rows -->\n"
Result = dict[str, Any]


def run(name: str, quick: bool) -> Result | None:
    """Run one comparison, whose messages go to standard error; return its result, or None if it ended without one."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json", *(["--quick"] if quick else [])]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout.strip()
    return {**json.loads(output.splitlines()[-1]), "quick": quick} if output else None


def read_kept() -> list[Result]:
    """Return the kept results of all comparisons, the oldest first, each with its `file`."""
    found = [
        {**json.loads(path.read_text("utf-8")), "file": path.name}
        for path in sorted(RESULTS.glob("[!.]*-*.json"))
        if path.read_text("utf-8").startswith('{"benchmark": ')
    ]
    return sorted((one for one in found if one["benchmark"] in NAMES), key=lambda one: one["date"])


def find_falls(result: Result, earlier: Sequence[Result]) -> Iterator[tuple[Result, Result]]:
    """Yield each row that got more than 10% worse, and the row of the last kept result that is like it."""

    def situation(one: Result) -> tuple[object, ...]:
        return one["benchmark"], one["machine"].get("processor"), one.get("quick", False)

    alike = [row for one in earlier if situation(one) == situation(result) for row in one["rows"]]
    before = {(row["case"], row["peer_name"]): row for row in alike}
    for row in result["rows"]:
        last = before.get((row["case"], row["peer_name"]))
        if last and last["ratio"] and row["ratio"] and row["ratio"] < 0.9 * last["ratio"]:
            yield row, last


def write_page(results: Sequence[Result]) -> None:
    """Replace the table of the page by the rows of speed in the newest result of each name."""
    newest = {one["file"].partition("-")[0]: one for one in results}
    lines = [
        "| `benchmarks.` | case | pairmill | peer | ratio | of the limit | result |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in sorted(newest.values(), key=lambda one: NAMES.index(one["benchmark"])):
        where = f"[{one['date']}](../benchmarks/results/{one['file']}), {one['machine'].get('processor', '')}"
        where += ", quick" if one.get("quick") else ""
        for row in one["rows"]:
            if "/s" in row["unit"] and row["ratio"] is not None and row["peer_name"] != "the goal":
                ours, peer = (
                    f"{row[side]:,.0f}" if row[side] >= 1000 else f"{row[side]:g}" for side in ("ours", "peer")
                )
                ratio = f"{row['ratio']:,g}" if row["ratio"] >= 1 else f"**{row['ratio']:g}, lost**"
                limit = f"{row['ours'] / row['limit']:.2f}" if row.get("limit") else ""
                values = f"{ours} {row['unit']} | {peer}: {row['peer_name']} | {ratio} | {limit}"
                lines.append(f"| {one['benchmark']} | {row['case']} | {values} | {where} |")
    head, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    PAGE.write_text(head + BEGIN + "\n" + "\n".join(lines) + "\n\n" + END + rest.partition(END)[2], "utf-8")


def main() -> int:
    """Run the comparisons; return 1 if outputs differ or a comparison ended without a result."""
    parser = make_parser(__doc__ or "")
    parser.add_argument(
        "--write", action="store_true", help="keep the results in benchmarks/results, and write the page"
    )
    parser.add_argument("--page", action="store_true", help="run nothing; write the page")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="comparisons to run")
    options = parser.parse_args()
    results: list[Result] = []
    failed = False
    for name in () if options.page else options.only:
        earlier, result = read_kept(), run(name, options.quick)
        failed |= result is None or not result["equal_output"]
        if result is None:
            sys.stderr.write(f"{name}: no result\n")
            continue
        results.append(result)
        falls = {id(row): last for row, last in find_falls(result, earlier)}
        for row in () if options.json else result["rows"]:
            line = f"{name:<12} {row['case']:<36} {row['ratio'] or 0:>10,g}x {row['peer_name']}"
            if last := falls.get(id(row)):
                line = f"\033[31m{line}, was {last['ratio']:,g}x\033[0m"
            sys.stdout.write(line + "\n")
        if options.write:
            length = "-quick" if options.quick else ""
            file = RESULTS / f"{name}-{result['date']}{length}.json"
            file.write_text(json.dumps(result) + "\n", "utf-8")
    if options.write or options.page:
        write_page(read_kept())
    if options.json:
        sys.stdout.write(json.dumps(results) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
