"""`pairmill takedowns`: lists the register of takedown requests, and checks their deadlines."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from dataops.errors import ConfigError
from dataops.formatting import format_quantity
from dataops.spreadsheets import write_csv
from flows.commands.output import console, new_table, print_json, text
from flows.records import known_stores
from tasks.takedown.request_log import list_logs

logger = logging.getLogger(__name__)

OVERDUE = 3
"""Exit code of a check that found a request near or past its deadline."""


@dataclass(frozen=True)
class ListOptions:
    """Options of `pairmill takedowns`."""

    csv: Path | None = None
    check: bool = False
    days: int = 3
    """With `check`: number of days before its deadline from which a request counts."""


def list_takedowns(options: ListOptions, home: Path, store_uri: str | None, *, as_json: bool) -> int:
    """List the requests of all known stores; with `check`, return 3 if one is near or past its deadline.

    Raises: ConfigError if the CSV file cannot be written.
    """
    today = datetime.now(UTC).date()
    rows = [
        row for store in known_stores(home, store_uri) for log in list_logs(store) for row in log.rows(store.uri, today)
    ]
    rows.sort(key=lambda row: (row["state"] == "done", row["due"], row["request"]))
    urgent = [row for row in rows if _is_urgent(row, today + timedelta(days=options.days))]
    if options.csv:
        try:
            write_csv(pl.DataFrame(rows, infer_schema_length=None), options.csv)
        except OSError as error:
            raise ConfigError(f"--csv {options.csv} cannot be written: {error.strerror or error}") from error
    if as_json:
        print_json({"requests": rows, "urgent": [row["request"] for row in urgent]} if options.check else rows)
    else:
        _show(rows, options, urgent)
    if options.check and urgent:
        _announce(urgent, today)
        return OVERDUE
    return 0


def _is_urgent(row: dict[str, Any], until: date) -> bool:
    return row["state"] != "done" and row["due"] <= until.isoformat()


def _announce(rows: Sequence[dict[str, Any]], today: date) -> None:
    """Emit an event for each request to Prefect, if a server is named; it does not say who asked."""
    if not os.environ.get("PREFECT_API_URL"):
        return
    from flows.events import emit_takedown_due

    for row in rows:
        emit_takedown_due(row["request"], row["store"], row["due"], (date.fromisoformat(row["due"]) - today).days)


def _show(rows: Sequence[dict[str, Any]], options: ListOptions, urgent: Sequence[dict[str, Any]]) -> None:
    out = console()
    if not rows:
        out.print(text("No takedown is recorded."))
        return
    table = new_table("Takedown requests", "request", "state", "received", "due", "completed", "days", "targets", "by",
                      right=["days", "targets"])  # fmt: skip
    for row in rows:
        days = "" if row["days_to_completion"] is None else str(row["days_to_completion"])
        completed, targets = (row["completed"] or "")[:10], f"{row['targets']:,}"
        table.add_row(row["request"], row["state"], row["received"], row["due"], completed, days, targets,
                      text(row["requested_by"]))  # fmt: skip
    out.print(table)
    if options.csv:
        out.print(text(f"written: {options.csv}"), soft_wrap=True)
    if options.check:
        within = format_quantity(options.days, "day")
        for row in urgent:
            line = f"takedown {row['request']} is {row['state']}, due {row['due']}: pairmill takedown FILE --delete-raw"
            out.print(text(line, style="red"), soft_wrap=True)
        if not urgent:
            out.print(text(f"No open request is due within {within}."))
