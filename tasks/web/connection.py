"""Sends an HTTP/1.1 request over a socket to a checked IP address, and reads its response with h11 within bounds.

All reads end at one deadline and at one number of bytes. h11 decides on the framing of the body.
What it lacks is here: it refuses whole responses for header lines that browsers ignore (opt-outs
among them would be lost with the image), limits neither interim responses nor chunk extensions, and
answers nothing where only the end of the trailers is missing.

Source: RFC 9112, sections 2.2, 5.2, 6.3, 7.1 and 9.3; docs/decisions/download.md.
"""

import base64
import re
import select
import socket
import ssl
import threading
import time
from collections.abc import Collection, Iterable, Mapping
from email.message import Message
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

import h11

from dataops.reasons import Reason
from tasks.web.address_policy import Target
from tasks.web.fetch_error import FetchError

MAX_HEADER_BYTES = 65_536
"""Maximum size of the headers of one response and of its interim responses, and of its trailers, in bytes."""
MAX_HEADERS = 256
"""Maximum number of header lines of one response."""
_READ_BYTES = 65_536
_BYTES_PER_BYTE = 16
"""Bytes that may arrive for each byte of the body, beside MAX_HEADER_BYTES: chunks of one byte are legal."""
_HEAD_END = re.compile(rb"\n\r?\n")
_FOLD = re.compile(rb"\r?\n[ \t]+")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*:(.*)")
_INVALID = bytes.maketrans(b"\0\x0b\x0c\r", b"    ")
STANDARD_PORTS = {"http": 80, "https": 443}


class ByteBudget:
    """The bytes that one fetch may read from its sockets, over all its responses: heads, chunk sizes, bodies, trailers.

    Args:
        limit: number of bytes.
    """

    def __init__(self, limit: float):
        self.limit = self.left = limit


class Connection:
    """An open socket. Its reads end at `deadline` (time of time.monotonic()) and at `budget`, whatever arrives."""

    def __init__(self, sock: socket.socket, target: Target | None = None):  # noqa: TID251  names the type
        self._sock, self.target = sock, target
        self.deadline, self.budget = float("inf"), ByteBudget(0)

    def send(
        self,
        parts: SplitResult,
        deadline: float,
        budget: ByteBudget,
        headers: Mapping[str, str],
        body: bytes = b"",
    ) -> "Response":
        """Send a request, GET or POST of a body, and return the response with its headers read and its body unread.

        Raises: FetchError as Response does; OSError; h11.LocalProtocolError if a header has a control character.
        """
        self.deadline, self.budget = deadline, budget
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        host = parts.netloc.removesuffix(f":{STANDARD_PORTS[parts.scheme]}")
        lines = {"Host": host, "Accept-Encoding": "identity", **headers}
        if body:
            lines["Content-Length"] = str(len(body))
        parser = h11.Connection(h11.CLIENT, MAX_HEADER_BYTES)
        request = h11.Request(method="POST" if body else "GET", target=path, headers=list(lines.items()))
        events = [request, *([h11.Data(data=body)] if body else []), h11.EndOfMessage()]
        data = b"".join(parser.send(event) or b"" for event in events)
        self._sock.settimeout(seconds_left(deadline))
        self._sock.sendall(data)
        return Response(self, parser)

    def write(self, data: bytes) -> None:
        """Send bytes."""
        self._sock.settimeout(seconds_left(self.deadline))
        self._sock.sendall(data)

    def receive_exactly(self, size: int) -> bytes:
        """Return the next bytes that arrive. Raises: FetchError if they do not."""
        data = b""
        while len(data) < size:
            self._sock.settimeout(seconds_left(self.deadline))
            if not (some := self._sock.recv(size - len(data))):
                raise FetchError(Reason.CONNECT, "the connection ended early")
            data += some
        return data

    def receive(self) -> bytes:
        """Return what has arrived, at least one byte, or none at the end. Raises: FetchError, OSError."""
        self._sock.settimeout(seconds_left(self.deadline))
        size = min(_READ_BYTES, self.budget.left)
        if size <= 0:
            raise FetchError(Reason.TOO_LARGE, f"over {self.budget.limit} bytes with headers and chunk sizes")
        data = self._sock.recv(int(size))
        self.budget.left -= len(data)
        return data

    def is_quiet(self) -> bool:
        """Return whether the server neither closed an idle connection nor sent bytes that belong to no response."""
        if isinstance(self._sock, ssl.SSLSocket) and self._sock.pending():
            return False
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return not poll.poll(0)

    def read_certificate(self) -> bytes | None:
        """Return the certificate of the host, DER; None without TLS."""
        return self._sock.getpeercert(binary_form=True) if isinstance(self._sock, ssl.SSLSocket) else None

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()


class Proxy(NamedTuple):
    """A proxy that opens connections to hosts: by HTTP's CONNECT, or SOCKS5 (RFC 1928, 1929)."""

    kind: str
    """http or socks5."""
    host: str
    port: int
    user: str = ""
    password: str = ""

    def open_tunnel(self, connection: Connection, host: str, port: int) -> None:
        """Let the proxy at the other end connect to a host, whose name it resolves. Raises: FetchError."""
        refusal = (self._connect if self.kind == "http" else self._connect_socks)(connection, host, port)
        if refusal:
            raise FetchError(Reason.CONNECT, f"the proxy {refusal}")

    def _connect(self, connection: Connection, host: str, port: int) -> str:
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}"]
        if self.user:
            login = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
            lines.append(f"Proxy-Authorization: Basic {login}")
        connection.write("\r\n".join([*lines, "", ""]).encode())
        head = b""
        while not (end := _HEAD_END.search(head)):
            data = connection.receive()
            head += data
            if not data or len(head) > MAX_HEADER_BYTES:
                return "gives no answer of HTTP/1"
        status = re.match(rb"HTTP/1\.[01] (\d{3})\b", head)
        if not status or end.end() != len(head):  # what follows the head would be taken for the host's
            return "gives no answer of HTTP/1"
        return "" if status[1][:1] == b"2" else f"answers {status[1].decode()}"

    def _connect_socks(self, connection: Connection, host: str, port: int) -> str:
        method = 2 if self.user else 0
        connection.write(bytes([5, 1, method]))
        version, chosen = connection.receive_exactly(2)
        if version != 5 or chosen != method:
            return "wants another login" if version == 5 else "does not speak SOCKS5"
        if self.user:
            texts = [text.encode()[:255] for text in (self.user, self.password)]
            connection.write(b"\1" + b"".join(bytes([len(text)]) + text for text in texts))
            if connection.receive_exactly(2)[1] != 0:
                return "refuses the login"
        name = host.encode()
        connection.write(bytes([5, 1, 0, 3, len(name)]) + name + port.to_bytes(2, "big"))
        _, reply, _, kind = connection.receive_exactly(4)
        if kind not in (1, 3, 4):
            return "does not speak SOCKS5"
        connection.receive_exactly({1: 4, 4: 16}.get(kind) or connection.receive_exactly(1)[0])
        connection.receive_exactly(2)
        return "" if reply == 0 else f"refuses the host (SOCKS5 reply {reply})"


def parse_proxy(value: str, password: str = "") -> Proxy:
    """Return the proxy of a URL such as `http://user@proxy.example:3128`. Raises: ValueError."""
    parts = urlsplit(value)
    if parts.password is not None:
        raise ValueError("the password of a proxy does not belong into a config; set PAIRMILL_PROXY_PASSWORD")
    if parts.scheme not in ("http", "socks5") or not parts.hostname or not parts.port or parts.path.strip("/"):
        raise ValueError(f"{value!r} is no proxy; write http://HOST:PORT or socks5://HOST:PORT")
    return Proxy(parts.scheme, parts.hostname, parts.port, parts.username or "", password)


def open_connection(
    parts: SplitResult, targets: Iterable[Target], deadline: float, proxy: Proxy | None = None
) -> Connection:
    """Return a connection to the first of `targets` that accepts one, over TLS if the URL has it.

    The host is not resolved again; its certificate is checked.

    Args:
        proxy: the proxy at `targets`, which connects to the host of the URL.

    Raises: the errors that `translate_errors` translates.
    """
    failure: OSError = OSError("no address")
    for family, address in targets:
        sock = socket.socket(family, socket.SOCK_STREAM)  # noqa: TID251  connects to a checked IP address
        try:
            sock.settimeout(seconds_left(deadline))
            sock.connect(address)
        except OSError as error:  # also a TimeoutError
            sock.close()
            failure = error
            continue
        try:
            if proxy:
                tunnel = Connection(sock)
                tunnel.deadline, tunnel.budget = deadline, ByteBudget(2 * MAX_HEADER_BYTES)
                proxy.open_tunnel(tunnel, parts.hostname or "", parts.port or STANDARD_PORTS[parts.scheme])
            if parts.scheme == "https":
                sock.settimeout(seconds_left(deadline))  # of the whole handshake
                sock = _tls_context().wrap_socket(sock, server_hostname=parts.hostname or "")
            return Connection(sock, (family, address))
        except BaseException:
            sock.close()
            raise
    raise failure


def seconds_left(deadline: float) -> float | None:
    """Return the seconds until a time of time.monotonic(), None for no deadline. Raises: TimeoutError if it is past."""
    if deadline == float("inf"):
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


@lru_cache(maxsize=1)
def _tls_context() -> ssl.SSLContext:
    """Return the verifying context of this process: to read the certificates takes 20 ms."""
    return ssl.create_default_context()


class Response:
    """A response with its head read and its body unread.

    Args:
        parser: has sent the request.

    Raises: FetchError with the reason connect (nothing was sent), incomplete (the head or the body ended early) or
    bad_response (this is not HTTP/1, or over a limit of this module); what the socket raises.
    """

    def __init__(self, connection: Connection, parser: h11.Connection):
        self.connection, self._parser = connection, parser
        self._data, self._is_read, self._is_cut = memoryview(b""), False, False
        event, rest = self._read_head()
        self.status, self.reason = event.status_code, event.reason.decode("latin-1")
        self.headers = Message()
        for name, value in event.headers.raw_items():
            self.headers[name.decode("ascii")] = value.decode("latin-1")
        framing = dict(event.headers)
        self._is_chunked = b"transfer-encoding" in framing
        self._is_ambiguous = self._is_chunked and b"content-length" in framing
        has_length = b"content-length" in framing and not self._is_chunked
        self.length = int(framing[b"content-length"]) if has_length else None
        if self.status in (204, 304):
            self.length = 0
        self._received, self._returned = len(rest), 0
        parser.receive_data(rest) if rest else None
        if self.length == 0:
            self.read(1)

    length: int | None
    """Size of the body in bytes, if the headers state it."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes of the body as soon as some are there, and none at its end."""
        while size and not self._data and not self._is_read:
            event = self._next_event()
            if isinstance(event, h11.Data) and not self._is_cut:
                self._data = memoryview(event.data)
                self._returned += len(event.data)
            elif isinstance(event, h11.EndOfMessage):
                self._is_read = True
            else:
                raise self._incomplete()
        data, self._data = bytes(self._data[:size]), self._data[size:]
        return data

    @property
    def has_end(self) -> bool:
        """Whether the headers state how the body ends: by a length or by chunks, not by the end of the connection."""
        return self.length is not None or self._is_chunked

    def leaves_connection_open(self) -> bool:
        """Return whether the body was read to its end, and its server takes another request on the connection.

        The length of the body must be beyond doubt, and no bytes may follow it. Source: RFC 9112, sections 6.3 and 9.3.
        """
        states = set(self._parser.states.values())
        is_plain = not self._is_ambiguous and not self._parser.trailing_data[0]
        return self._is_read and states == {h11.DONE} and is_plain

    def _read_head(self) -> tuple[h11.Response, bytes]:
        """Return the event of the final response, and what was received after its head."""
        pending, left = bytearray(), MAX_HEADER_BYTES
        while True:
            searched = 0
            while not (end := _HEAD_END.search(pending, max(0, searched - 2))):
                searched = len(pending)
                if searched > left or not pending.startswith(b"HTTP/1."[:searched]):
                    raise FetchError(Reason.BAD_RESPONSE, "no status line and headers of HTTP/1 within the limit")
                if not (data := self.connection.receive()):
                    raise (
                        FetchError(Reason.INCOMPLETE, "the headers ended early")
                        if pending
                        else FetchError(Reason.CONNECT, "closed without a response")
                    )
                pending += data
            left -= end.end()
            if left < 0:
                raise FetchError(Reason.BAD_RESPONSE, f"headers of more than {MAX_HEADER_BYTES} bytes")
            self._parser.receive_data(_clean_head(bytes(pending[: end.end()])))
            event = self._parse()
            del pending[: end.end()]
            if isinstance(event, h11.Response):
                return event, bytes(pending)
            if not isinstance(event, h11.InformationalResponse):
                raise FetchError(Reason.BAD_RESPONSE, "no response of HTTP/1")

    def _next_event(self) -> Any:
        while (event := self._parse()) is h11.NEED_DATA and not self._is_cut:
            if self._received > MAX_HEADER_BYTES + _BYTES_PER_BYTE * self._returned:
                raise FetchError(Reason.BAD_RESPONSE, f"chunk extensions of more than {MAX_HEADER_BYTES} bytes")
            data = self.connection.receive()
            self._received += len(data)
            if not data:
                self._is_cut = self._is_chunked
                data = b"\r\n\r\n" if self._is_chunked else b""  # ends the trailers, and nothing but the trailers
            self._parser.receive_data(data)
        return event

    def _parse(self) -> Any:
        try:
            return self._parser.next_event()
        except h11.RemoteProtocolError as error:
            if self._is_cut or self._parser.trailing_data[1]:
                raise self._incomplete() from None
            raise FetchError(Reason.BAD_RESPONSE, str(error).partition(":")[0]) from None

    def _incomplete(self) -> FetchError:
        return FetchError(Reason.INCOMPLETE, f"the body ended {'within a chunk' if self._is_chunked else _EARLY}")


_EARLY = "before its Content-Length"


def _clean_head(head: bytes) -> bytes:
    """Return a head without the lines that are no header, which browsers ignore, and which h11 refuses.

    Folded lines become one line. A coding `identity` is none, and one that is named twice was applied once, as in curl.
    """
    status, *lines = _FOLD.sub(b" ", head).rstrip(b"\r\n").split(b"\n")
    if len(lines) > MAX_HEADERS:
        raise FetchError(Reason.BAD_RESPONSE, f"more than {MAX_HEADERS} header lines")
    found = (_HEADER.fullmatch(line.translate(_INVALID)) for line in lines)
    headers = [(one[1], one[2].strip(b" \t")) for one in found if one]
    codings = [one[1].lower() for one in headers if one[0].lower() == b"transfer-encoding"]
    codings = [coding for one in codings for coding in map(bytes.strip, one.split(b",")) if coding != b"identity"]
    kept = [b"%s: %s" % one for one in headers if one[0].lower() != b"transfer-encoding"]
    kept += [b"Transfer-Encoding: " + b", ".join(dict.fromkeys(codings))] if codings else []
    return b"\r\n".join([status.rstrip(b"\r"), *kept, b"", b""])


def list_header_values(headers: Message, name: str) -> list[str]:
    """Return the elements of a header that is a comma-separated list, from all its lines."""
    return [element.strip() for value in headers.get_all(name, []) for element in value.split(",")]


Origin = tuple[str, str, int]
"""Scheme, host and port."""


class _Idle(NamedTuple):
    origin: Origin
    connection: Connection
    until: float


class IdleConnections:
    """Keeps the connections of whole responses, so that the next request to the same host needs no new one.

    A connection serves only requests of its scheme, host and port, and only while the address that
    it is connected to is among the checked ones of the request. Safe to use from many threads.

    Args:
        most: maximum number of idle connections.
        seconds: time after which an idle connection is closed: many servers close theirs after five.
    """

    def __init__(self, most: int = 64, seconds: float = 4.0) -> None:
        self._most, self._seconds, self._lock = most, seconds, threading.Lock()
        self._idle: list[_Idle] = []  # the one that was used last is at the end

    def take(self, origin: Origin, targets: Collection[Target]) -> Connection | None:
        """Return an open connection to one of `targets`, or None. Connections that the server closed are dropped."""
        while True:
            with self._lock:
                numbers = range(len(self._idle) - 1, -1, -1)
                found = next((n for n in numbers if self._idle[n].origin == origin), None)
                if found is None:
                    return None
                _, connection, until = self._idle.pop(found)
            if time.monotonic() < until and connection.target in targets and connection.is_quiet():
                return connection
            connection.close()

    def put(self, origin: Origin, connection: Connection) -> None:
        """Keep a connection whose last response was read to its end. Drop expired ones, and the oldest if too many."""
        now = time.monotonic()
        with self._lock:
            self._idle.append(_Idle(origin, connection, now + self._seconds))
            expired = sum(one.until < now for one in self._idle)
            dropped = max(expired, len(self._idle) - self._most)
            closed, self._idle = self._idle[:dropped], self._idle[dropped:]
        for one in closed:
            one.connection.close()

    def close(self) -> None:
        """Close all idle connections."""
        with self._lock:
            closed, self._idle = self._idle, []
        for one in closed:
            one.connection.close()
