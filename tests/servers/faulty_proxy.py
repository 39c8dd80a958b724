"""A proxy in front of an HTTP server that does to a request what networks and servers do at times."""

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

Meddle = Callable[["Exchange"], None]


class Exchange:
    """One request; a test may change it before it is forwarded, and its answer before that goes back."""

    def __init__(self, method: str, path: str, headers: dict[str, str], body: bytes):
        self.method, self.path, self.headers, self.body = method, path, headers, body
        self.status: int | None = None
        self.answer: tuple[list[tuple[str, str]], bytes] | None = None
        self.dropped = False

    @property
    def is_answered(self) -> bool:
        return self.status is not None

    def respond(self, status: int, body: bytes) -> None:
        """Respond instead of the server."""
        self.status, self.answer = status, ([("Content-Type", "application/xml")], body)


@contextmanager
def meddler(target: str, meddle: Meddle) -> Iterator[str]:
    """Yield the address of a proxy to `target`. `meddle` gets each exchange before it is forwarded, and with its answer."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            exchange = Exchange(self.command, self.path, dict(self.headers.items()), body)
            meddle(exchange)
            if not exchange.is_answered:
                _forward(target, exchange)
                meddle(exchange)
            if exchange.dropped:
                self.close_connection = True
                return
            assert exchange.status is not None
            assert exchange.answer is not None
            headers, data = exchange.answer
            self.send_response(exchange.status)
            for name, value in headers:
                self.send_header(name, value)
            if not any(name.lower() == "content-length" for name, _ in headers):
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _any

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _forward(target: str, exchange: Exchange) -> None:
    connection = http.client.HTTPConnection(urlsplit(target).netloc, timeout=20)
    try:
        connection.putrequest(exchange.method, exchange.path, skip_host=True, skip_accept_encoding=True)
        for name, value in exchange.headers.items():
            if name.lower() != "expect":
                connection.putheader(name, value)
        connection.endheaders(exchange.body)
        response = connection.getresponse()
        data = response.read()
        kept = [(n, v) for n, v in response.getheaders() if n.lower() not in ("transfer-encoding", "connection")]
        exchange.status, exchange.answer = response.status, (kept, data)
    finally:
        connection.close()
