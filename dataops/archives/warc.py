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

from dataops.archives.http_body import BadBody, ResponseHead, decode_body, split_response
from dataops.errors import SourceError

MAX_DAMAGES = 1000
"""Unreadable records after which a file counts as unreadable."""

HTML_TYPES = ("text/html", "application/xhtml+xml")
_HEADER_ALLOWANCE = 1 << 16  # HTTP head and chunk sizes around a page of the greatest size
_PLAIN_RECORD = re.compile(rb"\n\r?\n(?=WARC/[01]\.\d)")
_WITH_PAGE = (WarcRecordType.response, WarcRecordType.resource)
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_MEMBER_START = 1024
_GZIP = b"\x1f\x8b"
# A record's head, and that of the response in it.
_HEADS = re.compile(rb"\s*[^\n]*\r?\n(?:[^\r\n][^\n]*\n)+\r?\n(?:HTTP/[^\n]*\n(?:[^\r\n][^\n]*\n)*\r?\n)?")
_ARCHIVE_TYPE = re.compile(rb"\ncontent-type:[ \t]*application/(?:x-)?(?:warc|arc|gzip)\b(?!-fields)", re.IGNORECASE)
_LENGTH = re.compile(rb"\ncontent-length:[ \t]*(\d{1,15})[ \t]*\r?\n", re.IGNORECASE)
_COMPRESSED = (_GZIP, b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")  # gzip, zstd, lz4
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
    """What that says of the page's use (dataops.web.declarations)."""


@dataclass(frozen=True)
class Damage:
    """A record that could not be used, and why."""

    offset: int
    """Of that record, or of the newest before it whose header could be read."""
    reason: str


def read_pages(path: Path, max_page_bytes: int, count: Callable[[str], None]) -> Iterator[Page | Damage]:
    """The HTML pages of a WARC file (gz with a member a record or one for all, plain, lz4 or zstd), in its order.

    Taken are `response` records of http(s) whose status is 2xx and whose media type is HTML (or, where none is given,
    whose body starts as HTML does), and `resource` records of that type.

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
                continue  # cut: _records notes it
            is_page = record.record_type == WarcRecordType.resource
            head, body = (_resource_head(record), data) if is_page else split_response(data)
            if not 200 <= head.status < 300:
                count("not_2xx")
            elif (page := _html(head, body, max_page_bytes)) is None:
                count("not_html")
            else:
                del data, body  # a page may be large, and what is done with it takes memory too
                yield Page(url, offset, page, head.charset, head.opt_out)
        except BadBody as bad:
            yield Damage(offset, bad.reason)


def _resource_head(record: WarcRecord) -> ResponseHead:
    """The head of a record that holds a page without its response."""
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
    """All records, each given before its content is read, with the damages between them."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else nullcontext(b"") as data:
                yield from _read_on(file, data, path)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error


def _read_on(file: BinaryIO, data: "mmap.mmap | bytes", path: Path) -> Iterator[WarcRecord | Damage]:
    read, damages, is_plain = 0, 0, not data[:4].startswith(_COMPRESSED)
    start: int | None = 0
    while start is not None:
        file.seek(start)
        at, end, reason = start, start, None  # at: the newest record whose header could be read; end: not after its end
        try:
            for record in ArchiveIterator(file, parse_http=False):
                if is_plain and data[end : record.stream_pos].strip():
                    reason = "bad_record"  # no record stood where one should, and the iterator took the next it saw
                    break
                at, read = record.stream_pos, read + 1
                end = _end_of_record(data, at, record.content_length) if is_plain else at + 1
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
            cut = _next_record(data, max(end, _end_of_archive(data, end)))
            if cut is None:
                break
            at, reason = cut, "truncated"
        damages += 1
        start = _next_record(data, max(at + 1, *(_end_of_archive(data, place) for place in (at, end))))
        if damages > MAX_DAMAGES or (not read and start is None):
            what = f"over {MAX_DAMAGES} unreadable records" if read else f"no WARC record{_hint(data)}"
            raise SourceError(f"{path}: {what}, at byte {at}")
        yield Damage(at, reason)
    if not read:
        raise SourceError(f"{path}: no WARC record{_hint(data) or ' (the file is empty)'}")


def _end_of_record(data: "mmap.mmap | bytes", at: int, content_length: int) -> int:
    head = _HEAD_END.search(data, at, at + _HEADER_ALLOWANCE)
    return min(len(data), (head.end() if head else at) + content_length)


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


def _hint(data: "mmap.mmap | bytes") -> str:
    """What a file without WARC records is, where that is known."""
    start = bytes(data[:_MEMBER_START])
    if start.startswith(_GZIP):
        start = _inflated_start(start, 16)
    if start.startswith(b"filedesc://"):
        return ": this is an ARC file; `warcio recompress FILE.arc.gz FILE.warc.gz` makes a WARC file of it"
    return ""


def _end_of_archive(data: "mmap.mmap | bytes", at: int) -> int:
    """Where the archive ends that a damaged record holds: its records are not those of this file. 0: it holds none.

    In a gzip member only an archive that is gzip itself can be seen, because it does not shrink: it takes at least the
    bytes that it had.
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
        lengths = [int(length) for length in _LENGTH.findall(head[0])]  # the response's own is the last
        return min(len(data), at + (0 if is_gzip else head.end()) + (lengths[-1] if lengths else 0))
    return 0


def _inflated_start(data: bytes, size: int) -> bytes:
    """The first bytes of a gzip member; none where it is damaged before them."""
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data, size)
    except zlib.error:
        return b""
