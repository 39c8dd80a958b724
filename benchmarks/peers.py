"""Run all comparisons with peers, keep the results, and write the table of docs/speed.md from them.

    python -m benchmarks.peers [--whole] [--json] [--write] [--times 3] [--only extract loader]
    python -m benchmarks.peers --page     # only write the table and the plot, from the kept results

Each comparison is a process of its own, which runs ours and theirs in turn and checks the outputs; its row is its median.
Comparisons are run with --quick, which takes ten minutes for all of them, unless --whole is given (over an hour).
With --times it is run again, and a row is that of the median ratio, with the lowest and the highest as its spread.
A row is printed in red if its ratio is less than 0.9 of that in the last kept result of the same processor and length.
"""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.measure import make_parser

NAMES = ("tokenizer", "extract", "filter", "language", "curate", "download", "loader", "train", "evaluate")
RESULTS = Path(__file__).with_name("results")
PAGE = RESULTS.parents[1] / "docs" / "speed.md"
PLOT = PAGE.with_name("images") / "speed.svg"
BEGIN, END = "<!-- rows: python -m benchmarks.peers --page -->\n", "<!-- end of rows -->\n"


def run(name, quick):
    """Run one comparison, whose messages go to standard error; return its result, or None if it ended without one."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json", *(["--quick"] if quick else [])]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout.strip()
    return {**json.loads(output.splitlines()[-1]), "quick": quick} if output else None


def run_often(name, quick, times):
    """Run a comparison several times; return the last result, each row of which is that of the median ratio."""
    results = [result for _ in range(times) if (result := run(name, quick)) is not None]
    if not results:
        return None
    rows = []
    for alike in zip(*(one["rows"] for one in results), strict=True):
        ordered = sorted(alike, key=lambda row: row["ratio"] or 0)
        rows.append({**ordered[len(ordered) // 2], "spread": [ordered[0]["ratio"], ordered[-1]["ratio"]]})
    equal = len(results) == times and all(one["equal_output"] for one in results)
    return {**results[-1], "rows": rows if times > 1 else results[-1]["rows"], "equal_output": equal, "times": times}


def read_kept():
    """Return the kept results of all comparisons, the oldest first, each with its `file`."""
    found = [
        {**json.loads(path.read_text("utf-8")), "file": path.name}
        for path in sorted(RESULTS.glob("[!.]*-*.json"))
        if path.read_text("utf-8").startswith('{"benchmark": ')
    ]
    return sorted((one for one in found if one["benchmark"] in NAMES), key=lambda one: one["date"])


def find_falls(result, earlier):
    """Yield each row that got more than 10% worse, and the row of the last kept result that is like it."""

    def situation(one):
        return one["benchmark"], one["machine"].get("processor"), one.get("quick", False)

    alike = [row for one in earlier if situation(one) == situation(result) for row in one["rows"]]
    before = {(row["case"], row["peer_name"]): row for row in alike}
    for row in result["rows"]:
        last = before.get((row["case"], row["peer_name"]))
        if last and last["ratio"] and row["ratio"] and row["ratio"] < 0.9 * last["ratio"]:
            yield row, last


def find_newest(results):
    """Return the newest kept result of each name of a file, without its date."""
    return {one["file"].partition("-")[0]: one for one in results}


def is_speed(row):
    """Return whether a row compares speeds, and not with its goal."""
    return "/s" in row["unit"] and bool(row["ratio"]) and row["peer_name"] != "the goal"


def write_plot(results):
    """Plot the ratio of each row in all kept results, those of the newest date filled."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    shown = {(row["case"], row["peer_name"]) for one in find_newest(results).values() for row in one["rows"]}
    points = {}
    for one in sorted(results, key=lambda one: -NAMES.index(one["benchmark"])):
        for row in (row for row in one["rows"] if is_speed(row) and (row["case"], row["peer_name"]) in shown):
            key = one["benchmark"], row["case"], row["peer_name"]
            points.setdefault(key, []).append((row["ratio"], one["date"]))
    labels = [f"{case} / {peer}" if len(case + peer) < 60 else case for _, case, peer in points]
    with rc_context({"svg.hashsalt": "speed", "svg.fonttype": "none", "font.size": 8}):
        axes = (figure := Figure((7.5, 1 + len(points) / 6), layout="constrained")).subplots()
        for place, found in enumerate(points.values()):
            newest = max(date for _, date in found)
            ratios = [ratio for ratio, _ in found]
            axes.plot([min(ratios), max(ratios)], [place, place], color="#9ab", linewidth=1, zorder=1)
            for ratio, date in found:
                colour = "#b3261e" if ratio < 1 else "#1f5fa8"
                axes.scatter(
                    ratio, place, s=16, color=colour if date == newest else "white", edgecolors=colour, zorder=2
                )
        axes.axvline(1, color="#888", linewidth=0.8, zorder=0)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.set_yticks(range(len(points)), labels)
        axes.set_ylim(-0.7, len(points) - 0.3)
        axes.set_xlabel("times as fast as the peer (filled: the newest result)")
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(PLOT, metadata={"Date": None, "Creator": None})


def write_page(results):
    """Replace the table of the page by the rows of speed in the newest result of each name, and write the plot."""
    write_plot(results)
    newest = find_newest(results)
    lines = [
        "| `benchmarks.` | case | pairmill | peer | ratio | of the limit | result |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in sorted(newest.values(), key=lambda one: NAMES.index(one["benchmark"])):
        where = f"[{one['date']}](../benchmarks/results/{one['file']}), {one['machine'].get('processor', '')}"
        where += ", quick" if one.get("quick") else ""
        for row in one["rows"]:
            if is_speed(row):
                ours, peer = (
                    f"{row[side]:,.0f}" if row[side] >= 1000 else f"{row[side]:g}" for side in ("ours", "peer")
                )
                ratio = f"{row['ratio']:,g}" if row["ratio"] >= 1 else f"**{row['ratio']:g}, lost**"
                if "spread" in row:
                    ratio += f" ({row['spread'][0]:,g} to {row['spread'][1]:,g})"
                limit = f"{row['ours'] / row['limit']:.2f}" if row.get("limit") else ""
                values = f"{ours} {row['unit']} | {peer}: {row['peer_name']} | {ratio} | {limit}"
                lines.append(f"| {one['benchmark']} | {row['case']} | {values} | {where} |")
    head, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    PAGE.write_text(head + BEGIN + "\n" + "\n".join(lines) + "\n\n" + END + rest.partition(END)[2], "utf-8")


def main():
    """Run the comparisons; return 1 if outputs differ or a comparison ended without a result."""
    parser = make_parser(__doc__)
    parser.add_argument("--whole", dest="quick", action="store_false", help="do not run them with --quick")
    parser.set_defaults(quick=True)
    parser.add_argument(
        "--write", action="store_true", help="keep the results in benchmarks/results, and write the page"
    )
    parser.add_argument("--times", type=int, default=1, help="runs of each comparison")
    parser.add_argument("--page", action="store_true", help="run nothing; write the page")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="comparisons to run")
    options = parser.parse_args()
    results = []
    failed = False
    for name in () if options.page else options.only:
        earlier, result = read_kept(), run_often(name, options.quick, options.times)
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
    raise SystemExit(main())
