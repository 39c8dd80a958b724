"""Signs a request when it is sent, and bounds all bytes of a response that Scrapy reads, not only those of its body.

Twisted limits a line of the headers and the trailers, but neither the number of header lines, nor that of interim
responses, nor the chunk extensions.
"""

from typing import Any
from urllib.parse import urlsplit

from scrapy import Request
from scrapy.core.downloader.handlers.http11 import (
    HTTP11DownloadHandler,
    _LenientHTTP11ClientFactory,  # pyright: ignore[reportPrivateUsage]  # Scrapy has no public seam below the body
    _LenientHTTP11ClientProtocol,  # pyright: ignore[reportPrivateUsage]
)
from scrapy.http import Response
from twisted.python.failure import Failure
from twisted.web._newclient import HEADER, STATUS

from plugins.crawl.context import Crawl
from tasks.web.connection import MAX_HEADER_BYTES


class ResponseTooLarge(Exception):
    """Raised for a response with too many bytes around its body."""


class BoundedProtocol(_LenientHTTP11ClientProtocol):
    """A connection whose responses end at a number of bytes.

    Attributes:
        max_bytes: maximum bytes of one response with its headers and chunk sizes; headers alone have MAX_HEADER_BYTES.
    """

    max_bytes: int = 0
    _received = 0

    def request(self, request: Any) -> Any:
        """Send a request, and count the bytes of its response anew."""
        self._received = 0
        return super().request(request)

    def dataReceived(self, bytes: bytes) -> None:
        """Pass the data to the parser. Give the connection up where there is too much of it."""
        self._received += len(bytes)
        super().dataReceived(bytes)
        parser: Any = self._parser
        in_head = parser is not None and parser.state in (STATUS, HEADER)
        if parser is not None and self._received > (MAX_HEADER_BYTES if in_head else self.max_bytes):
            self._giveUp(Failure(ResponseTooLarge("too many bytes")))


class BoundedHandler(HTTP11DownloadHandler):
    """Scrapy's handler of http and https, over bounded connections. It signs requests, which no longer wait here."""

    def __init__(self, crawler: Any):
        super().__init__(crawler)
        self._crawl: Crawl = crawler.settings["CRAWL"]
        limit = crawler.settings.getint("RESPONSE_MAX_BYTES")

        class BoundedFactory(_LenientHTTP11ClientFactory):
            def buildProtocol(self, addr: Any) -> BoundedProtocol:
                protocol = BoundedProtocol(self._quiescentCallback)
                protocol.max_bytes = limit
                return protocol

        self._pool._factory = BoundedFactory

    async def download_request(self, request: Request) -> Response:
        """Sign a request, if the crawl has an identity, and send it."""
        if sign := self._crawl.sign:
            parts = urlsplit(request.url)
            request.headers.update(sign(parts.scheme, parts.netloc))
        return await super().download_request(request)
