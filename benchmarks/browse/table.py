"""Format the seconds of each case as the table of docs/browse.md."""

import os
from datetime import UTC, datetime

from benchmarks.browse.cases import Result
from dataops.home import CHECKOUT

PAGE = CHECKOUT / "docs" / "browse.md"
BEGIN = "<!-- speed: written by `python -m benchmarks.browse --write` -->\n"
END = "<!-- end of speed -->\n"
NAMES = {
    "open": "open, with the first page",
    "text query": "captions with a word",
    "filter": "two filters",
    "order": "order by a column",
    "locate features, once": "find the features of all rows, once a start",
    "similar images": "images like one of them",
    "map, once": "the map of the features, once a start",
}
"""Names of cases in the table, where they differ."""


def write_table(found: Result, rows: int) -> str:
    """Return a Markdown table with the wall time and the CPU time of each case."""
    load = found.details["load"] / (os.cpu_count() or 1)
    lines = [
        f"{rows:,} rows on {os.cpu_count()} cores, {datetime.now(UTC).date()}; load of a core {load:.1f}.",
        "",
        "| case | wall time | CPU time | goal |",
        "|---|---|---|---|",
    ]
    goals = found.details["seconds_goal"]
    for name, seconds in found.seconds.items():
        goal = "" if name.endswith(", once") else f"{goals[name]:g} s"
        lines.append(f"| {NAMES.get(name, name)} | {seconds:.2f} s | {found.cpu_seconds[name]:.2f} s | {goal} |")
    return "\n".join(lines) + "\n"


def replace_table(found: Result, rows: int) -> None:
    """Replace the table in docs/browse.md."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + BEGIN + "\n" + write_table(found, rows) + "\n" + END + after, "utf-8")
