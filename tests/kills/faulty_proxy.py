"""Run a proxy in front of an HTTP server that changes, delays or breaks requests and responses."""

import http.client
from contextlib import contextmanager
from urllib.parse import urlsplit

from tests.servers.loopback import Handler, serving


class Exchange:
    """One request, which may be changed before it is forwarded, and its response before that is returned."""

    def __init__(self, method, path, headers, body):
        self.method, self.path, self.headers, self.body = method, path, headers, body
        self.status = None
        self.answer = None
        self.dropped = False
        """Whether to close the connection without a response."""
        self.sent_share = 1.0
        """Share of the response's body to send before the connection is closed; 1 is a whole response."""

    @property
    def is_answered(self):
        """Whether there is a response."""
        return self.status is not None

    def respond(self, status, body):
        """Respond instead of the server."""
        self.status, self.answer = status, ([("Content-Type", "application/xml")], body)


@contextmanager
def meddler(target, meddle):
    """Yield the URL of a proxy to `target`.

    Args:
        meddle: called with each exchange before it is forwarded, unless it is dropped, and again with the response.
    """

    class Proxy(Handler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # headers and body are two writes

        def _any(self):
            body = self.read_body()
            exchange = Exchange(self.command, self.path, dict(self.headers.items()), body)
            meddle(exchange)
            if not exchange.is_answered and not exchange.dropped:
                _forward(target, exchange)
                if exchange.is_answered:
                    meddle(exchange)
            if exchange.dropped or exchange.status is None or exchange.answer is None:
                self.close_connection = True
                return
            headers, data = exchange.answer
            self.send_response(exchange.status)
            for name, value in headers:
                self.send_header(name, value)
            if not any(name.lower() == "content-length" for name, _ in headers):
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data[: int(len(data) * exchange.sent_share)])
            if exchange.sent_share < 1:
                self.close_connection = True

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _any

    with serving(Proxy) as server:
        yield server.url


def _forward(target, exchange):
    """Send the request to the server; a failure leaves the exchange without a response."""
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
    except (OSError, http.client.HTTPException):
        exchange.dropped = True
    finally:
        connection.close()
