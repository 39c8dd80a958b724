"""Answer only the browser of the user who started the server.

The first request has the token of the printed URL, and gets a cookie. Every other request needs the cookie, the server's
own name as Host (against DNS rebinding), and must come from a page of the server itself or be a navigation. Each response
forbids scripts, styles, images and frames from elsewhere.
"""

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from html import escape
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlencode

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": PAGE_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
NAMES = ("127.0.0.1", "localhost")
"""Names by which a browser on this machine reaches the server."""
MAX_BODY = 20 << 20
"""Maximum size of a request's body, in bytes."""
SAFE_METHODS = frozenset({"GET", "HEAD"})


class Guard:
    """Wrap an application.

    Args:
        port: on which the server listens.
        token: of the URL that only the user has.
    """

    def __init__(self, app: App, port: int, token: str):
        self._app, self._token = app, token
        self._hosts = frozenset(f"{name}:{port}" for name in NAMES)
        self._cookie = f"pairmill-browse-{port}"  # cookies do not distinguish ports
        self._session = secrets.token_urlsafe(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if refusal := self._refuse_origin(scope, headers):
            await _answer(send, *refusal)
        elif (token := _query(scope).get("token")) is not None:
            await self._sign_in(scope, token, send)
        elif not self._has_cookie(headers):
            await _answer(send, 401, "Open the URL that `pairmill browse` printed: it has a token.")
        elif int(headers.get("content-length") or 0) > MAX_BODY or "transfer-encoding" in headers:
            await _answer(send, 413, f"A request may have at most {MAX_BODY >> 20} MiB.")
        else:
            await self._app(scope, receive, _with_headers(send))

    def _refuse_origin(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        host, method = headers.get("host", ""), scope["method"]
        if host not in self._hosts:
            return 421, "This server answers only as 127.0.0.1 or localhost."
        if method not in (*SAFE_METHODS, "POST"):
            return 405, "This server answers GET, HEAD and POST."
        origin = headers.get("origin")
        if (origin is not None and origin != f"http://{host}") or (method == "POST" and origin is None):
            return 403, "The request comes from another site."
        navigates = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == ("navigate", "document")
        own = headers.get("sec-fetch-site", "none") in ("same-origin", "none")
        if not own and not (navigates and method in SAFE_METHODS):
            return 403, "The request comes from another site."
        return None

    def _has_cookie(self, headers: dict[str, str]) -> bool:
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            return False
        return morsel is not None and secrets.compare_digest(morsel.value.encode(), self._session.encode())

    async def _sign_in(self, scope: Scope, token: str, send: Send) -> None:
        """Set the cookie, and let the browser load the page from this server, which makes it send a strict cookie."""
        if not secrets.compare_digest(token.encode("utf-8", "replace"), self._token.encode()):
            await _answer(send, 401, "The token is not that of this server; open the URL that it printed.")
            return
        query = urlencode([pair for pair in parse_qsl(scope["query_string"].decode("latin-1")) if pair[0] != "token"])
        where = escape(f"/?{query}" if query else "/")
        page = (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="0;url={where}">'
            f'<title>pairmill browse</title><p><a href="{where}">Open the dataset</a>'
        )
        cookie = f"{self._cookie}={self._session}; Path=/; HttpOnly; SameSite=Strict"
        await _answer(send, 200, page, content_type="text/html; charset=utf-8", cookie=cookie)


def _query(scope: Scope) -> dict[str, str]:
    return dict(parse_qsl(scope["query_string"].decode("latin-1")))


async def _answer(
    send: Send, status: int, text: str, *, content_type: str = "text/plain; charset=utf-8", cookie: str = ""
) -> None:
    headers = [(b"content-type", content_type.encode())]
    if cookie:
        headers.append((b"set-cookie", cookie.encode()))
    guarded = _with_headers(send)
    await guarded({"type": "http.response.start", "status": status, "headers": headers})
    await guarded({"type": "http.response.body", "body": text.encode()})


def _with_headers(send: Send) -> Send:
    """Add HEADERS to a response, in place of those that it has of the same names."""
    own = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
    names = {name for name, _ in own}

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [(name, value) for name, value in message.get("headers", ()) if name.lower() not in names]
            message = {**message, "headers": [*kept, *own]}
        await send(message)

    return send_with_headers
