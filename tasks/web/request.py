"""Make one HTTP request over a socket that is connected to a checked IP address.

Only http and https are allowed. The host is resolved once, and the socket connects to the address that was checked. The
connection, the TLS handshake, the headers and the body all end at one deadline, however slowly the bytes arrive; one
budget of bytes holds for all that is read. Every failure becomes a FetchError, whose text begins with a stable reason.
"""

import re
import ssl
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from tasks.web.address_policy import AddressResolver, Target
from tasks.web.bounded_socket import ByteBudget, connect, seconds_left, secure
from tasks.web.connections import IdleConnections, Origin, Socket
from tasks.web.fetch_error import FetchError
from tasks.web.response import MAX_HEADER_BYTES, Response, list_header_values

if TYPE_CHECKING:
    from tasks.web.identity.signer import RequestSigner

MAX_REDIRECTS = 5
_STANDARD_PORTS = {"http": 80, "https": 443}
REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CHUNK = 1 << 16
_CONTROL = re.compile(r"[\0-\x08\x0a-\x1f\x7f]")


class HttpClient:
    """Makes requests. Safe to use from many threads. `close` it after the last one.

    Args:
        addresses: resolves the hosts.
        user_agent: value of the User-Agent header.
        contact: whether `user_agent` names a contact. Without one, only the hosts of `addresses.connect_to` are requested.
        signer: signs each request; None: requests are not signed.
    """

    def __init__(
        self, addresses: AddressResolver, user_agent: str, *, contact: bool, signer: "RequestSigner | None" = None
    ):
        self.addresses, self.user_agent, self.contact, self._signer = addresses, user_agent, contact, signer
        self._idle = IdleConnections()

    @contextmanager
    def get(self, parts: SplitResult, deadline: float, budget: ByteBudget, **headers: str) -> Iterator[Response]:
        """Send a GET request, and return the response with its headers read and its body unread.

        If the block reads the body to its end, a later request to the same host may use the connection.

        Args:
            parts: a URL as split_url returns it.
            deadline: time of time.monotonic().
            budget: bytes that may be read (`allow_body`); redirects spend the same one.

        Raises: FetchError, and the errors that `translate_errors` translates.
        """
        targets = self._resolve(parts, deadline)
        origin = (parts.scheme, parts.hostname or "", port_of(parts))
        headers = {"User-Agent": self.user_agent} | headers
        sock, response = self._send(origin, targets, parts, deadline, budget, headers)
        is_open = False
        try:
            with closing(response):
                yield response
                sock.is_ended = True
                is_open = response.leaves_connection_open() and not response.has_more()
        finally:
            if is_open:
                self._idle.put(origin, sock)
            else:
                sock.close()

    def close(self) -> None:
        """Close the connections that are kept."""
        self._idle.close()

    def _resolve(self, parts: SplitResult, deadline: float) -> list[Target]:
        host = parts.hostname or ""
        refusal, targets = self.addresses.resolve(host, port_of(parts), deadline)
        if refusal:
            raise FetchError(*refusal)
        if not self.contact and host not in self.addresses.connect_to:
            raise FetchError("no_contact", "download.contact is not set, so only hosts of connect_to are requested")
        return targets

    def _send(
        self,
        origin: Origin,
        targets: list[Target],
        parts: SplitResult,
        deadline: float,
        budget: ByteBudget,
        headers: dict[str, str],
    ) -> tuple[Socket, Response]:
        """Send the request over a kept connection, or over a new one if there is none or the server closed it."""
        if sock := self._idle.take(origin, targets):
            left = budget.left
            try:
                return sock, send_request(sock, parts, deadline, budget, self._sign(parts, headers))
            except BaseException as error:
                sock.close()
                is_lost = isinstance(error, OSError | FetchError) and not isinstance(error, TimeoutError)
                if not is_lost or budget.left != left:
                    raise
        sock = open_connection(parts, targets, deadline)
        try:
            return sock, send_request(sock, parts, deadline, budget, self._sign(parts, headers))
        except BaseException:
            sock.close()
            raise

    def _sign(self, parts: SplitResult, headers: dict[str, str]) -> dict[str, str]:
        """Return the headers with a new signature, which a second attempt needs too: its nonce is used once."""
        return headers | self._signer.sign(parts.scheme, parts.netloc) if self._signer else headers


def open_connection(parts: SplitResult, targets: Iterable[Target], deadline: float) -> Socket:
    """Return a connection to the first of `targets` that accepts one, over TLS if the URL has it.

    The host is not resolved again.

    Raises: the errors that `translate_errors` translates.
    """
    sock = connect(targets, deadline)
    return secure(sock, parts.hostname or "", deadline) if parts.scheme == "https" else sock


def send_request(
    sock: Socket, parts: SplitResult, deadline: float, budget: ByteBudget, headers: dict[str, str], body: bytes = b""
) -> Response:
    """Send a request over an open connection, and return the response with its headers read: GET, or POST of a body.

    All reads of the connection end at the deadline; its attribute changes that.
    """
    sock.deadline, sock.budget, sock.is_ended = deadline, budget, False
    sock.settimeout(seconds_left(deadline))
    if body:
        headers = headers | {"Content-Length": str(len(body))}
    sock.sendall(_format_request("POST" if body else "GET", parts, headers) + body)
    return Response(sock.makefile("rb"))


def _format_request(method: str, parts: SplitResult, headers: dict[str, str]) -> bytes:
    """Return the head of a request. Raises: ValueError if one of its lines has a control character."""
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    host = parts.netloc.removesuffix(f":{_STANDARD_PORTS[parts.scheme]}")
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Accept-Encoding: identity"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if any(map(_CONTROL.search, lines)):
        raise ValueError("a header with a control character")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def allow_body(cap: int) -> ByteBudget:
    """Return the budget of a fetch whose body may have `cap` bytes; MAX_HEADER_BYTES more are for all around it."""
    return ByteBudget(cap + MAX_HEADER_BYTES)


def port_of(parts: SplitResult) -> int:
    """Return the port of a URL, by default that of its scheme."""
    return parts.port or _STANDARD_PORTS[parts.scheme]


@contextmanager
def translate_errors(timeout: float) -> Iterator[None]:
    """Translate the errors of sockets and TLS into FetchErrors.

    Args:
        timeout: seconds, for the message.
    """
    try:
        yield
    except TimeoutError:
        raise FetchError("timeout", f"not whole after {timeout:g} s") from None
    except ssl.SSLError as error:  # a subclass of OSError
        raise FetchError("tls", getattr(error, "verify_message", "") or error.reason or "failed") from None
    except OSError as error:
        raise FetchError("connect", error.strerror or type(error).__name__) from None
    except ValueError as error:  # a URL or a host that a library refuses
        raise FetchError("bad_response", type(error).__name__) from None


def read_body(response: Response, cap: int, *, cut: bool = False) -> Iterator[bytes]:
    """Return the chunks of a body.

    Args:
        cap: maximum size, in bytes.
        cut: end at `cap` instead of failing when the body is larger.

    Raises: FetchError with the reason too_large if the body is larger than `cap` (by its Content-Length, or once so much
    has arrived), incomplete if it ends early, bad_response if its framing is invalid or it is compressed: requests accept
    only `identity`, so that no body can grow in memory.
    """
    length = response.length  # None where the body is chunked or ends with the connection
    if length is not None and length > cap and not cut:
        raise FetchError("too_large", f"over {cap} bytes")
    codings = {coding.lower() for coding in list_header_values(response.headers, "Content-Encoding")}
    if codings - {"", "identity"}:
        raise FetchError("bad_response", "Content-Encoding that was not asked for")
    size = 0
    while chunk := response.read(min(_CHUNK, cap + (not cut) - size)):
        size += len(chunk)
        yield chunk
        if size > cap:
            raise FetchError("too_large", f"over {cap} bytes")


def split_url(url: str) -> SplitResult:
    """Split a URL into parts that can be sent: the host in IDNA, path and query percent-encoded where needed.

    Raises: FetchError.
    """
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname or ""
        host = host if ":" in host else host.rstrip(".").encode("idna").decode("ascii")
    except ValueError:  # also a UnicodeError
        raise FetchError("bad_url", "host or port cannot be read") from None
    if parts.scheme not in ("http", "https"):
        raise FetchError("bad_url", "neither http nor https")
    if not host or "@" in parts.netloc or any(c <= " " or c == "\x7f" for c in host):
        raise FetchError("bad_url", "no plain host")
    netloc = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    safe = "!#$%&'()*+,/:;=?@[]~"
    try:
        path, query = quote(parts.path, safe=safe), quote(parts.query, safe=safe)
    except UnicodeError:
        raise FetchError("bad_url", "text that is not Unicode") from None
    return SplitResult(parts.scheme, netloc, path, query, "")


def resolve_redirect(url: str, response: Response) -> str:
    """Return the URL to which a redirect leads. Raises: FetchError."""
    location = response.headers.get("Location")
    if not location:
        raise FetchError("bad_response", "a redirect without a Location")
    # http.client reads header bytes as Latin-1; servers send UTF-8
    location = location.encode("latin-1", "replace").decode("utf-8", "replace")
    try:
        return urljoin(url, location)
    except ValueError:
        raise FetchError("bad_url", "Location cannot be read") from None


def parse_retry_seconds(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header (a number or a date) requests, or None.

    Source: RFC 9110, section 10.2.3.
    """
    value = (value or "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time()) if value else None
    except (ValueError, OverflowError):
        return None
