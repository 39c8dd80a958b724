"""Reads HTML pages from WARC files on disk, and skips damaged records.

After a damaged record, reading continues at the next record that can be found; the damage is
reported with its offset. A file with content but without any readable record raises SourceError. In
a file that ends within a record (a killed crawl, a broken copy), the records before the end are
read, and the last one is reported as `truncated`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dataops.archives.http_body import BadBody, ResponseHead, decode_body, split_response
from dataops.archives.members import Damage
from dataops.archives.records import read_records
from dataops.errors import SourceError, explain_unreadable
from dataops.reasons import Reason
from dataops.regular_files import open_regular

HTML_TYPES = ("text/html", "application/xhtml+xml")
_HEADER_ALLOWANCE = 1 << 16  # bytes for the HTTP head and chunk sizes around a page of the maximum size
_WITH_PAGE = ("response", "resource")


@dataclass(frozen=True)
class Page:
    """One HTML response whose body is decoded."""

    url: str
    """WARC-Target-URI, unchanged."""
    offset: int
    """Position of the record in the (compressed) file, in bytes; the same for all records of one gzip member."""
    body: bytes
    charset: str | None
    """Charset of the HTTP header."""
    opt_out: frozenset[str] = frozenset()
    """Names of the opt-out signals in the headers."""


def read_pages(path: Path, max_page_bytes: int, count: Callable[[str], None]) -> Iterator[Page | Damage]:
    """Yield the HTML pages of a WARC file in file order, and a Damage for each record that cannot be used.

    The file may be plain, lz4, zstd, or gzip (one member per record, or one member for the whole
    file). Pages are `response` records of http(s) with status 2xx and an HTML media type (or,
    without a media type, a body that starts like HTML), and `resource` records of that type.

    Args:
        max_page_bytes: maximum size of a page, compressed and decompressed; a larger one is the damage `page_too_large`.
        count: called with `records` for each record, and with `not_2xx` or `not_html` for each skipped response.

    Raises: SourceError if the file cannot be opened, has content but no readable record, or has more than MAX_DAMAGES
        unreadable ones.
    """
    try:
        with open_regular(path) as file:
            for record in read_records(file, max_page_bytes + _HEADER_ALLOWANCE):
                if isinstance(record, Damage):
                    yield Damage(record.offset, "page_too_large") if record.reason == Reason.TOO_LARGE else record
                    continue
                count("records")
                fields = RecordFields(record.head)
                kind = fields.get("warc-type").lower()
                url = fields.get("warc-target-uri").removeprefix("<").removesuffix(">")
                if kind not in _WITH_PAGE or not url.lower().startswith(("http://", "https://")):
                    continue
                offset, body = record.offset, record.body
                del record  # a page may be large, and parsing it needs memory too
                if body is None:
                    yield Damage(offset, "page_too_large")
                    continue
                media_type = fields.get("content-type") if kind == "resource" else None
                found = _read_page(url, offset, bytes(body), media_type, max_page_bytes, count)
                del body
                if found:
                    yield found
    except SourceError as error:
        raise type(error)(f"{path}: {error}") from error
    except OSError as error:
        raise explain_unreadable(path, error) from error


class RecordFields:
    """The fields of a record's head; the first of several with one name counts."""

    def __init__(self, head: bytes):
        self._values: dict[str, str] = {}
        name = ""
        for line in head.split(b"\n")[1:]:
            if line[:1] in (b" ", b"\t") and name:  # a folded field
                self._values[name] += " " + line.decode("utf-8", "replace").strip()
                continue
            start, _, value = line.partition(b":")
            name = start.strip().lower().decode("latin-1")
            self._values.setdefault(name, value.decode("utf-8", "replace").strip())

    def get(self, name: str) -> str:
        """Return the value of a field, whose name is given in lower case; '' if it is missing."""
        return self._values.get(name, "")


def _read_page(
    url: str, offset: int, data: bytes, media_type: str | None, max_bytes: int, count: Callable[[str], None]
) -> Page | Damage | None:
    """Return the page of a record's content; None if it is not one.

    Args:
        media_type: that of a record that holds a page without its HTTP response; None for a response.
    """
    try:
        if media_type is None:
            head, body = split_response(data)
        else:
            response = f"HTTP/1.1 200\r\nContent-Type: {media_type}\r\n\r\n"
            head, body = split_response(response.encode())[0], data
        del data
        if not 200 <= head.status < 300:
            count("not_2xx")
        elif (page := _html(head, body, max_bytes)) is None:
            count("not_html")
        else:
            return Page(url, offset, page, head.charset, head.opt_out)
    except BadBody as bad:
        return Damage(offset, bad.reason)
    return None


def _html(head: ResponseHead, body: bytes, max_bytes: int) -> bytes | None:
    if head.content_type and head.content_type not in HTML_TYPES:
        return None
    decoded = decode_body(head, body, max_bytes)
    if not head.content_type:
        start = decoded[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
        if not start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
            return None
    return decoded
