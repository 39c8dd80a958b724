"""The safe fetch that is put under urllib's own seam, so under img2dataset's downloader, in a process that downloads.

`SafeOpener` takes the place of urllib's opener (urllib.request.install_opener). Of the whole urllib it keeps only the
call: there are no handlers for files, ftp or data, no proxies, no cookies, no credentials. A request

- goes to http or https only, on every redirect hop, of which there are at most MAX_REDIRECTS;
- resolves its host once, and connects to the very address that was checked: only addresses of the public internet,
  unless the config names the host in `connect_to`;
- ends at its deadline as a whole, however slowly the bytes drip, and at its cap of bytes on the wire;
- stops before the body where an X-Robots-Tag header forbids the use.

Failures are FetchError, whose text starts with a stable class: img2dataset writes that text into `error_message`.
"""

import http.client
import io
import socket
import ssl
import threading
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.message import Message
from typing import Any
from urllib.parse import SplitResult, quote, urljoin, urlsplit
from urllib.request import OpenerDirector, Request

from tasks.addresses import Addresses, ConnectTo, Target

MAX_REDIRECTS = 5
_CHUNK = 1 << 16
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TRANSIENT = frozenset({"timeout", "dns", "connection", "incomplete", "http_408", "http_425", "http_429"})


class FetchError(Exception):
    """A fetch that failed; the text is `reason: detail`, and holds nothing that differs from one run to the next."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    @property
    def transient(self) -> bool:
        """Whether trying again may help."""
        return self.reason in _TRANSIENT or self.reason.startswith("http_5")


@dataclass(frozen=True)
class FetchLimits:
    """What one request may take.

    Attributes:
        timeout: seconds for the whole request, redirects included.
        max_bytes: of the body, on the wire.
        user_agent: of the request.
        agent_token: the name that X-Robots-Tag headers may address.
        disallowed: X-Robots-Tag directives that forbid the use.
    """

    timeout: float
    max_bytes: int
    user_agent: str
    agent_token: str
    disallowed: frozenset[str]


@dataclass(frozen=True)
class Evidence:
    """What a server said about one url, the last time that it was asked."""

    fetched_at: str
    http_status: int | None = None
    final_url: str | None = None
    content_type: str | None = None
    etag: str | None = None
    last_modified: str | None = None
    opt_out: str | None = None
    bytes: int | None = None


class Fetched(io.BytesIO):
    """A whole body, with the response's headers: what img2dataset reads of a response."""

    def __init__(self, body: bytes, headers: Message):
        super().__init__(body)
        self.headers = headers


class SafeOpener(OpenerDirector):
    """An opener for one shard; safe to use from many threads. `evidence` is by url as it was asked for."""

    def __init__(self, limits: FetchLimits, connect_to: ConnectTo | None = None):
        super().__init__()
        self.limits = limits
        self.evidence: dict[str, Evidence] = {}
        self._addresses = Addresses(connect_to or {})
        self._final: dict[str, FetchError] = {}  # failures that another try cannot mend
        self._tls = _tls_context()

    def open(self, fullurl: str | Request, data: Any = None, timeout: float | None = None) -> Any:
        """Fetch a url whole; `timeout` is ignored for the limits' deadline.

        Raises: FetchError.
        """
        url = fullurl.full_url if isinstance(fullurl, Request) else fullurl
        if known := self._final.get(url):
            raise FetchError(known.reason, known.detail)
        fetch = _Fetch(self.limits, self._addresses, self._tls)
        try:
            return fetch.run(url)
        except FetchError as error:
            if not error.transient:
                self._final[url] = error
            raise
        finally:
            self.evidence[url] = fetch.evidence


class _Fetch:
    """One url, followed to its end."""

    def __init__(self, limits: FetchLimits, addresses: Addresses, tls: ssl.SSLContext):
        self.limits, self.addresses, self.tls = limits, addresses, tls
        self.deadline = time.monotonic() + limits.timeout
        self.evidence = Evidence(datetime.now(UTC).isoformat(timespec="milliseconds"))

    def run(self, url: str) -> Fetched:
        try:
            for _ in range(MAX_REDIRECTS + 1):
                answer = self._hop(url)
                if isinstance(answer, Fetched):
                    return answer
                url = answer
        except FetchError:
            raise
        except TimeoutError:
            raise FetchError("timeout", f"not whole after {self.limits.timeout:g} s") from None
        except ssl.SSLError as error:  # an OSError, so before it
            raise FetchError("tls", getattr(error, "verify_message", "") or error.reason or "failed") from None
        except OSError as error:
            raise FetchError("connection", error.strerror or type(error).__name__) from None
        except http.client.IncompleteRead:
            raise FetchError("incomplete", "the body ended within a chunk") from None
        except http.client.HTTPException as error:
            raise FetchError("bad_response", type(error).__name__) from None
        raise FetchError("redirect", f"more than {MAX_REDIRECTS} redirects")

    def _hop(self, url: str) -> Fetched | str:
        """The body at `url`, or the url that it redirects to."""
        parts = split_url(url)
        self._note(final_url=url)
        with closing(self._connect(parts)) as connection:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            headers = {"User-Agent": self.limits.user_agent, "Accept": "image/*,*/*;q=0.5", "Connection": "close"}
            connection.request("GET", path, headers=headers)  # which adds Host and Accept-Encoding: identity
            with connection.getresponse() as response:
                return self._answer(url, response)

    def _answer(self, url: str, response: http.client.HTTPResponse) -> Fetched | str:
        self._note_response(response)
        if signal := opted_out(response.headers, self.limits.agent_token, self.limits.disallowed):
            self._note(opt_out=signal)
            raise FetchError("opted_out", signal)
        if response.status in _REDIRECTS:
            return _target(url, response.headers)
        if not 200 <= response.status < 300:
            raise FetchError(f"http_{response.status}", "the server's answer")
        return Fetched(self._body(response), response.headers)

    def _connect(self, parts: SplitResult) -> http.client.HTTPConnection:
        host = parts.hostname or ""
        standard = 443 if parts.scheme == "https" else 80
        port = parts.port or standard
        refusal, targets = self.addresses.of(host, port)
        if refusal:
            raise FetchError(*refusal)
        sock = self._socket(targets)
        if parts.scheme == "https":
            sock = self._secured(sock, host)
        connection = http.client.HTTPConnection(host, port)
        connection.default_port = standard  # so that the Host header names no standard port
        connection.sock = sock
        return connection

    def _socket(self, targets: Iterable[Target]) -> socket.socket:
        failure: OSError = OSError("no address")
        for family, address in targets:
            sock = _DeadlineSocket(family, socket.SOCK_STREAM)
            sock.deadline = self.deadline
            try:
                sock.settimeout(self._left())
                sock.connect(address)
            except OSError as error:  # TimeoutError too
                sock.close()
                failure = error
            else:
                return sock
        raise failure

    def _secured(self, sock: socket.socket, host: str) -> socket.socket:
        try:
            sock.settimeout(self._left())  # the whole handshake's
            secured = self.tls.wrap_socket(sock, server_hostname=host)
        except BaseException:
            sock.close()
            raise
        secured.deadline = self.deadline  # pyright: ignore[reportAttributeAccessIssue]
        return secured

    def _left(self) -> float:
        return seconds_left(self.deadline)

    def _body(self, response: http.client.HTTPResponse) -> bytes:
        cap = self.limits.max_bytes
        length = response.length  # None where the body is chunked or ends with the connection
        if length is not None and length > cap:
            raise FetchError("too_large", f"over {cap} bytes")
        if response.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
            raise FetchError("bad_response", "Content-Encoding that was not asked for")
        chunks, size = [], 0
        while chunk := response.read(min(_CHUNK, cap + 1 - size)):
            chunks.append(chunk)
            size += len(chunk)
            self._note(bytes=size)
            if size > cap:
                raise FetchError("too_large", f"over {cap} bytes")
        if length is not None and size < length:
            raise FetchError("incomplete", "the body ended before its Content-Length")
        return b"".join(chunks)

    def _note_response(self, response: http.client.HTTPResponse) -> None:
        headers = response.headers
        self._note(
            http_status=response.status,
            content_type=headers.get("Content-Type"),
            etag=headers.get("ETag"),
            last_modified=headers.get("Last-Modified"),
        )

    def _note(self, **changes: Any) -> None:
        self.evidence = replace(self.evidence, **changes)


def split_url(url: str) -> SplitResult:
    """A url's parts, ready for the wire: host in IDNA, path and query percent-encoded where they must be.

    Raises: FetchError with `bad_url` unless it is http or https, with a host and without credentials.
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


def _target(url: str, headers: Message) -> str:
    location = headers.get("Location")
    if not location:
        raise FetchError("redirect", "no Location")
    # http.client reads header bytes as Latin-1; servers send UTF-8
    location = location.encode("latin-1", "replace").decode("utf-8", "replace")
    try:
        return urljoin(url, location)
    except ValueError:
        raise FetchError("bad_url", "Location cannot be read") from None


_VALUED = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})


def opted_out(headers: Message, agent_token: str, disallowed: frozenset[str]) -> str | None:
    """The X-Robots-Tag header that forbids this use, or None.

    A header may start with the name of the agent that it speaks to (`otherbot: noindex`); `none` means `noindex,
    nofollow`.

    Source: developers.google.com/search/docs/crawling-indexing/robots-meta-tag (X-Robots-Tag, and `none`).
    """
    for value in headers.get_all("X-Robots-Tag", []):
        applies = True
        for item in value.lower().split(","):
            agent, colon, directive = (part.strip() for part in item.partition(":"))
            if not colon:
                directive = agent
            elif agent not in _VALUED:
                applies = agent in (agent_token.lower(), "*")
            if applies and (directive in disallowed or (directive == "none" and "noindex" in disallowed)):
                return f"X-Robots-Tag {directive}"
    return None


def seconds_left(deadline: float) -> float:
    """Seconds until a time of time.monotonic(). Raises: TimeoutError when it is past."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class _DeadlineSocket(socket.socket):
    """A socket whose reads all end at one time: a timeout a read never ends a slow drip."""

    deadline: float = float("inf")

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        self.settimeout(seconds_left(self.deadline))
        return super().recv_into(buffer, nbytes, flags)


class _DeadlineTLSSocket(ssl.SSLSocket):
    deadline: float = float("inf")

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        self.settimeout(seconds_left(self.deadline))
        return super().recv_into(buffer, nbytes, flags)


_TLS_LOCK = threading.Lock()
_TLS: list[ssl.SSLContext] = []


def _tls_context() -> ssl.SSLContext:
    """One verifying context a process: reading the certificates takes 20 ms."""
    with _TLS_LOCK:
        if not _TLS:
            context = ssl.create_default_context()
            context.sslsocket_class = _DeadlineTLSSocket
            _TLS.append(context)
        return _TLS[0]
