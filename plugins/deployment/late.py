"""Flow runs that are late: their time is over, and no worker has begun them. This module does not import prefect."""

import json
from typing import Any

from infra.local import services
from tasks.web.fetch_error import FetchError
from tasks.web.named_server import needs_proxy, send_request

_LATE = {"flow_runs": {"state": {"name": {"any_": ["Late"]}}}, "sort": "EXPECTED_START_TIME_ASC", "limit": 20}


def list_late_runs() -> list[str]:
    """Return a sentence for each late run of the Prefect server, the oldest first; none if none answers as Prefect does."""
    url = services.client_environment().get("PREFECT_API_URL", "")
    if not url or needs_proxy(url):
        return []
    try:
        runs = _ask(f"{url}/flow_runs/filter", _LATE)
        pools = _ask(f"{url}/work_pools/filter", {}) if runs else []
        paused = {pool["name"] for pool in pools if pool["is_paused"]}
        return [_describe(run, paused) for run in runs]
    except (FetchError, ValueError, TypeError, KeyError):  # the last ones: another server, or a page of a proxy
        return []


def _ask(url: str, query: dict[str, Any]) -> Any:
    answer = send_request(url, json.dumps(query).encode(), headers=services.authorization(url))
    return json.loads(answer.body) if answer.status == 200 else []


def _describe(run: dict[str, Any], paused: set[str]) -> str:
    late, since = f"Flow run {run['name']} is late", f"since {run['expected_start_time'][:16]} UTC"
    if (pool := run.get("work_pool_name")) in paused:
        return f"{late} {since}: its work pool {pool} is paused. Resume it on Prefect's page Work Pools."
    return f"{late}: no worker has begun it {since}. Start one: `pairmill up --worker`"
