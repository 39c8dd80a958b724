"""Flow runs that are late: their time is over, and no worker has begun them; paused work pools. It imports no prefect."""

import json
from typing import Any

from infra.local import services
from tasks.web.fetch_error import FetchError
from tasks.web.named_server import needs_proxy, send_request

_LATE = {"flow_runs": {"state": {"name": {"any_": ["Late"]}}}, "sort": "EXPECTED_START_TIME_ASC", "limit": 20}

RESUME = "Resume it on Prefect's page Work Pools."


def list_late_runs() -> list[str]:
    """Return a sentence for each late run of the Prefect server, the oldest first; none if none answers as Prefect does."""
    try:
        runs = _ask("flow_runs", _LATE)
        paused = list_paused_pools() if runs else set[str]()
        return [_describe(run, paused) for run in runs]
    except (ValueError, TypeError, KeyError):  # another server, or a page of a proxy
        return []


def list_paused_pools() -> set[str]:
    """Return the names of the paused work pools of the Prefect server; none if none answers as Prefect does."""
    try:
        return {pool["name"] for pool in _ask("work_pools", {}) if pool["is_paused"]}
    except (ValueError, TypeError, KeyError):
        return set()


def _ask(kind: str, query: dict[str, Any]) -> Any:
    url = services.client_environment().get("PREFECT_API_URL", "")
    if not url or needs_proxy(url):
        return []
    try:
        answer = send_request(f"{url}/{kind}/filter", json.dumps(query).encode(), headers=services.authorization(url))
    except FetchError:
        return []
    return json.loads(answer.body) if answer.status == 200 else []


def _describe(run: dict[str, Any], paused: set[str]) -> str:
    late, since = f"Flow run {run['name']} is late", f"since {run['expected_start_time'][:16]} UTC"
    if (pool := run.get("work_pool_name")) in paused:
        return f"{late} {since}: its work pool {pool} is paused. {RESUME}"
    return f"{late}: no worker has begun it {since}. Start one: `pairmill up --worker`"
