"""Reads HTML pages from WARC files on disk, and skips damaged records.

After a damaged record, reading continues at the next record that can be found; the damage is reported with its offset. A
file without any readable record raises SourceError. In a file that ends within a record (a killed crawl, a broken copy),
the records before the end are read, and the last one is reported as `truncated`.
"""

import mmap
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from dataops.archives.http_body import BadBody, ResponseHead, decode_body, split_response
from dataops.errors import SourceError

MAX_DAMAGES = 1000
"""Number of unreadable records above which a file counts as unreadable."""

HTML_TYPES = ("text/html", "application/xhtml+xml")
_HEADER_ALLOWANCE = 1 << 16  # bytes for the HTTP head and chunk sizes around a page of the maximum size
_PLAIN_RECORD = re.compile(rb"\n\r?\n(?=WARC/[01]\.\d)")
_WITH_PAGE = (WarcRecordType.response, WarcRecordType.resource)
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_MEMBER_START = 1024
_GZIP = b"\x1f\x8b"
# Matches the head of a record, and the head of the response in it.
_HEADS = re.compile(rb"\s*[^\n]*\r?\n(?:[^\r\n][^\n]*\n)+\r?\n(?:HTTP/[^\n]*\n(?:[^\r\n][^\n]*\n)*\r?\n)?")
_ARCHIVE_TYPE = re.compile(rb"\ncontent-type:[ \t]*application/(?:x-)?(?:warc|arc|gzip)\b(?!-fields)", re.IGNORECASE)
_LENGTH = re.compile(rb"\ncontent-length:[ \t]*(\d{1,15})[ \t]*\r?\n", re.IGNORECASE)
_COMPRESSED = (_GZIP, b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")  # gzip, zstd, lz4
_GZIP_MEMBER = re.compile(rb"\x1f\x8b\x08[\x00-\x1f]")


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
    """Directives of the HTTP header on the use of the page (dataops.web.declarations)."""


@dataclass(frozen=True)
class Damage:
    """A record that could not be used, and the reason."""

    offset: int
    """Position of that record, or of the last record before it whose header could be read."""
    reason: str


def read_pages(path: Path, max_page_bytes: int, count: Callable[[str], None]) -> Iterator[Page | Damage]:
    """Yield the HTML pages of a WARC file in file order, and a Damage for each record that cannot be used.

    The file may be plain, lz4, zstd, or gzip (one member per record, or one member for the whole file). Pages are
    `response` records of http(s) with status 2xx and an HTML media type (or, without a media type, a body that starts
    like HTML), and `resource` records of that type.

    Args:
        max_page_bytes: maximum size of a page, compressed and decompressed; a larger one is the damage `page_too_large`.
        count: called with `records` for each record, and with `not_2xx` or `not_html` for each skipped response.

    Raises: SourceError if the file cannot be opened, has no readable record, or has more than MAX_DAMAGES unreadable ones.
    """
    for record in _records(path):
        if isinstance(record, Damage):
            yield record
            continue
        count("records")
        if record.record_type not in _WITH_PAGE:
            continue
        url = (record.headers.get("WARC-Target-URI") or "").strip().removeprefix("<").removesuffix(">")
        if not url.lower().startswith(("http://", "https://")):
            continue
        offset = record.stream_pos
        try:
            if record.content_length > max_page_bytes + _HEADER_ALLOWANCE:
                raise BadBody("page_too_large")
            data = record.reader.read(record.content_length)
            if len(data) < record.content_length:
                continue  # the record is truncated: _records reports it
            is_page = record.record_type == WarcRecordType.resource
            head, body = (_resource_head(record), data) if is_page else split_response(data)
            if not 200 <= head.status < 300:
                count("not_2xx")
            elif (page := _html(head, body, max_page_bytes)) is None:
                count("not_html")
            else:
                del data, body  # a page may be large, and parsing it needs memory too
                yield Page(url, offset, page, head.charset, head.opt_out)
        except BadBody as bad:
            yield Damage(offset, bad.reason)


def _resource_head(record: WarcRecord) -> ResponseHead:
    """Return the head of a record that holds a page without its HTTP response."""
    return split_response(f"HTTP/1.1 200\r\nContent-Type: {record.headers.get('Content-Type')}\r\n\r\n".encode())[0]


def _html(head: ResponseHead, body: bytes, max_bytes: int) -> bytes | None:
    if head.content_type and head.content_type not in HTML_TYPES:
        return None
    decoded = decode_body(head, body, max_bytes)
    if not head.content_type:
        start = decoded[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
        if not start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
            return None
    return decoded


def _records(path: Path) -> Iterator[WarcRecord | Damage]:
    """Yield all records, each before its content is read, and the damages between them."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else nullcontext(b"") as data:
                yield from _iterate_records(file, data, path)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error


def _iterate_records(file: BinaryIO, data: "mmap.mmap | bytes", path: Path) -> Iterator[WarcRecord | Damage]:
    read, damages, is_plain = 0, 0, not data[:4].startswith(_COMPRESSED)
    start: int | None = 0
    while start is not None:
        file.seek(start)
        # `at` is the last record whose header could be read; `end` is at most the end of that record.
        at, end, reason = start, start, None
        try:
            for record in ArchiveIterator(file, parse_http=False):
                if is_plain and data[end : record.stream_pos].strip():
                    reason = "bad_record"  # the iterator skipped bytes that are not a record
                    break
                at, read = record.stream_pos, read + 1
                end = _end_of_record(data, at, record.content_length) if is_plain else at + 1
                if not (record.headers.get("Content-Length") or "").strip().isdigit():
                    reason = "bad_record"  # a truncated or damaged head: fastwarc reads its length as 0
                    break
                yield record
                record.reader.consume()
                if record.reader.tell() < record.content_length:
                    reason = "truncated"
                    break
        except OSError as error:
            if error.errno is not None:  # an error of the disk, not of the format
                raise
            reason = "bad_record"
        if reason is None:  # the end of the file, or a record that is truncated within its head
            truncated = _next_record(data, max(end, _end_of_archive(data, end)))
            if truncated is None:
                break
            at, reason = truncated, "truncated"
        damages += 1
        start = _next_record(data, max(at + 1, _end_of_archive(data, at), _end_of_archive(data, end)))
        if damages > MAX_DAMAGES or (not read and start is None):
            problem = f"over {MAX_DAMAGES} unreadable records" if read else f"no WARC record{_hint(data)}"
            raise SourceError(f"{path}: {problem}, at byte {at}")
        yield Damage(at, reason)
    if not read:
        raise SourceError(f"{path}: no WARC record{_hint(data) or ' (the file is empty)'}")


def _end_of_record(data: "mmap.mmap | bytes", at: int, content_length: int) -> int:
    head = _HEAD_END.search(data, at, at + _HEADER_ALLOWANCE)
    return min(len(data), (head.end() if head else at) + content_length)


def _next_record(data: "mmap.mmap | bytes", start: int) -> int | None:
    """Return the start of the next record that its first bytes identify; None if there is none."""
    if data[:2] == _GZIP:
        for member in _GZIP_MEMBER.finditer(data, start):
            if _starts_record(data[member.start() : member.start() + _MEMBER_START]):
                return member.start()
        return None
    found = _PLAIN_RECORD.search(data, max(0, start - 3))
    return found.end() if found else None


def _starts_record(member: bytes) -> bool:
    try:
        start = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(member, 5)
    except zlib.error:
        return False
    # A shorter start is enough where the file ends within the member.
    return b"WARC/".startswith(start) and (len(start) == 5 or len(member) < _MEMBER_START)


def _hint(data: "mmap.mmap | bytes") -> str:
    """Return what a file without WARC records is, if its first bytes show it; else ''."""
    start = bytes(data[:_MEMBER_START])
    if start.startswith(_GZIP):
        start = _inflated_start(start, 16)
    if start.startswith(b"filedesc://"):
        return ": this is an ARC file; `warcio recompress FILE.arc.gz FILE.warc.gz` makes a WARC file of it"
    return ""


def _end_of_archive(data: "mmap.mmap | bytes", at: int) -> int:
    """Return the end of the archive inside a damaged record, whose records do not belong to this file; 0 if there is none.

    In a gzip member only an inner archive that is gzip itself is found: it does not shrink when it is compressed again,
    so it takes at least its own length.
    """
    is_gzip = data[:2] == _GZIP
    block = bytes(data[at : at + _HEADER_ALLOWANCE])
    if is_gzip:
        block = _inflated_start(block, 1 << 14)
    head = _HEADS.match(block)
    if not head:
        return 0
    body = block[head.end() :]
    if body.startswith(_GZIP) if is_gzip else body.startswith((b"WARC/", _GZIP)) or _ARCHIVE_TYPE.search(head[0]):
        lengths = [int(length) for length in _LENGTH.findall(head[0])]  # the last one is that of the response
        return min(len(data), at + (0 if is_gzip else head.end()) + (lengths[-1] if lengths else 0))
    return 0


def _inflated_start(data: bytes, size: int) -> bytes:
    """Return the first bytes of a gzip member; b'' if it is damaged there."""
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data, size)
    except zlib.error:
        return b""
