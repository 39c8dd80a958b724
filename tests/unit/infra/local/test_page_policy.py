import asyncio
from typing import Any

import pytest

from infra.local.page_policy import POLICY, OwnServerOnly


def answer(kind: str, *messages: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what a server sends whose application sends these messages."""
    sent: list[dict[str, Any]] = []

    async def application(_: Any, __: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(OwnServerOnly(application)({"type": kind}, None, send))
    return sent


@pytest.mark.parametrize("headers", [{}, {"headers": [(b"content-type", b"text/html")]}])
def test_each_response_has_the_policy(headers: dict[str, Any]):
    body = {"type": "http.response.body", "body": b"page"}
    start, rest = answer("http", {"type": "http.response.start", "status": 200, **headers}, body)
    policy = (b"content-security-policy", POLICY.encode())
    assert start == {"type": "http.response.start", "status": 200, "headers": [*headers.get("headers", []), policy]}
    assert rest == body


def test_websockets_and_start_up_pass_unchanged():
    for kind in ("websocket", "lifespan"):
        message = {"type": f"{kind}.accept"}
        assert answer(kind, message) == [message]


def test_policy_allows_no_other_server():
    values = {part.split()[0]: part.split()[1:] for part in POLICY.split("; ")}
    own = {"'self'", "'none'", "data:", "blob:", "'unsafe-inline'", "'unsafe-eval'"}
    assert {value for allowed in values.values() for value in allowed} <= own
    assert values["default-src"][0] == "'self'"
