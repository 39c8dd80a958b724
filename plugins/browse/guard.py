"""Answer only the browser of the user who started the server.

The first request has the token of the printed URL, and gets a cookie. Every other request needs the cookie, the server's
own name as Host (against DNS rebinding), and must come from a page of the server itself or be a navigation. Each response
forbids scripts, styles, images and frames from elsewhere.
"""

import secrets
from html import escape
from urllib.parse import urlencode

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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

    def __init__(self, app: ASGIApp, port: int, token: str):
        self._app, self._token = app, token
        self._hosts = frozenset(f"{name}:{port}" for name in NAMES)
        self._cookie = f"pairmill-browse-{port}"  # cookies do not distinguish ports
        self._session = secrets.token_urlsafe(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        answer = self._answer(Request(scope)) or self._app
        await answer(scope, receive, send_with_headers)

    def _answer(self, request: Request) -> Response | None:
        """Return the answer to a request that the application does not get."""
        headers = request.headers
        if refusal := self._refuse_origin(request):
            return refusal
        if (token := request.query_params.get("token")) is not None:
            return self._sign_in(request, token)
        if not _is_equal(request.cookies.get(self._cookie, ""), self._session):
            return PlainTextResponse("Open the URL that `pairmill browse` printed: it has a token.", 401)
        if int(headers.get("content-length") or 0) > MAX_BODY or "transfer-encoding" in headers:
            return PlainTextResponse(f"A request may have at most {MAX_BODY >> 20} MiB.", 413)
        return None

    def _refuse_origin(self, request: Request) -> Response | None:
        headers, method = request.headers, request.method
        host, origin = headers.get("host", ""), headers.get("origin")
        if host not in self._hosts:
            return PlainTextResponse("This server answers only as 127.0.0.1 or localhost.", 421)
        if method not in (*SAFE_METHODS, "POST"):
            return PlainTextResponse("This server answers GET, HEAD and POST.", 405)
        navigates = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == ("navigate", "document")
        is_own = headers.get("sec-fetch-site", "none") in ("same-origin", "none")
        if (
            (origin is not None and origin != f"http://{host}")
            or (method == "POST" and origin is None)
            or (not is_own and not (navigates and method in SAFE_METHODS))
        ):
            return PlainTextResponse("The request comes from another site.", 403)
        return None

    def _sign_in(self, request: Request, token: str) -> Response:
        """Set the cookie, and let the browser load the page from this server, which makes it send a strict cookie."""
        if not _is_equal(token, self._token):
            return PlainTextResponse("The token is not that of this server; open the URL that it printed.", 401)
        query = urlencode([pair for pair in request.query_params.multi_items() if pair[0] != "token"])
        where = escape(f"/?{query}")
        page = HTMLResponse(
            f'<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="0;url={where}">'
            f'<title>pairmill browse</title><p><a href="{where}">Open the dataset</a>'
        )
        page.set_cookie(self._cookie, self._session, httponly=True, samesite="strict")
        return page


def _is_equal(given: str, expected: str) -> bool:
    return secrets.compare_digest(given.encode("utf-8", "replace"), expected.encode())
