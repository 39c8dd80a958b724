"""The Content-Security-Policy of the servers: their pages load and send nothing beyond their own server.

Prefect's V2 UI contains an analytics library that sends a request from the browser even if
Prefect's analytics are off, and its API pages load scripts from a CDN. Pages also show Markdown and
HTML whose images could be of any site. A browser that gets this header makes none of these
requests.
"""

from typing import Any

POLICY = "; ".join(
    (
        "default-src 'self' data: blob:",
        # Both UIs insert style sheets and compile code at run time; their scripts are those of their own server.
        "script-src 'self' blob: 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
)
"""The value of the header."""


class OwnServerOnly:
    """ASGI application that adds the policy to each response of another application."""

    def __init__(self, app: Any):
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""

        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), (b"content-security-policy", POLICY.encode())]
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, send_with_policy if scope["type"] == "http" else send)
