"""Call MLflow's REST API without MLflow's client, whose import takes two seconds of CPU time.

Requests go through urllib without the address policy of tasks/web: the user names the server, and it may be private.

Source: MLflow REST API (https://mlflow.org/docs/latest/api_reference/rest-api.html).
"""

import base64
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from dataops.errors import ServiceError
from tasks.tracking import client as tracking

TIMEOUT_SECONDS = 10


def is_supported() -> bool:
    """Return whether MLFLOW_TRACKING_URI names an HTTP server without token login, rather than a database."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    is_http = uri.startswith(("http://", "https://")) and "@" not in uri
    return is_http and not os.environ.get("MLFLOW_TRACKING_TOKEN")


def get(endpoint: str, **query: str) -> dict[str, Any] | None:
    """Return the response of an endpoint such as `registered-models/get`.

    Returns: None if only MLflow's client can send the request (a database, a token), or the server refuses it.
    Raises: ServiceError if the server does not answer.
    """
    return _request(f"{endpoint}?{urllib.parse.urlencode(query)}")


def post(endpoint: str, **fields: Any) -> dict[str, Any] | None:
    """Return the response of an endpoint that searches or writes, such as `runs/create`; otherwise like `get`."""
    return _request(endpoint, json.dumps(fields).encode())


def _request(path: str, body: bytes | None = None) -> dict[str, Any] | None:
    uri = tracking.tracking_uri()
    if not is_supported():
        return None
    request = urllib.request.Request(f"{uri.rstrip('/')}/api/2.0/mlflow/{path}", body)
    if body is not None:
        request.add_header("Content-Type", "application/json")
    if user := os.environ.get("MLFLOW_TRACKING_USERNAME"):
        login = f"{user}:{os.environ.get('MLFLOW_TRACKING_PASSWORD', '')}".encode()
        request.add_header("Authorization", f"Basic {base64.b64encode(login).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:  # noqa: TID251  asks the MLflow server that the environment names
            return json.loads(response.read())
    except (urllib.error.HTTPError, ValueError):
        return None
    except OSError as error:
        raise ServiceError(
            f"MLflow at {uri} does not answer ({error}); see `pairmill status`, or check MLFLOW_TRACKING_URI"
        ) from error
