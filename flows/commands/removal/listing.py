"""`pairmill takedowns`: lists the register of takedown requests, and checks their deadlines."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import polars as pl
from cyclopts import Parameter

from dataops.command_name import name_command
from dataops.errors import ConfigError, ServiceError
from dataops.formatting import format_quantity
from dataops.spreadsheets import write_csv
from flows.commands.options import Json, StoreUri
from flows.commands.output import console, new_table, print_json, text
from flows.listeners import deadlines
from flows.records import known_stores
from infra.local import services

logger = logging.getLogger(__name__)

OVERDUE = 3
"""Exit code of a check that found a request near or past its deadline."""


@dataclass(frozen=True)
class ListOptions:
    """Options of `pairmill takedowns`."""

    csv: Path | None = None
    check: bool = False
    days: int = deadlines.DAYS
    """With `check`: number of days before its deadline from which a request counts."""


def takedowns(
    *,
    csv: Annotated[Path | None, Parameter(help="Also write the list to this file.")] = None,
    check: Annotated[
        bool, Parameter(negative="", help="End with exit code 3 if an open request is overdue or due soon.")
    ] = False,
    days: Annotated[int, Parameter(help="With --check: number of days that count as soon.")] = 3,
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """List the takedown requests: who asked, when, until when it is due, and when it was done.

    With --check, each such request also gets an event in Prefect, for which `deploy --notify` sets up a notification.
    """
    return list_takedowns(ListOptions(csv, check, days), services.home(), store, as_json=json)


def list_takedowns(options: ListOptions, home: Path, store_uri: str | None, *, as_json: bool) -> int:
    """List the requests of all known stores; with `check`, announce those near or past their deadline, and return 3.

    Raises: ConfigError if the CSV file cannot be written.
    """
    today = datetime.now(UTC).date()
    rows = deadlines.list_requests(known_stores(home, store_uri), today)
    urgent = deadlines.select_due(rows, today, options.days)
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
        try:
            deadlines.announce(urgent, today)
        except ServiceError as error:
            logger.warning("%s", name_command(str(error)))
        return OVERDUE
    return 0


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
