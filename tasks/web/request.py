"""One HTTP request over a socket that was connected to a checked address: what every fetch of a download is made of.

http and https only; the address is resolved once and is the one that is connected to; connecting, the TLS handshake, the
headers and the body all end at one deadline, however slowly the bytes drip; headers and body have caps. Whatever goes wrong
becomes a FetchError, whose text starts with a stable class.
"""

import http.client
import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from tasks.web.address_policy import AddressResolver, Target

MAX_REDIRECTS = 5
MAX_HEADER_BYTES = 65_536
"""Of one response: status line and headers together."""
REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CHUNK = 1 << 16
_READ_AHEAD = 8_192  # of the body, that http.client's buffer may take with the headers
_TRANSIENT = frozenset({"timeout", "dns", "connect", "incomplete", "host_busy", "http_408", "http_425", "http_429"})


class FetchError(Exception):
    """A fetch that failed; the text is `reason: detail`, and holds nothing that differs from one run to the next."""

    def __init__(self, reason: str, detail: str, retry_after: float | None = None):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.retry_after = retry_after
        """Seconds for which the server asked to be left alone."""

    @property
    def is_transient(self) -> bool:
        """Whether trying again may help."""
        return self.reason in _TRANSIENT or self.reason.startswith("http_5")


class HttpClient:
    """Makes requests; safe to use from many threads.

    Args:
        addresses: where to connect.
        user_agent: the header.
        contact: whether it names one. Without, no host but those of `addresses.connect_to` is asked.
    """

    def __init__(self, addresses: AddressResolver, user_agent: str, *, contact: bool):
        self.addresses, self.user_agent, self.contact = addresses, user_agent, contact
        self._tls = _tls_context()

    @contextmanager
    def get(self, parts: SplitResult, deadline: float, **headers: str) -> Iterator[http.client.HTTPResponse]:
        """The response to one GET, its headers read and its body not.

        Args:
            parts: of split_url.
            deadline: a time of time.monotonic().

        Raises: FetchError, and what the names in `translate_errors` stand for.
        """
        with closing(self._connect(parts, deadline)) as connection:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            headers = {"User-Agent": self.user_agent, "Connection": "close"} | headers
            connection.request("GET", path, headers=headers)  # which adds Host and Accept-Encoding: identity
            sock: Any = connection.sock
            sock.allowance = MAX_HEADER_BYTES + _READ_AHEAD
            with connection.getresponse() as response:
                sock.allowance = float("inf")
                yield response

    def _connect(self, parts: SplitResult, deadline: float) -> http.client.HTTPConnection:
        host = parts.hostname or ""
        standard = 443 if parts.scheme == "https" else 80
        port = parts.port or standard
        refusal, targets = self.addresses.resolve(host, port, deadline)
        if refusal:
            raise FetchError(*refusal)
        if not self.contact and host not in self.addresses.connect_to:
            raise FetchError("no_contact", "download.contact is not set, so only hosts of connect_to are asked")
        sock = _connected(targets, deadline)
        if parts.scheme == "https":
            sock = self._secured(sock, host, deadline)
        connection = http.client.HTTPConnection(host, port)
        connection.default_port = standard  # so that the Host header names no standard port
        connection.sock = sock
        return connection

    def _secured(self, sock: socket.socket, host: str, deadline: float) -> socket.socket:
        try:
            sock.settimeout(seconds_left(deadline))  # the whole handshake's
            secured: Any = self._tls.wrap_socket(sock, server_hostname=host)
        except BaseException:
            sock.close()
            raise
        secured.deadline = deadline
        return secured


@contextmanager
def translate_errors(timeout: float) -> Iterator[None]:
    """Turn what sockets, TLS and http.client raise into FetchErrors.

    Args:
        timeout: seconds, for the text.
    """
    try:
        yield
    except TimeoutError:
        raise FetchError("timeout", f"not whole after {timeout:g} s") from None
    except ssl.SSLError as error:  # an OSError, so before it
        raise FetchError("tls", getattr(error, "verify_message", "") or error.reason or "failed") from None
    except OSError as error:
        raise FetchError("connect", error.strerror or type(error).__name__) from None
    except http.client.IncompleteRead:
        raise FetchError("incomplete", "the body ended within a chunk") from None
    except http.client.HTTPException as error:
        raise FetchError("bad_response", type(error).__name__) from None


def read_body(response: http.client.HTTPResponse, cap: int, *, cut: bool = False) -> Iterator[bytes]:
    """The pieces of a body.

    Args:
        cap: bytes.
        cut: end there, instead of failing where there is more.

    Raises: FetchError with too_large where there is more than `cap` bytes (known early from the Content-Length, else when
    they have come), incomplete where there is less than promised, bad_response where it is compressed: we ask for
    `identity`, and so nothing can unfold.
    """
    length = response.length  # None where the body is chunked or ends with the connection
    if length is not None and length > cap and not cut:
        raise FetchError("too_large", f"over {cap} bytes")
    if response.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise FetchError("bad_response", "Content-Encoding that was not asked for")
    size = 0
    while chunk := response.read(min(_CHUNK, cap + (not cut) - size)):
        size += len(chunk)
        yield chunk
        if size > cap:
            raise FetchError("too_large", f"over {cap} bytes")
    if length is not None and size < min(length, cap):
        raise FetchError("incomplete", "the body ended before its Content-Length")


def split_url(url: str) -> SplitResult:
    """A url's parts, ready for the wire: host in IDNA, path and query percent-encoded where they must be.

    Raises: FetchError.
    """
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname or ""
        host = host if ":" in host else host.rstrip(".").encode("idna").decode("ascii")
    except ValueError:  # UnicodeError too
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


def resolve_redirect(url: str, response: http.client.HTTPResponse) -> str:
    """Where a redirect leads. Raises: FetchError."""
    location = response.headers.get("Location")
    if not location:
        raise FetchError("bad_response", "a redirect without a Location")
    # http.client reads header bytes as Latin-1; servers send UTF-8
    location = location.encode("latin-1", "replace").decode("utf-8", "replace")
    try:
        return urljoin(url, location)
    except ValueError:
        raise FetchError("bad_url", "Location cannot be read") from None


def retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for: a number, or a date. Source: RFC 9110, section 10.2.3."""
    value = (value or "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time()) if value else None
    except (ValueError, OverflowError):
        return None


def seconds_left(deadline: float) -> float:
    """Seconds until a time of time.monotonic(). Raises: TimeoutError when it is past."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class _Bounded:
    """A socket's bounds: its reads all end at one time (a timeout a read never ends a slow drip), after so many bytes."""

    deadline: float = float("inf")
    allowance: float = float("inf")

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        self.settimeout(seconds_left(self.deadline))  # pyright: ignore[reportAttributeAccessIssue]
        if self.allowance <= 0:
            raise FetchError("bad_response", f"headers of more than {MAX_HEADER_BYTES} bytes")
        read: int = super().recv_into(buffer, nbytes or 0, flags)  # pyright: ignore[reportAttributeAccessIssue]
        self.allowance -= read
        return read


class _BoundedSocket(_Bounded, socket.socket):
    pass


class _BoundedTLSSocket(_Bounded, ssl.SSLSocket):
    pass


def _connected(targets: Iterable[Target], deadline: float) -> socket.socket:
    failure: OSError = OSError("no address")
    for family, address in targets:
        sock = _BoundedSocket(family, socket.SOCK_STREAM)
        sock.deadline = deadline
        try:
            sock.settimeout(seconds_left(deadline))
            sock.connect(address)
        except OSError as error:  # TimeoutError too
            sock.close()
            failure = error
        else:
            return sock
    raise failure


@lru_cache(maxsize=1)
def _tls_context() -> ssl.SSLContext:
    """One verifying context a process: reading the certificates takes 20 ms."""
    context = ssl.create_default_context()
    context.sslsocket_class = _BoundedTLSSocket
    return context
