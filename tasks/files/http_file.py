"""A file of a web server that the config names, by ranges.

The server of the config is trusted to be where it is, be it on loopback. Redirects may lead elsewhere, but only to hosts of
the public internet, and never from https to http.
"""

import http.client
import re
import socket
import ssl
from functools import lru_cache
from typing import Any
from urllib.parse import urljoin

from dataops.errors import SourceError
from tasks.files.resumable import Connection, ConnectionBroken
from tasks.web.address_policy import AddressResolver
from tasks.web.request import FetchError, retry_after, split_url

MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# 403 is what Common Crawl's hosts answer to who asks too much. Source: commoncrawl.org, "Oct/Nov 2023 performance issues".
_LATER = frozenset({403, 408, 425, 429, 500, 502, 503, 504})
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_SKIPPED_AT_ONCE = 1 << 18


class HttpFile:
    """One file; `connect` opens it anywhere, and makes sure that it is still the same."""

    def __init__(self, url: str, user_agent: str, timeout: float):
        self.url, self.user_agent, self.timeout = url, user_agent, timeout
        self._first = split_url(url).netloc
        self._identity: tuple[str | None, int | None] | None = None

    def connect(self, offset: int) -> Connection:
        """The file from a byte on. Raises: ConnectionBroken, SourceError."""
        url = self.url
        try:
            for _ in range(MAX_REDIRECTS + 1):
                connection, response = self._request(url, offset)
                if response.status not in _REDIRECTS:
                    try:
                        return self._opened(connection, response, offset)
                    except BaseException:
                        connection.close()
                        raise
                connection.close()
                url = self._target(url, response)
        except FetchError as error:
            if error.is_transient:
                raise ConnectionBroken(str(error)) from error
            raise SourceError(f"{url}: {error}") from error
        except ssl.SSLCertVerificationError as error:
            raise SourceError(f"{url}: {error.verify_message}") from error
        except (OSError, http.client.HTTPException) as error:
            raise ConnectionBroken(_text(error)) from error
        raise SourceError(f"{self.url}: more than {MAX_REDIRECTS} redirects")

    def _request(self, url: str, offset: int) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        parts = split_url(url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        kind: type[Any] = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        secured = {"context": _tls()} if parts.scheme == "https" else {}
        connection = kind(host, port, timeout=self.timeout, **secured)
        connection._create_connection = self._connector(parts.netloc)
        headers = {"User-Agent": self.user_agent, "Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            etag = self._identity[0] if self._identity else None
            if etag and not etag.startswith("W/"):
                headers["If-Range"] = etag
        try:
            connection.request("GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), headers=headers)
            return connection, connection.getresponse()
        except BaseException:
            connection.close()
            raise

    def _connector(self, netloc: str) -> Any:
        """How to connect: to the config's own server plainly, to others at an address that was checked."""
        if netloc == self._first:
            return socket.create_connection

        def connect(address: tuple[str, int], timeout: float, _: Any = None) -> socket.socket:
            refusal, targets = _addresses().resolve(*address)
            if refusal:
                raise FetchError(*refusal)
            return socket.create_connection(targets[0][1][:2], timeout)

        return connect

    @staticmethod
    def _target(url: str, response: http.client.HTTPResponse) -> str:
        target = urljoin(url, response.headers.get("Location") or "")
        if url.startswith("https:") and not target.startswith("https:"):
            raise FetchError("redirect", "from https to something else")
        return target

    def _opened(
        self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse, offset: int
    ) -> "_HttpConnection":
        status = response.status
        if status in _LATER:
            raise ConnectionBroken(
                f"{self.url}: HTTP {status} {response.reason}", retry_after(response.headers.get("Retry-After"))
            )
        if status not in (200, 206):
            raise SourceError(f"{self.url}: HTTP {status} {response.reason}")
        start, size = 0, response.length
        if status == 206:
            given = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if given is None or int(given[1]) != offset:
                raise ConnectionBroken(f"{self.url}: a range was asked for from {offset}, another was answered")
            start, size = offset, int(given[2]) if given[2] != "*" else None
        identity = (response.headers.get("ETag"), size)
        if self._identity is None:
            self._identity = identity
        elif identity != self._identity:
            raise SourceError(
                f"{self.url} changed while it was read (ETag and size were {self._identity}, are {identity})"
            )
        opened = _HttpConnection(connection, response, size)
        opened.skip(offset - start)  # a server that knows no ranges begins anew
        return opened


class _HttpConnection:
    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse, size: int | None):
        self.size = size
        self._connection, self._response = connection, response

    def read(self, size: int, /) -> bytes:
        try:
            return self._response.read(size)
        except (OSError, http.client.HTTPException) as error:
            raise ConnectionBroken(_text(error)) from error

    def skip(self, size: int) -> None:
        while size and (data := self.read(min(size, _SKIPPED_AT_ONCE))):
            size -= len(data)
        if size:
            raise ConnectionBroken("the answer ended before the place that was reached before")

    def close(self) -> None:
        self._response.close()
        self._connection.close()


def _text(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


@lru_cache(maxsize=1)
def _addresses() -> AddressResolver:
    return AddressResolver({})
