"""Make HTTP requests over connections to checked IP addresses.

Only http and https are allowed. The host is resolved once, and the socket connects to the address
that was checked. The connection, the TLS handshake, the headers and the body all end at one
deadline, however slowly the bytes arrive; one budget of bytes holds for all that is read. Every
failure becomes a FetchError, whose text begins with a stable reason.
"""

import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.message import Message
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import Protocol
from urllib.parse import SplitResult, urlsplit

import h11

from dataops.archives.http_body import BadBody, decode_codings
from dataops.reasons import Reason
from dataops.rights.refusals import MAX_CHALLENGE_BYTES, find_challenge
from dataops.web.urls import BadUrl, canonicalise_url
from tasks.web.address_policy import AddressResolver, Target
from tasks.web.connection import (
    MAX_HEADER_BYTES,
    STANDARD_PORTS,
    ByteBudget,
    Connection,
    IdleConnections,
    Origin,
    Proxy,
    Response,
    list_header_values,
    open_connection,
)
from tasks.web.fetch_error import FetchError
from tasks.web.signing import Sign

MAX_REDIRECTS = 5
REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CHUNK = 1 << 16


class HttpClient:
    """Makes requests. Safe to use from many threads. `close` it after the last one.

    Args:
        addresses: resolves the hosts.
        user_agent: value of the User-Agent header.
        contact: whether `user_agent` names a contact. Without one, only the hosts of `addresses.connect_to` are requested.
        sign: returns the headers that sign a request; None: requests are not signed.
        proxy: connects to all hosts but those of `addresses.connect_to`.
    """

    def __init__(
        self,
        addresses: AddressResolver,
        user_agent: str,
        *,
        contact: bool,
        sign: Sign | None = None,
        proxy: Proxy | None = None,
    ):
        self._proxy = proxy
        self.addresses, self.user_agent, self.contact, self._make_signature = addresses, user_agent, contact, sign
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
        connection, response = self._send(origin, targets, parts, deadline, budget, headers)
        is_open = False
        try:
            yield response
            is_open = response.leaves_connection_open()
        finally:
            if is_open:
                self._idle.put(origin, connection)
            else:
                connection.close()

    def close(self) -> None:
        """Close the connections that are kept."""
        self._idle.close()

    def _resolve(self, parts: SplitResult, deadline: float) -> list[Target]:
        host = parts.hostname or ""
        refusal, targets = self.addresses.resolve(host, port_of(parts), deadline)
        if refusal:
            raise FetchError(*refusal)
        if not self.contact and host not in self.addresses.connect_to:
            raise FetchError(
                Reason.NO_CONTACT, "download.contact is not set, so only hosts of connect_to are requested"
            )
        return targets

    def _send(
        self,
        origin: Origin,
        targets: list[Target],
        parts: SplitResult,
        deadline: float,
        budget: ByteBudget,
        headers: dict[str, str],
    ) -> tuple[Connection, Response]:
        """Send the request over a kept connection, or over a new one if there is none or the server closed it."""
        kept, left = self._idle.take(origin, targets), budget.left
        for connection in (kept, None) if kept else (None,):
            proxy = None if origin[1] in self.addresses.connect_to else self._proxy
            connection = connection or open_connection(parts, targets, deadline, proxy)
            try:
                return connection, connection.send(parts, deadline, budget, self._sign(parts, headers))
            except BaseException as error:
                connection.close()
                is_lost = isinstance(error, OSError | FetchError) and not isinstance(error, TimeoutError)
                if connection is not kept or not is_lost or budget.left != left:
                    raise
        raise AssertionError

    def _sign(self, parts: SplitResult, headers: dict[str, str]) -> dict[str, str]:
        """Return the headers with a new signature, which a second attempt needs too: its nonce is used once."""
        return headers | self._make_signature(parts.scheme, parts.netloc) if self._make_signature else headers


class Readable(Protocol):
    """A response, of which the body is unread."""

    headers: Message
    length: int | None

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes of the body. Raises: FetchError."""
        ...


def allow_body(cap: int) -> ByteBudget:
    """Return the budget of a fetch whose body may have `cap` bytes; MAX_HEADER_BYTES more are for all around it."""
    return ByteBudget(cap + MAX_HEADER_BYTES)


def port_of(parts: SplitResult) -> int:
    """Return the port of a URL, by default that of its scheme."""
    return parts.port or STANDARD_PORTS[parts.scheme]


@contextmanager
def translate_errors(timeout: float) -> Iterator[None]:
    """Translate the errors of sockets and TLS into FetchErrors.

    Args:
        timeout: seconds, for the message.
    """
    try:
        yield
    except TimeoutError:
        raise FetchError(Reason.TIMEOUT, f"not whole after {timeout:g} s") from None
    except ssl.SSLError as error:  # a subclass of OSError
        raise FetchError(Reason.TLS, getattr(error, "verify_message", "") or error.reason or "failed") from None
    except OSError as error:
        raise FetchError(Reason.CONNECT, error.strerror or type(error).__name__) from None
    except (ValueError, h11.LocalProtocolError) as error:  # a URL, a host or a header that a library refuses
        raise FetchError(Reason.BAD_RESPONSE, type(error).__name__) from None


COMPRESSIONS = {"gzip", "x-gzip", "br", "deflate", "zstd"}
"""Words of Content-Encoding for a compression; browsers ignore other words, such as none or aws-chunked."""


def read_body(response: Readable, cap: int, *, cut: bool = False) -> Iterator[bytes]:
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
        raise FetchError(Reason.TOO_LARGE, f"over {cap} bytes")
    if COMPRESSIONS & {coding.lower() for coding in list_header_values(response.headers, "Content-Encoding")}:
        raise FetchError(Reason.BAD_RESPONSE, "Content-Encoding that was not asked for")
    size = 0
    while chunk := response.read(min(_CHUNK, cap + (not cut) - size)):
        size += len(chunk)
        yield chunk
        if size > cap:
            raise FetchError(Reason.TOO_LARGE, f"over {cap} bytes")


def read_decoded(response: Readable, cap: int, *, partial: bool = False) -> bytes:
    """Return the start of a body without its codings, at most `cap` bytes; some servers compress unasked.

    Args:
        partial: as in `decode_codings`.

    Raises: FetchError; BadBody.
    """
    codings = list_header_values(response.headers, "Content-Encoding")
    del response.headers["Content-Encoding"]
    return decode_codings(b"".join(read_body(response, cap, cut=True)), codings, cap, partial=partial)[:cap]


def read_challenge(response: Readable, status: int) -> str:
    """Return the mark of a bot manager's challenge in the body of a response; "" without one."""

    def read() -> bytes:
        with suppress(FetchError, BadBody, OSError):
            return read_decoded(response, MAX_CHALLENGE_BYTES, partial=True)
        return b""

    return find_challenge(status, response.headers.get("Content-Type"), read)


def split_url(url: str) -> SplitResult:
    """Split a URL without credentials into parts that can be sent: canonical.

    Raises: FetchError.
    """
    try:
        if "@" in urlsplit(url).netloc:
            raise BadUrl(Reason.BAD_URL)
        return urlsplit(canonicalise_url(url, "", MAX_HEADER_BYTES))
    except ValueError:  # also a BadUrl
        raise FetchError(Reason.BAD_URL, "no URL of http or https, or a host or port that cannot be read") from None


def resolve_redirect(url: str, response: Readable) -> str:
    """Return the URL to which a redirect leads. Raises: FetchError."""
    location = response.headers.get("Location")
    if not location:
        raise FetchError(Reason.BAD_RESPONSE, "a redirect without a Location")
    # headers are read as Latin-1; servers send UTF-8
    location = location.encode("latin-1", "replace").decode("utf-8", "replace")
    try:
        return canonicalise_url(location, url, MAX_HEADER_BYTES)
    except BadUrl as bad:
        raise FetchError(
            Reason.BAD_URL, "neither http nor https" if bad.reason == Reason.NOT_HTTP else "Location cannot be read"
        ) from None


def format_user_agent(name: str, contact: str | None) -> str:
    """Return the User-Agent header, for example `pairmill/0.1 (+https://example.org/bot)`."""
    return f"{name}/{version('pairmill').rpartition('.')[0]}" + (f" (+{contact})" if contact else "")


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
