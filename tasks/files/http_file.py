"""Read a file of a web server that the config names, by ranges.

The server of the config may be on any network, also on loopback. Redirects may lead to other hosts,
but only to public ones, and never from https to http.
"""

import re
import socket
import ssl
import time
from functools import lru_cache
from urllib.parse import SplitResult

from dataops.errors import SourceError, UnusableSource
from dataops.reasons import Reason
from tasks.files.resumable import Connection, ConnectionBroken, mark_reached
from tasks.web.address_policy import AddressResolver, Target
from tasks.web.connection import ByteBudget, Response, open_connection
from tasks.web.connection import Connection as HttpConnection
from tasks.web.fetch_error import FetchError
from tasks.web.request import (
    MAX_REDIRECTS,
    REDIRECTS,
    parse_retry_seconds,
    port_of,
    resolve_redirect,
    split_url,
)

# 403 is how Common Crawl limits the rate of requests. Source: commoncrawl.org, "Oct/Nov 2023 performance issues".
_RETRYABLE = frozenset({403, 408, 425, 429, 500, 502, 503, 504})
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)")
_SKIP_BYTES = 1 << 18


class HttpFile:
    """One file. `connect` opens it at any byte, and checks that it is still the same file.

    Args:
        timeout: seconds for a connection, and for each read.
        needs_length: refuse a response whose end only the closed connection marks: nobody sees whether it is whole.
    """

    def __init__(self, url: str, user_agent: str, timeout: float, *, needs_length: bool = False):
        self.url, self.user_agent, self.timeout, self._needs_length = url, user_agent, timeout, needs_length
        self._first = split_url(url).netloc
        self._identity: tuple[str | None, int | None] | None = None

    def connect(self, offset: int) -> Connection:
        """Open the file at a byte. Raises: ConnectionBroken, SourceError."""
        url = self.url
        try:
            for _ in range(MAX_REDIRECTS + 1):
                connection, response = self._request(url, offset)
                if response.status not in REDIRECTS:
                    try:
                        return self._opened(connection, response, offset)
                    except BaseException:
                        connection.close()
                        raise
                connection.close()
                url = _secure_redirect(url, response)
        except _Unreachable as error:
            raise ConnectionBroken(str(error), unreachable=error.host) from error
        except FetchError as error:
            if error.is_transient or error.reason == Reason.BAD_RESPONSE:
                raise ConnectionBroken(str(error)) from error
            raise UnusableSource(f"{url}: {error}") from error
        except ssl.SSLCertVerificationError as error:
            raise UnusableSource(f"{url}: {error.verify_message}") from error
        except (OSError, ValueError) as error:
            raise ConnectionBroken(_text(error)) from error
        raise UnusableSource(f"{self.url}: more than {MAX_REDIRECTS} redirects")

    def _request(self, url: str, offset: int) -> tuple[HttpConnection, Response]:
        parts = split_url(url)
        connection = self._connect(parts)
        headers = {"User-Agent": self.user_agent}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            etag = self._identity[0] if self._identity else None
            if etag and not etag.startswith("W/"):
                headers["If-Range"] = etag
        try:
            deadline = time.monotonic() + self.timeout  # of the headers
            return connection, connection.send(parts, deadline, ByteBudget(float("inf")), headers)
        except BaseException:
            connection.close()
            raise

    def _connect(self, parts: SplitResult) -> HttpConnection:
        host = parts.netloc.rpartition("@")[2]
        try:
            targets = self._targets(parts)
        except OSError as error:
            raise _Unreachable(host, f"the name {parts.hostname} does not resolve ({_text(error)})") from error
        failure = OSError("no address")
        for target in targets:
            try:
                connection = open_connection(parts, [target], time.monotonic() + self.timeout)
            except ssl.SSLError:
                raise
            except OSError as error:
                failure = error
            else:
                mark_reached(host)
                return connection
        raise _Unreachable(host, f"no connection to {host} ({_text(failure)})") from failure

    def _targets(self, parts: SplitResult) -> list[Target]:
        """Return the addresses of the config's own server as they are, and of another host those that are public."""
        host, port = parts.hostname or "", port_of(parts)
        if parts.netloc == self._first:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)  # noqa: TID251  resolves the server that the config names
            return [(family, address) for family, _, _, _, address in found]
        refusal, targets = _addresses().resolve(host, port)
        if refusal:
            raise FetchError(*refusal)
        return targets

    def _opened(self, connection: HttpConnection, response: Response, offset: int) -> "_HttpConnection":
        status = response.status
        if status in _RETRYABLE:
            raise ConnectionBroken(
                f"{self.url}: HTTP {status} {response.reason}", parse_retry_seconds(response.headers.get("Retry-After"))
            )
        if status not in (200, 206):
            raise UnusableSource(f"{self.url}: HTTP {status} {response.reason}")
        start, size = 0, response.length
        if self._needs_length and not response.has_end:
            raise UnusableSource(
                f"{self.url}: the response has neither a Content-Length nor chunks, so a part of it may be missing; "
                "serve it with a length"
            )
        if status == 206:
            range_ = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if range_ is None or int(range_[1]) != offset:
                raise ConnectionBroken(
                    f"{self.url}: the server answered another range than the requested one from byte {offset}"
                )
            start, size = offset, int(range_[2]) if range_[2] != "*" else None
        identity = (response.headers.get("ETag"), size)
        if self._identity is None:
            self._identity = identity
        elif identity != self._identity:
            raise SourceError(
                f"{self.url} changed while it was read (ETag and size were {self._identity}, are {identity})"
            )
        opened = _HttpConnection(connection, response, size, self.timeout)
        opened.skip(offset - start)  # a server without ranges sends the file from its start
        return opened


class _Unreachable(Exception):
    """No connection to a host."""

    def __init__(self, host: str, why: str):
        super().__init__(why)
        self.host = host


class _HttpConnection:
    def __init__(self, connection: HttpConnection, response: Response, size: int | None, timeout: float):
        self.size = size
        self._connection, self._response, self._timeout = connection, response, timeout

    def read(self, size: int, /) -> bytes:
        self._connection.deadline = time.monotonic() + self._timeout  # a file of any size takes any time
        try:
            return self._response.read(size)
        except (OSError, FetchError) as error:
            raise ConnectionBroken(_text(error)) from error

    def skip(self, size: int) -> None:
        while size and (data := self.read(min(size, _SKIP_BYTES))):
            size -= len(data)
        if size:
            raise ConnectionBroken("the response ended before the byte that was reached before")

    def close(self) -> None:
        self._connection.close()


def _text(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _secure_redirect(url: str, response: Response) -> str:
    target = resolve_redirect(url, response)
    if url.startswith("https:") and not target.startswith("https:"):
        raise FetchError("redirect", "from https to something else")
    return target


@lru_cache(maxsize=1)
def _addresses() -> AddressResolver:
    return AddressResolver({})
