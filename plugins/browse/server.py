"""The server of `pairmill browse`: its routes, and how errors become pages."""

import logging
import secrets
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from dataops.errors import ConfigError, PairmillError
from dataops.trace.targets import parse_target
from plugins.browse import pages
from plugins.browse.database import QueryFailed
from plugins.browse.guard import MAX_BODY, Guard
from plugins.browse.images import NoImage
from plugins.browse.site import Site
from tasks.reports.page import render

logger = logging.getLogger(__name__)

ADDRESS = "127.0.0.1"
ASSETS = Path(__file__).parent / "assets"
MAX_TARGETS = 10_000
"""Maximum number of targets of a takedown file."""


class Server:
    """One server on a loopback port of its own.

    Args:
        port: 0 for a free one.

    Raises: ConfigError if the port is in use.
    """

    def __init__(self, site: Site, port: int = 0):
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)  # noqa: TID251  its pages, on 127.0.0.1
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((ADDRESS, port))
            self._socket.listen()  # from now on a request waits for the server, whose address is printed before it runs
        except OSError as error:
            self._socket.close()
            raise ConfigError(
                f"--port {port}: {error.strerror}; choose another, or leave it out for a free one"
            ) from error
        self.port, self.token = self._socket.getsockname()[1], secrets.token_urlsafe(24)
        self.url = f"http://{ADDRESS}:{self.port}/?token={self.token}"
        config = uvicorn.Config(
            build_app(site, self.port, self.token),
            access_log=False,  # it would have the token
            log_level="warning",
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=2,
            timeout_keep_alive=30,
            limit_concurrency=100,
            ws="none",
        )
        self._server = uvicorn.Server(config)

    def run(self) -> None:
        """Serve until a signal ends the process."""
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """End `run` of another thread."""
        self._server.should_exit = True


def build_app(site: Site, port: int, token: str) -> Guard:
    """Return the application with its guard."""
    routes = [
        _page("/", site, pages.list_page),
        _page("/row", site, pages.row_page),
        _page("/record", site, pages.record_page),
        _page("/clusters", site, pages.clusters_page),
        _page("/meaning", site, pages.meaning_page),
        _page("/funnel", site, pages.funnel_page),
        _data("/image", site, send_image),
        _data("/features.json", site, send_progress),
        _data("/features", site, change_features, "POST"),
        _data("/takedown", site, send_takedown, "POST"),
        _data("/upload", site, take_image, "POST"),
        Route("/assets/{name}", send_asset),
    ]
    return Guard(Starlette(routes=routes), port, token)


def _page(path: str, site: Site, page: pages.Page) -> Route:
    def answer(request: Request) -> Response:
        try:
            return page(site, request)
        except ConfigError as error:
            return pages.error_page(site, 400, str(error))
        except QueryFailed as error:
            return pages.error_page(site, 503, str(error))
        except PairmillError as error:
            logger.warning("%s", error)
            return pages.error_page(site, 500, str(error))

    return Route(path, answer, methods=["GET"])


def _data(path: str, site: Site, send: Callable[[Site, Request, bytes], Response], method: str = "GET") -> Route:
    """Return a route for what is no page; its errors are JSON."""

    async def answer(request: Request) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                return JSONResponse({"error": f"a request may have at most {MAX_BODY >> 20} MiB"}, 413)
        try:
            return await run_in_threadpool(send, site, request, body)
        except NoImage as error:
            return JSONResponse({"error": str(error)}, 404)
        except ConfigError as error:
            return JSONResponse({"error": str(error)}, 400)
        except PairmillError as error:
            logger.warning("%s", error)
            return JSONResponse({"error": str(error)}, 503)

    return Route(path, answer, methods=[method])


def send_image(site: Site, request: Request, body: bytes) -> Response:
    """Send the image of a row, encoded again as JPEG."""
    view, row, _ = pages.find_row(site, request, ("shard", "key", "status"))
    size = "large" if request.query_params.get("size") == "large" else "small"
    return Response(site.images.get(view, row, size), media_type="image/jpeg")


def send_progress(site: Site, request: Request, body: bytes) -> Response:
    """Send the state of the computation of features."""
    progress = site.need_meaning().progress
    state = {"done": progress.done, "total": progress.total, "running": progress.running, "error": progress.error}
    return JSONResponse(state)


def change_features(site: Site, request: Request, body: bytes) -> Response:
    """Start or stop the computation of features, or load the model before it is needed."""
    meaning, action = site.need_meaning(), _form(body).get("action", [""])[0]
    if action == "warm":
        meaning.warm_up()
        return JSONResponse({})
    if action == "stop":
        meaning.stop()
    else:
        meaning.start()
    return RedirectResponse("/meaning", 303)


def take_image(site: Site, request: Request, body: bytes) -> Response:
    """Encode an image of the user, and return the name of the query by it."""
    return JSONResponse({"like": site.add_upload(body)})


def send_takedown(site: Site, request: Request, body: bytes) -> Response:
    """Send a file of targets for `pairmill takedown`. It is only written: nothing is removed from here."""
    lines = [line for text in _form(body).get("targets", []) for line in text.split()]
    if not 0 < len(lines) <= MAX_TARGETS:
        raise ConfigError(f"a takedown file has 1 to {MAX_TARGETS:,} targets; {len(lines):,} are chosen")
    try:
        targets = list(dict.fromkeys(str(parse_target(line)) for line in lines))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    now = datetime.now(UTC)
    head = [
        f"# Targets chosen in {site.dataset.manifest.stage}/{site.dataset.manifest.key} on {now:%Y-%m-%d %H:%M} UTC.",
        "# Check them, then run: pairmill takedown FILE --reason TEXT",
    ]
    name = f"takedown-{now:%Y%m%dT%H%M%S}.txt"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return PlainTextResponse("\n".join([*head, *targets]) + "\n", headers=headers)


def send_asset(request: Request) -> Response:
    """Send the style sheet or the script."""
    name = request.path_params["name"]
    if name == "style.css":
        return Response(render("browse/style.css"), media_type="text/css")
    if name == "app.js":
        return Response((ASSETS / name).read_bytes(), media_type="text/javascript")
    return PlainTextResponse("There is no such file.", 404)


def _form(body: bytes) -> dict[str, list[str]]:
    try:
        return parse_qs(body.decode("ascii"), max_num_fields=100)
    except ValueError as error:
        raise ConfigError("the form of the request cannot be read") from error
