"""Pages out of WARC files, whatever state the files are in.

A damaged record costs that record: reading goes on at the next one that can be found, and the damage is noted with its
offset. A file in which no record can be read is a SourceError. A file that ends in the middle of a record (a crawl that
was killed, a broken copy) keeps the records before, and the cut is noted as the damage `truncated`.
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

from dataops.errors import SourceError
from dataops.http_body import BadBody, Head, decode_body, split_response

MAX_DAMAGES = 1000
"""Unreadable records after which a file counts as unreadable."""

HTML_TYPES = ("text/html", "application/xhtml+xml")
_HEADER_ALLOWANCE = 1 << 16  # HTTP head and chunk sizes around a page of the greatest size
_PLAIN_RECORD = re.compile(rb"\n\r?\n(?=WARC/[01]\.\d)")
_MEMBER_START = 1024
_GZIP = b"\x1f\x8b"
_GZIP_MEMBER = re.compile(rb"\x1f\x8b\x08[\x00-\x1f]")


@dataclass(frozen=True)
class Page:
    """One HTML response, undone of its codings."""

    url: str
    """WARC-Target-URI as it stands."""
    offset: int
    """Of the record in the file, in bytes (of the compressed file; of little use where one gz member holds all)."""
    body: bytes
    charset: str | None
    """That of the HTTP header."""
    opt_out: frozenset[str] = frozenset()
    """What that says of the page's use (dataops.page_signals)."""


@dataclass(frozen=True)
class Damage:
    """A record that could not be used, and why."""

    offset: int
    """Of that record, or of the newest before it whose header could be read."""
    reason: str


def read_pages(path: Path, max_page_bytes: int, count: Callable[[str], None]) -> Iterator[Page | Damage]:
    """The HTML pages of a WARC file (gz with a member a record or one for all, plain, lz4 or zstd), in its order.

    Taken are `response` records of http(s) whose status is 2xx and whose media type is HTML (or, where none is given,
    whose body starts as HTML does).

    Args:
        max_page_bytes: longest page, compressed and not; a longer one is the damage `page_too_large`.
        count: called with `records` for each record, and with `not_2xx` or `not_html` for responses that are not taken.

    Raises: SourceError when the file cannot be opened, holds no readable record, or over MAX_DAMAGES unreadable ones.
    """
    for record in _records(path):
        if isinstance(record, Damage):
            yield record
            continue
        count("records")
        if record.record_type != WarcRecordType.response:
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
                continue  # cut: _records notes it
            head, body = split_response(data)
            if not 200 <= head.status < 300:
                count("not_2xx")
            elif (page := _html(head, body, max_page_bytes)) is None:
                count("not_html")
            else:
                yield Page(url, offset, page, head.charset, head.opt_out)
        except BadBody as bad:
            yield Damage(offset, bad.reason)


def _html(head: Head, body: bytes, max_bytes: int) -> bytes | None:
    if head.content_type and head.content_type not in HTML_TYPES:
        return None
    decoded = decode_body(head, body, max_bytes)
    if not head.content_type:
        start = decoded[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
        if not start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
            return None
    return decoded


def _records(path: Path) -> Iterator[WarcRecord | Damage]:
    """All records, each given before its content is read, with the damages between them."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else nullcontext(b"") as data:
                yield from _read_on(file, data, path)
    except OSError as error:
        msg = f"cannot read {path}: {error.strerror or error}"
        raise SourceError(msg) from error


def _read_on(file: BinaryIO, data: "mmap.mmap | bytes", path: Path) -> Iterator[WarcRecord | Damage]:
    read, damages, is_gzip = 0, 0, data[:2] == _GZIP
    start: int | None = 0
    while start is not None:
        file.seek(start)
        at, end, reason = start, start, None  # at: the newest record whose header could be read; end: not after its end
        try:
            for record in ArchiveIterator(file, parse_http=False):
                at, read = record.stream_pos, read + 1
                end = at + (1 if is_gzip else record.content_length)
                if not (record.headers.get("Content-Length") or "").strip().isdigit():
                    reason = "bad_record"  # a head that is cut or damaged: fastwarc takes the length for 0
                    break
                yield record
                record.reader.consume()
                if record.reader.tell() < record.content_length:
                    reason = "truncated"
                    break
        except OSError as error:
            if error.errno is not None:  # the disk's, not the format's
                raise
            reason = "bad_record"
        if reason is None:  # the end, or a record that is cut within its head
            cut = _next_record(data, end)
            if cut is None:
                break
            at, reason = cut, "truncated"
        damages += 1
        start = _next_record(data, at + 1)
        if damages > MAX_DAMAGES or (not read and start is None):
            what = f"over {MAX_DAMAGES} unreadable records" if read else "no WARC record"
            msg = f"{path}: {what}, at byte {at}"
            raise SourceError(msg)
        yield Damage(at, reason)
    if not read:
        msg = f"{path}: no WARC record (the file is empty)"
        raise SourceError(msg)


def _next_record(data: "mmap.mmap | bytes", start: int) -> int | None:
    """Where the next record starts that can be told from its first bytes; None where there is none."""
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
    return b"WARC/".startswith(start) and (len(start) == 5 or len(member) < _MEMBER_START)  # or the file ends in it
