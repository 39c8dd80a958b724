"""`pairmill takedown list`: lists the register of takedown requests, and checks their deadlines."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.types import NonNegativeInt

from dataops.command_name import name_command
from dataops.errors import ServiceError
from dataops.formatting import format_quantity
from flows.commands.options import Json, StoreUri
from flows.commands.output import console, new_table, print_json, text
from flows.records import known_stores
from infra.local import services
from plugins.erasure import deadlines

logger = logging.getLogger(__name__)

OVERDUE = 3
"""Exit code of a check that found a request near or past its deadline."""


def command(
    *,
    check: Annotated[
        bool, Parameter(negative="", help="End with exit code 3 if an open request is overdue or due soon.")
    ] = False,
    days: Annotated[
        NonNegativeInt, Parameter(help="With --check: number of days that count as soon.")
    ] = deadlines.DAYS,
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """List the takedown requests: who asked, when, until when it is due, and when it was done.

    With --check, each such request also gets an event in Prefect, for which `deploy --notify` sets up a notification.
    """
    today = datetime.now(UTC).date()
    rows = deadlines.list_requests(known_stores(services.home(), store), today)
    urgent = deadlines.select_due(rows, today, days)
    if json:
        print_json({"requests": rows, "urgent": [row["request"] for row in urgent]} if check else rows)
    else:
        _show(rows, urgent, days if check else None)
    if check and urgent:
        try:
            deadlines.announce(urgent, today)
        except ServiceError as error:
            logger.warning("%s", name_command(str(error)))
        return OVERDUE
    return 0


def _show(rows: Sequence[dict[str, Any]], urgent: Sequence[dict[str, Any]], days: int | None) -> None:
    out = console()
    if not rows:
        out.write("No takedown is recorded.")
        return
    table = new_table("Takedown requests", "request", "state", "received", "due", "completed", "days", "targets", "by",
                      right=["days", "targets"])  # fmt: skip
    for row in rows:
        taken = "" if row["days_to_completion"] is None else str(row["days_to_completion"])
        completed, targets = (row["completed"] or "")[:10], f"{row['targets']:,}"
        table.add_row(row["request"], row["state"], row["received"], row["due"], completed, taken, targets,
                      text(row["requested_by"]))  # fmt: skip
    out.print(table)
    if days is not None:
        within = format_quantity(days, "day")
        for row in urgent:
            line = f"takedown {row['request']} is {row['state']}, due {row['due']}: pairmill takedown FILE --delete-raw"
            out.write(line, "red")
        if not urgent:
            out.write(f"No open request is due within {within}.")
