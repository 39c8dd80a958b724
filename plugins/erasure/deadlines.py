"""Finds the takedown requests that are due, and notifies people of them through Prefect.

`pairmill takedown list --check` does it for all stores, and each flow run of a deployment that begins a run for its store.
"""

import logging
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from typing import Any

from dataops.errors import PairmillError, ServiceError
from dataops.redaction import remove_credentials
from dataops.store import Store
from flows.listeners.base import TAKEDOWN_DUE, RunListener
from plugins.erasure.request_log import list_logs

logger = logging.getLogger(__name__)

DAYS = 3
"""Number of days before its deadline from which an open request is due."""


class Deadlines(RunListener):
    """Reports the requests of the store that are due, where a deployment began the run."""

    def begin(self) -> None:
        if self.run.is_scheduled:
            report_due_requests(self.run.context.store)


def list_requests(stores: Iterable[Store], today: date) -> list[dict[str, Any]]:
    """Return the rows of the registers of some stores: open requests first, by deadline.

    Raises: CorruptPart if a register is damaged.
    """
    rows = [row for store in stores for log in list_logs(store) for row in log.rows(store.uri, today)]
    return sorted(rows, key=lambda row: (row["state"] == "done", row["due"], row["request"]))


def select_due(rows: Iterable[dict[str, Any]], today: date, days: int = DAYS) -> list[dict[str, Any]]:
    """Return the open requests that are overdue or due within some days."""
    return [row for row in rows if row["state"] != "done" and (date.fromisoformat(row["due"]) - today).days <= days]


def announce(rows: Sequence[dict[str, Any]], today: date) -> None:
    """Send an event for each request to Prefect, where `deploy --notify` sets up its notification, without who asked.

    Raises: ServiceError if no server runs, or it does not accept the events.
    """
    if not os.environ.get("PREFECT_API_URL"):
        raise ServiceError("no notification is sent, since no Prefect server runs; start it with `pairmill up`")
    from httpx import HTTPError, HTTPStatusError
    from prefect.client.orchestration import get_client
    from prefect.events import Event, Resource
    from prefect.settings import PREFECT_API_URL

    sent = [
        Event(
            event=TAKEDOWN_DUE,
            resource=Resource(
                {
                    "prefect.resource.id": f"pairmill.takedown.{row['request']}",
                    "prefect.resource.name": f"takedown {row['request']}",
                    "pairmill.store": row["store"],
                }
            ),
            payload={"due": row["due"], "days": (date.fromisoformat(row["due"]) - today).days},
        ).model_dump(mode="json")
        for row in rows
    ]
    try:
        with get_client(sync_client=True) as client:
            client.request("POST", "/events", json=sent)
    except HTTPError as error:
        server, cause = remove_credentials(PREFECT_API_URL.value() or ""), str(error)
        if isinstance(error, HTTPStatusError):
            cause = f"HTTP {error.response.status_code}"
        raise ServiceError(f"no notification is sent, since Prefect at {server} did not accept it: {cause}") from error


def report_due_requests(store: Store) -> None:
    """Log and announce the requests of a store that are due; if that fails, only log a warning."""
    today = datetime.now(UTC).date()
    try:
        if due := select_due(list_requests([store], today), today):
            for row in due:
                logger.warning(
                    "takedown %s is %s, due %s; see `pairmill takedown list`", row["request"], row["state"], row["due"]
                )
            announce(due, today)
    except PairmillError as error:
        logger.warning("deadlines of takedown requests: %s", error)
