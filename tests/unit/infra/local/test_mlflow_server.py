import asyncio
from typing import Any

import pytest

from infra.local.mlflow_server import OwnPagesOnly


def answer(kind: str = "http", path: str = "/", **headers: str) -> int | None:
    """Return the status of the refusal, or None if the request was passed on."""
    sent: list[dict[str, Any]] = []
    passed: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope["type"])

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": kind,
        "path": path,
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    asyncio.run(OwnPagesOnly(application)(scope, None, send))
    assert bool(passed) != bool(sent)
    return sent[0]["status"] if sent else None


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "http://localhost:5001",
        "http://localhost",
        "https://localhost:5000",
        "null",
        "",
        "http://127.0.0.1:5000",
    ],
)
def test_requests_of_other_origins_are_refused(origin: str):
    assert answer(host="localhost:5000", origin=origin) == 403


def test_own_pages_and_clients_that_are_no_page_pass():
    assert answer(host="localhost:5000", origin="http://localhost:5000") is None
    assert answer(host="localhost:5000") is None
    assert answer(kind="lifespan") is None


@pytest.mark.parametrize(
    "path", ["/ajax-api/3.0/mlflow/assistant/message", "/mlflow/ajax-api/3.0/mlflow/assistant/config"]
)
def test_the_assistant_that_runs_commands_is_switched_off(path: str):
    assert answer(host="localhost:5000", origin="http://localhost:5000", path=path) == 404
    assert answer(host="localhost:5000", path=path) == 404
