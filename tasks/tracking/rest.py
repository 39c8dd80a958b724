"""Call MLflow's REST API without MLflow's client, whose import takes two seconds of CPU time.

Source: MLflow REST API (https://mlflow.org/docs/latest/api_reference/rest-api.html).
"""

import json
import os
import urllib.parse
from typing import Any

from dataops.errors import ServiceError
from dataops.redaction import redact, remove_credentials
from tasks.tracking import client as tracking
from tasks.web.fetch_error import FetchError
from tasks.web.named_server import basic_login, needs_proxy, send_request

MAX_BYTES = 16 << 20
"""Maximum size of a response, in bytes."""


def is_supported() -> bool:
    """Return whether MLFLOW_TRACKING_URI names an HTTP server that is reached without a proxy, rather than a database."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    return uri.startswith(("http://", "https://")) and not needs_proxy(uri)


def authorization(uri: str) -> dict[str, str]:
    """Return the header with the login of a tracking server, in the order in which MLflow's client looks for it."""
    user, token = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_TOKEN")
    if user:
        return basic_login(uri, f"{user}:{os.environ.get('MLFLOW_TRACKING_PASSWORD', '')}")
    return {"Authorization": f"Bearer {token}"} if token else basic_login(uri)


def get(endpoint: str, **query: str) -> dict[str, Any] | None:
    """Return the response of an endpoint such as `registered-models/get`.

    Returns: None if only MLflow's client can send the request (a database, a proxy), or the server refuses it.
    Raises: ServiceError if the server does not answer, or with a redirect, which would carry the login elsewhere.
    """
    return _request(f"{endpoint}?{urllib.parse.urlencode(query)}")


def post(endpoint: str, **fields: object) -> dict[str, Any] | None:
    """Return the response of an endpoint that searches or writes, such as `runs/create`; otherwise like `get`."""
    return _request(endpoint, json.dumps(fields).encode())


def _request(path: str, body: bytes = b"") -> dict[str, Any] | None:
    uri = tracking.tracking_uri()
    if not is_supported():
        return None
    try:
        url = f"{uri.rstrip('/')}/api/2.0/mlflow/{path}"
        status, found, _ = send_request(url, body, headers=authorization(uri), limit=MAX_BYTES)
        if 300 <= status < 400:
            raise FetchError("redirect", f"HTTP {status}; redirects are not followed, so name the URL that it leads to")
        return json.loads(found) if status == 200 else None
    except ValueError:
        return None
    except FetchError as error:
        raise ServiceError(
            f"MLflow at {remove_credentials(uri)} does not answer ({redact(str(error))}); see `pairmill status`, or check"
            " MLFLOW_TRACKING_URI"
        ) from error
