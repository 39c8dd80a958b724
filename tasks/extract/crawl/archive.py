"""The crawl's archive: WARC, a gzip member a record, a request and a response for each page.

While the crawl runs, records are appended to one file in the order in which answers came. At its end they are copied, as
they are, into files in the order of their addresses: the same pages then make the same rows, whatever the timing was.
"""

import http.client
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Capture:
    """A request and its response, as they went over the wire (the body without its transfer coding)."""

    url: str
    request_headers: Headers
    status: int
    protocol: str
    headers: Headers
    body: bytes
    server_address: str | None
    fetched_at: str
    """RFC 3339, in UTC."""

    def http_headers(self) -> StatusAndHeaders:
        """Status line and headers; Content-Length is that of the body as it is here."""
        reason = http.client.responses.get(self.status, "")
        kept = [(n, v) for n, v in self.headers if n.lower() not in ("content-length", "transfer-encoding")]
        return StatusAndHeaders(
            f"{self.status} {reason}".rstrip(), [*kept, ("Content-Length", str(len(self.body)))], protocol=self.protocol
        )

    def response_bytes(self) -> bytes:
        """The response as it is archived."""
        return self.http_headers().to_ascii_bytes() + self.body


class Archive:
    """The file that grows while the crawl runs."""

    def __init__(self, path: Path, end: int):
        """Opens the archive and cuts what lies beyond `end`: records of which the frontier knows nothing."""
        path.touch()
        self._file = path.open("r+b")
        self._file.truncate(end)
        self._file.seek(end)
        self._writer = WARCWriter(self._file, gzip=True)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def add(self, exchange: Capture) -> tuple[int, int]:
        """Append the two records; returns their offset and length. They are on disk before this returns."""
        start = self._file.tell()
        response = self._writer.create_warc_record(
            exchange.url,
            "response",
            payload=io.BytesIO(exchange.body),
            length=len(exchange.body),
            http_headers=exchange.http_headers(),
            warc_headers_dict=_dated(exchange),
        )
        request = self._writer.create_warc_record(
            exchange.url, "request", http_headers=_request(exchange), warc_headers_dict=_dated(exchange)
        )
        self._writer.write_request_response_pair(request, response)
        self._file.flush()
        return start, self._file.tell() - start


def write_sorted(source: Path, rows: Sequence[Mapping[str, Any]], target: Path, about: Mapping[str, str]) -> None:
    """A WARC file of the records of `rows` (offset, length), in their order, after a warcinfo record."""
    with source.open("rb") as archive, target.open("wb") as out:
        writer = WARCWriter(out, gzip=True)
        writer.write_record(writer.create_warcinfo_record(target.name, about))
        for row in rows:
            archive.seek(row["offset"])
            out.write(archive.read(row["length"]))


def _dated(exchange: Capture) -> dict[str, str]:
    dated = {"WARC-Date": exchange.fetched_at}
    return dated | ({"WARC-IP-Address": exchange.server_address} if exchange.server_address else {})


def _request(exchange: Capture) -> StatusAndHeaders:
    parts = urlsplit(exchange.url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = [("Host", parts.netloc), *exchange.request_headers]
    return StatusAndHeaders(f"GET {target} HTTP/1.1", headers, is_http_request=True)
