"""Reads what an archive answers to requests for URLs: the captures that a later request is answered with.

A capture is a `response` record of any status, a `resource` record, or a `revisit` record, which refers to an earlier
response. Its body is decoded within the limit of a body, so that no archive can exhaust memory.

Source: ISO 28500:2017, sections 5 and 6.7 (revisit).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from email.message import Message
from typing import Literal

from dataops.archives.http_body import BadBody, decode_body, split_response
from dataops.archives.members import ByteStream, Damage
from dataops.archives.records import read_records
from dataops.archives.warc import HTML_TYPES, RecordFields
from dataops.images.kinds import KINDS, sniff
from dataops.web.urls import BadUrl, canonicalise_url
from tasks.web.request import COMPRESSIONS

REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEAD_ALLOWANCE = 1 << 16  # bytes for the HTTP head and chunk sizes around a body of the maximum size
_PAGE_START = 512  # bytes of a page that are kept: enough to see that it is no image
_LINE = re.compile(rb"\r?\n(?![ \t])")
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_INVALID = bytes.maketrans(b"\r\n\0", b"   ")

Kind = Literal["body", "redirect", "revisit", "error"]


@dataclass(frozen=True)
class Capture:
    """The archived answer to one request."""

    url: str
    """WARC-Target-URI, unchanged."""
    number: int
    """Index of the record in its file."""
    offset: int
    """Position of the record, or of its gzip member or frame, in the file, in bytes."""
    date: str
    """WARC-Date."""
    kind: Kind
    status: int | None = None
    head: bytes = b""
    """Status line and headers of the response."""
    body: bytes = b""
    """Decoded body; of an HTML page only the start."""
    error: str = ""
    """Drop reason and detail of a body that cannot be used, such as "too_large: over 100 bytes"."""
    target: str | None = None
    """URL to which a redirect leads, or whose response a revisit refers to."""
    digest: str | None = None
    """WARC-Payload-Digest."""


def read_captures(stream: ByteStream, max_bytes: int) -> Iterator[Capture | Damage]:
    """Yield the captures of a WARC file in file order, and a Damage for each record that cannot be used.

    Args:
        max_bytes: maximum size of a body, as stored and decoded; a larger one is the error `too_large`.

    Raises: SourceError if the file has content but no readable record, or too many unreadable ones.
    """
    number = -1
    for record in read_records(stream, max_bytes + _HEAD_ALLOWANCE):
        if isinstance(record, Damage):
            yield record
            continue
        number += 1
        fields = RecordFields(record.head)
        kind = fields.get("warc-type").lower()
        url = fields.get("warc-target-uri").removeprefix("<").removesuffix(">")
        if kind not in ("response", "resource", "revisit") or not url.lower().startswith(("http://", "https://")):
            continue
        place = (url, number, record.offset, fields.get("warc-date"))
        digest = fields.get("warc-payload-digest") or None
        if kind == "revisit":
            target = fields.get("warc-refers-to-target-uri").removeprefix("<").removesuffix(">") or None
            yield Capture(*place, "revisit", target=target, digest=digest)
        elif record.body is None:
            yield Capture(*place, "error", error=f"too_large: over {max_bytes} bytes")
        else:
            data = bytes(record.body)
            if kind == "resource":
                media_type = fields.get("content-type").translate({10: None, 13: None}) or "application/octet-stream"
                data = b"HTTP/1.1 200 OK\r\nContent-Type: " + media_type.encode("utf-8", "replace") + b"\r\n\r\n" + data
            yield _read_response(place, data, digest, fields.get("warc-truncated"), max_bytes)


def parse_headers(head: bytes) -> Message:
    """Return the headers of a response; a line that is no header is ignored."""
    headers = Message()
    for line in _LINE.split(head)[1:]:
        name, colon, value = line.partition(b":")
        if colon and _TOKEN.fullmatch(name := name.rstrip(b" \t")):
            headers[name.decode("ascii")] = value.translate(_INVALID).strip().decode("latin-1")
    return headers


def _read_response(
    place: tuple[str, int, int, str], data: bytes, digest: str | None, truncated: str, max_bytes: int
) -> Capture:
    try:
        parsed, raw = split_response(data)
    except BadBody:
        return Capture(*place, "error", error="bad_response: the record holds no HTTP response")
    parsed = replace(
        parsed, content_encoding=tuple(one for one in parsed.content_encoding if one.lower() in COMPRESSIONS)
    )
    head = data[: len(data) - len(raw)]
    del data
    status = parsed.status
    if status in REDIRECTS:
        return Capture(*place, "redirect", status, head, target=_find_target(place[0], head), digest=digest)
    if not 200 <= status < 300:
        return Capture(*place, "error", status, head, error=f"http_{status}: the server's answer")
    length = parse_headers(head).get("Content-Length", "")
    is_plain = not parsed.transfer_encoding and not parsed.content_encoding
    if truncated or (is_plain and length.isascii() and length.isdigit() and len(raw) < int(length[:18])):
        detail = f"by the crawler ({truncated})" if truncated else "before its Content-Length"
        return Capture(*place, "error", status, head, error=f"incomplete: the body ended {detail}", digest=digest)
    try:
        body = decode_body(parsed, raw, max_bytes)
    except BadBody as bad:
        is_large = bad.reason == "page_too_large"
        error = f"too_large: over {max_bytes} bytes" if is_large else "bad_response: the body cannot be decoded"
        return Capture(*place, "error", status, head, error=error, digest=digest)
    if parsed.content_type in HTML_TYPES and sniff(body) not in KINDS:
        body = body[:_PAGE_START]
    return Capture(*place, "body", status, head, body, digest=digest)


def _find_target(url: str, head: bytes) -> str | None:
    location = parse_headers(head).get("Location")
    if not location:
        return None
    try:  # headers are decoded as Latin-1; servers send UTF-8
        return canonicalise_url(location.encode("latin-1", "replace").decode("utf-8", "replace"), url, _HEAD_ALLOWANCE)
    except BadUrl:
        return None
