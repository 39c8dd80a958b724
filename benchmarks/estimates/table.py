"""Format the estimates and the real values as the table of docs/plan.md."""

import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from benchmarks.estimates.cases import QUANTITIES, Compared
from dataops.formatting import format_bytes
from dataops.home import CHECKOUT

PAGE = CHECKOUT / "docs" / "plan.md"
BEGIN = "<!-- estimates: written by `python -m benchmarks.estimates --write` -->\n"
END = "<!-- end of estimates -->\n"
UNITS = {"kept": "rows", "stored_bytes": "bytes", "cpu_seconds": "s", "seconds": "s"}
HEAD = ("run", "earlier run", "stage", "kept", "stored", "CPU time", "wall time")


def write_table(found: Sequence[Compared]) -> str:
    """Return a Markdown table with a line for each run and stage: the estimate, the real value and the error."""
    load = os.getloadavg()[2] / (os.cpu_count() or 1)
    lines = [
        f"Measured on {datetime.now(UTC).date()} with {os.cpu_count()} cores; "
        f"{load:.1f} processes per core wanted to run in the last 15 minutes.",
        "Each cell has the estimate, the real value and the error. A first crawl has only upper bounds (≤).",
        "",
        f"| {' | '.join(HEAD)} |",
        "|---" * len(HEAD) + "|",
        *_lines(found),
    ]
    return "\n".join(lines) + "\n"


def _lines(found: Sequence[Compared]) -> Iterator[str]:
    for case, basis, stage in dict.fromkeys((one.case, one.basis, one.stage) for one in found):
        cells = {one.quantity: one for one in found if (one.case, one.basis, one.stage) == (case, basis, stage)}
        shown = " | ".join(_cell(cells[name]) if name in cells else "" for name in QUANTITIES)
        yield f"| {case} | {'none' if basis == 'none' else 'yes'} | {stage} | {shown} |"


def _cell(one: Compared) -> str:
    if not one.real and not one.estimated:
        return ""
    if not one.estimated:
        return f"not estimated / {_show(one.quantity, one.real)}"
    values = f"{_show(one.quantity, one.estimated)} / {_show(one.quantity, one.real)}"
    return f"≤ {values}" if one.at_most else f"{values} ({one.error:+.0%})"


def _show(quantity: str, value: float) -> str:
    if quantity == "stored_bytes":
        return format_bytes(value, "B")
    return f"{value:,.0f}" if quantity == "kept" else f"{value:,.1f} s"


def replace_table(found: Sequence[Compared]) -> None:
    """Replace the table in docs/plan.md."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + BEGIN + "\n" + write_table(found) + "\n" + END + after, "utf-8")
