"""Serve the demo's site on loopback: `python -m plugins.demo.server --directory DIR --port PORT`.

The server supports HTTP/1.1 with keep-alive, and applies the site's rules (`site-rules.json`: redirects, content types and
headers by path prefix). Nothing outside the folder is reachable, the rules are not served, and SIGTERM stops it. It
responds to any Host header. It imports only the standard library, so that it starts at once.
"""

import argparse
import errno
import json
import logging
import mimetypes
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer  # noqa: TID251  the demo's site, on 127.0.0.1
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import Any
from urllib.parse import unquote, urlsplit

RULES_FILE = "site-rules.json"
HEALTH_PATH = "/healthz"
IDLE_SECONDS = 30

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SiteRules:
    """Rules of the site; all paths are decoded and start with '/'."""

    redirects: Mapping[str, str] = field(default_factory=dict)
    content_types: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @classmethod
    def load(cls, directory: Path) -> "SiteRules":
        """Read the rules of a site; a site without a file has none."""
        file = directory / RULES_FILE
        return cls(**json.loads(file.read_text(encoding="utf-8"))) if file.exists() else cls()


class SiteServer(ThreadingHTTPServer):
    """Serves one folder on 127.0.0.1; port 0 selects a free port (see `port`).

    Its threads serve one connection after the other, because to start one takes longer than to respond.
    """

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, directory: Path, port: int = 0):
        self.directory = directory.resolve(strict=True)
        self.rules = SiteRules.load(self.directory)
        self._connections: SimpleQueue[tuple[Any, Any] | None] = SimpleQueue()
        self._started, self._idle = 0, threading.Semaphore(0)
        super().__init__(("127.0.0.1", port), SiteHandler)

    @property
    def port(self) -> int:
        """Port that the server listens on."""
        return int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give the connection to an idle thread, else to a new one."""
        self._connections.put((request, client_address))
        if not self._idle.acquire(blocking=False):
            self._started += 1
            threading.Thread(target=self._serve_connections, name="site", daemon=True).start()

    def _serve_connections(self) -> None:
        while connection := self._connections.get():
            self.process_request_thread(*connection)
            self._idle.release()

    def server_close(self) -> None:
        """Close the server's socket and end its idle threads."""
        super().server_close()
        for _ in range(self._started):
            self._connections.put(None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log errors with a traceback, except for clients that disconnect."""
        if isinstance(sys.exception(), ConnectionError | TimeoutError):
            logger.debug("client %s disconnected", client_address)
        else:
            logger.exception("request from %s failed", client_address)


class SiteHandler(BaseHTTPRequestHandler):
    """Responds to GET and HEAD."""

    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    # Headers and body are sent in one segment: two writes would wait 40 ms for a delayed ACK (Nagle's algorithm).
    wbufsize = -1
    disable_nagle_algorithm = True

    @property
    def site(self) -> SiteServer:
        """Server, with the folder and its rules."""
        assert isinstance(self.server, SiteServer)
        return self.server

    def do_GET(self) -> None:
        """Respond with the file, redirect or error of the path."""
        path = unquote(urlsplit(self.path).path, errors="replace")
        if path == HEALTH_PATH:
            self._respond(200, "text/plain; charset=utf-8", b"ok\n")
        elif (target := self.site.rules.redirects.get(path)) is not None:
            self._respond(302, "text/html; charset=utf-8", b"<title>Found</title>\n", {"Location": target})
        elif (file := self._file(path)) is None:
            self._respond(404, "text/html; charset=utf-8", b"<title>Not found</title>\n<h1>404</h1>\n")
        else:
            self._respond(200, self._content_type(path, file), file.read_bytes(), self._extra_headers(path))

    do_HEAD = do_GET

    def version_string(self) -> str:
        """Return the Server header without Python's version, because the archive contains it."""
        return "pairmill-demo"

    def log_message(self, format: str, *args: Any) -> None:
        """Log requests at debug level, not to stderr."""
        logger.debug(format, *args)

    def _file(self, path: str) -> Path | None:
        """Return the file of a path, or None if there is none in the folder."""
        if "\0" in path or path.strip("/") == RULES_FILE:
            return None
        try:
            found = os.path.realpath(f"{self.site.directory}/{path}")  # Path.resolve takes twice as long
            file = Path(found)
            if file.is_dir():
                file /= "index.html"
            inside = f"{found}/".startswith(f"{self.site.directory}/") and file.is_file()
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            return None
        return file if inside and file.name != RULES_FILE else None

    def _content_type(self, path: str, file: Path) -> str:
        configured = self.site.rules.content_types.get(path)
        guessed = mimetypes.types_map.get(file.suffix.lower(), _MORE_TYPES.get(file.suffix.lower()))
        kind = configured or guessed or "application/octet-stream"
        return f"{kind}; charset=utf-8" if configured is None and kind.startswith("text/") else kind

    def _extra_headers(self, path: str) -> dict[str, str]:
        matching = (extra for prefix, extra in self.site.rules.headers.items() if path.startswith(prefix))
        return {name: value for extra in matching for name, value in extra.items()}

    def _respond(self, status: int, content_type: str, body: bytes, extra: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (extra or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


_MORE_TYPES = {".webp": "image/webp"}  # absent from mimetypes.types_map before Python 3.13


@contextmanager
def running_server(directory: Path) -> Iterator[SiteServer]:
    """Run a server in a thread of this process, on a free port, during the block."""
    server = SiteServer(directory)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m plugins.demo.server", description="Serve the demo's site.")
    parser.add_argument("--directory", type=Path, required=True, help="the folder to serve")
    parser.add_argument("--port", type=int, default=0, help="0 selects a free port")
    options = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        with SiteServer(options.directory, options.port) as server:
            logger.info("serving %s on 127.0.0.1:%d (process %d)", server.directory, server.port, os.getpid())
            server.serve_forever(poll_interval=0.2)
    except _Stopped:
        logger.info("stopped")


class _Stopped(BaseException):
    """Raised by the signal handler in the main thread. socketserver would catch an Exception while it accepts a request."""


def _stop(number: int, frame: FrameType | None) -> None:
    raise _Stopped


if __name__ == "__main__":
    main()
