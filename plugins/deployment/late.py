"""Flow runs that are late: their time is over, and no worker has begun them. This module does not import prefect."""

import json

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
        answer = send_request(
            f"{url}/flow_runs/filter", json.dumps(_LATE).encode(), headers=services.authorization(url)
        )
        runs = json.loads(answer.body) if answer.status == 200 else []
        return [
            f"Flow run {run['name']} is late: no worker has begun it since {run['expected_start_time'][:16]} UTC."
            for run in runs
        ]
    except (FetchError, ValueError, TypeError, KeyError):  # the last ones: another server, or a page of a proxy
        return []
