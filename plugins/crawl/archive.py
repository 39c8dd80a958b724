"""Writes the crawl's archive: WARC with a gzip member per record, and a request and a response for each page.

During the crawl, records are appended to one file in the order of the responses. At the end they are copied unchanged into
files in the order of their URLs, so that the same pages produce the same rows whatever the timing.
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
_SIGNATURES, _REDACTED = frozenset({"signature", "signature-input"}), "***"
"""Headers that anyone could send again until they expire; the archive says only that they were sent."""


@dataclass(frozen=True)
class Capture:
    """A request and its response as they were sent, except that the body has no transfer coding."""

    url: str
    request_headers: Headers
    status: int
    protocol: str
    headers: Headers
    body: bytes
    server_address: str | None
    """IP address of the server."""
    fetched_at: str
    """Time of the response, RFC 3339 in UTC."""

    def http_headers(self) -> StatusAndHeaders:
        """Return status line and headers; Content-Length is that of `body`."""
        reason = http.client.responses.get(self.status, "")
        kept = [(n, v) for n, v in self.headers if n.lower() not in ("content-length", "transfer-encoding")]
        return StatusAndHeaders(
            f"{self.status} {reason}".rstrip(), [*kept, ("Content-Length", str(len(self.body)))], protocol=self.protocol
        )

    def response_bytes(self) -> bytes:
        """Return the response as it is archived."""
        return self.http_headers().to_ascii_bytes() + self.body


class Archive:
    """The file to which the running crawl appends records.

    Args:
        end: size in bytes to which the file is truncated: the frontier has no records after it.
    """

    def __init__(self, path: Path, end: int):
        path.touch()
        self._file = path.open("r+b")
        self._file.truncate(end)
        self._file.seek(end)
        self._writer = WARCWriter(self._file, gzip=True)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def add(self, capture: Capture) -> tuple[int, int]:
        """Append the two records and flush them. Return their offset and length."""
        start = self._file.tell()
        response = self._writer.create_warc_record(
            capture.url,
            "response",
            payload=io.BytesIO(capture.body),
            length=len(capture.body),
            http_headers=capture.http_headers(),
            warc_headers_dict=_warc_headers(capture),
        )
        request = self._writer.create_warc_record(
            capture.url, "request", http_headers=_request_head(capture), warc_headers_dict=_warc_headers(capture)
        )
        self._writer.write_request_response_pair(request, response)
        self._file.flush()
        return start, self._file.tell() - start


def write_sorted(source: Path, rows: Sequence[Mapping[str, Any]], target: Path, info: Mapping[str, str]) -> None:
    """Write a WARC file of the records of `rows` (offset, length), in their order, after a warcinfo record."""
    with source.open("rb") as archive, target.open("wb") as out:
        writer = WARCWriter(out, gzip=True)
        writer.write_record(writer.create_warcinfo_record(target.name, info))
        for row in rows:
            archive.seek(row["offset"])
            out.write(archive.read(row["length"]))


def _warc_headers(capture: Capture) -> dict[str, str]:
    date = {"WARC-Date": capture.fetched_at}
    return date | ({"WARC-IP-Address": capture.server_address} if capture.server_address else {})


def _request_head(capture: Capture) -> StatusAndHeaders:
    parts = urlsplit(capture.url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    sent = [(name, _REDACTED if name.lower() in _SIGNATURES else value) for name, value in capture.request_headers]
    headers = [("Host", parts.netloc), *sent]
    return StatusAndHeaders(f"GET {target} HTTP/1.1", headers, is_http_request=True)
