"""MLflow's REST interface asked plainly: its client takes two seconds of processor time to import.

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


def reachable() -> bool:
    """Whether the environment names a server that can be asked so, and not a database or one behind a token."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    plain = uri.startswith(("http://", "https://")) and "@" not in uri
    return plain and not os.environ.get("MLFLOW_TRACKING_TOKEN")


def get(what: str, **asked: str) -> dict[str, Any] | None:
    """The answer to a question, as `registered-models/get`.

    Returns: None where only the client can ask (a database, a token) or explain (a refusal).
    Raises: ServiceError when nobody listens.
    """
    return _ask(f"{what}?{urllib.parse.urlencode(asked)}")


def post(what: str, **asked: Any) -> dict[str, Any] | None:
    """The answer to a call that searches or writes, as `runs/create`; else as `get`."""
    return _ask(what, json.dumps(asked).encode())


def _ask(path: str, body: bytes | None = None) -> dict[str, Any] | None:
    uri = tracking.tracking_uri()
    if not reachable():
        return None
    request = urllib.request.Request(f"{uri.rstrip('/')}/api/2.0/mlflow/{path}", body)
    if body is not None:
        request.add_header("Content-Type", "application/json")
    if user := os.environ.get("MLFLOW_TRACKING_USERNAME"):
        pair = f"{user}:{os.environ.get('MLFLOW_TRACKING_PASSWORD', '')}".encode()
        request.add_header("Authorization", f"Basic {base64.b64encode(pair).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            return json.loads(answer.read())
    except (urllib.error.HTTPError, ValueError):
        return None
    except OSError as error:
        raise ServiceError(
            f"MLflow at {uri} does not answer ({error}); see `pairmill status`, or check MLFLOW_TRACKING_URI"
        ) from error
