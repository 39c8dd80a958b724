"""Splits an archived HTTP response into head and body, and undoes the transfer and content codings of the body."""

import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import brotli

from dataops.archives.members import ZSTD
from dataops.reasons import Unusable
from dataops.rights.signals import find_in_headers

_STATUS = re.compile(rb"HTTP/\d(?:\.\d)?\s+(\d{3})\b", re.IGNORECASE)
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_CHUNK = re.compile(rb"[ \t]*([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]*)?\r?\n")
_CHARSET = re.compile(r"charset\s*=\s*(?:[\"']\s*)?([a-zA-Z0-9_.:-]+)", re.IGNORECASE)
_MAX_HEAD = 1 << 16
MAX_CODINGS = 5
"""Maximum number of transfer and content codings of one body; each is up to `max_bytes` of work."""
MAX_MEMBERS = 1_000
"""Maximum number of gzip members, or of zstd frames, in one body: an empty one costs 10 microseconds."""
_PIECE = 1 << 16
_GZIP_START = b"\x1f\x8b\x08"
_GZIP_MEMBER = re.compile(re.escape(_GZIP_START))
_ZSTD_FRAME = re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")  # or a skippable one (RFC 8878)
_UNREADABLE = (zlib.error, ZSTD.error)


class BadBody(Unusable):
    """Raised for a record without a readable response; `reason` is its name in the manifest's counts."""


@dataclass(frozen=True)
class ResponseHead:
    """The fields of a response's head that extraction reads."""

    status: int
    content_type: str
    """Media type in lower case without parameters; '' if the header is missing."""
    charset: str | None
    transfer_encoding: tuple[str, ...]
    """Codings in the order in which the server applied them."""
    content_encoding: tuple[str, ...]
    """Codings in the order in which the server applied them."""
    opt_out: frozenset[str] = frozenset()
    """Opt-out signals in the headers."""


def split_response(data: bytes) -> tuple[ResponseHead, bytes]:
    """Return the head and the undecoded body of an HTTP response.

    Raises: BadBody('bad_http') if the data is not an HTTP response.
    """
    status = _STATUS.match(data)
    end = _HEAD_END.search(data, 0, _MAX_HEAD)
    if not status or not end:
        raise BadBody("bad_http")
    fields: list[tuple[str, str]] = []
    for line in re.split(rb"\r?\n", data[: end.start()])[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            fields.append((name.strip().lower().decode("latin-1"), value.strip().decode("latin-1")))
    # The first of several Content-Type fields counts.
    content_type = next((value for name, value in fields if name == "content-type"), "")
    charset = _CHARSET.search(content_type)
    head = ResponseHead(
        status=int(status[1]),
        content_type=content_type.partition(";")[0].strip().lower(),
        charset=charset[1] if charset else None,
        transfer_encoding=_codings(fields, "transfer-encoding"),
        content_encoding=_codings(fields, "content-encoding"),
        opt_out=frozenset(find_in_headers(fields)),
    )
    return head, data[end.end() :]


def _codings(fields: list[tuple[str, str]], field: str) -> tuple[str, ...]:
    codings = (coding.strip().lower() for name, value in fields if name == field for coding in value.split(","))
    return tuple(coding.removeprefix("x-") for coding in codings if coding not in ("", "identity"))


def decode_body(head: ResponseHead, body: bytes, max_bytes: int) -> bytes:
    """Return the body without its codings.

    Crawlers often store a decoded body with the headers of the encoded one. Servers list codings
    that they did not apply, or apply one twice. So a body that clearly is not encoded as its
    headers say is kept, and a body that is gzip after all codings are undone is decompressed once
    more, because no page starts like that.

    Raises: BadBody with bad_encoding (damaged, unknown or too many codings) or page_too_large (over `max_bytes` decoded,
    also between two codings).
    """
    codings = (*head.content_encoding, *head.transfer_encoding)
    body = _bounded(decode_codings(body, codings, max_bytes, partial=True), max_bytes)
    return _bounded(_decoded("gzip", body, max_bytes, partial=True), max_bytes) if body[:3] == _GZIP_START else body


def decode_codings(body: bytes, codings: Sequence[str], max_bytes: int, *, partial: bool = False) -> bytes:
    """Return a body without its codings, in the order in which they were applied; at most one byte more than `max_bytes`.

    Args:
        partial: return what can be decoded of a compressed body that ends early, as browsers do.

    Raises: BadBody.
    """
    names = [coding.strip().lower().removeprefix("x-") for coding in codings]
    names = [name for name in names if name not in ("", "identity")]
    if len(names) > MAX_CODINGS:
        raise BadBody("bad_encoding")
    for number, coding in enumerate(reversed(names)):
        body = _bounded(body, max_bytes) if number else body
        body = remove_chunking(body) if coding == "chunked" else _decoded(coding, body, max_bytes, partial=partial)
    return body


def remove_chunking(body: bytes) -> bytes:
    """Return the body without chunked transfer coding (RFC 9112, section 7.1).

    A body whose first chunk has no size line is returned unchanged. After a damaged chunk the rest
    of the body is kept unchanged, because damaged text is more useful than no text.
    """
    chunks: list[bytes] = []
    at = 0
    while size := _CHUNK.match(body, at):
        start, length = size.end(), int(size[1], 16)
        if not length:
            return b"".join(chunks)
        chunks.append(body[start : start + length])
        at = start + length
        at += 2 if body[at : at + 2] == b"\r\n" else int(body[at : at + 1] == b"\n")
    return b"".join([*chunks, body[at:]])


def _decoded(coding: str, body: bytes, max_bytes: int, *, partial: bool) -> bytes:
    if coding == "gzip":
        if body[:2] != _GZIP_START[:2]:
            return body
        return _inflated(body, lambda: zlib.decompressobj(zlib.MAX_WBITS | 16), _GZIP_MEMBER, max_bytes, partial)
    if _looks_like_markup(body):
        return body
    if coding == "deflate":  # zlib by the standard, raw deflate from some servers
        wrapped = len(body) > 1 and body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0
        bits = zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS
        return _inflated(body, lambda: zlib.decompressobj(bits), _GZIP_MEMBER, max_bytes, partial)
    if coding == "zstd":
        return _inflated(body, ZSTD.new_inflater, _ZSTD_FRAME, max_bytes, partial)
    if coding == "br":
        return _unbrotli(body, max_bytes, partial)
    raise BadBody("bad_encoding")


def _unbrotli(body: bytes, max_bytes: int, partial: bool) -> bytes:
    """Return the content; bytes after its end are ignored.

    The decompressor raises an error for these bytes, so the piece with the end is read again, byte
    by byte.
    """
    inflater, contents, at, step, left = brotli.Decompressor(), list[bytes](), 0, _PIECE, max_bytes + 1
    while left > 0 and not inflater.is_finished():
        try:
            contents.append(inflater.process(body[at : at + step], output_buffer_limit=left))
        except brotli.error as error:
            if step == 1:
                raise BadBody("bad_encoding") from error
            step, inflater = 1, brotli.Decompressor()
            inflater.process(body[:at], output_buffer_limit=max_bytes + 1)
            continue
        left -= len(contents[-1])
        if at >= len(body):  # truncated
            if not partial or left > max_bytes:
                raise BadBody("bad_encoding")
            break
        at += step
    return b"".join(contents)


def _inflated(
    body: bytes, new_inflater: Callable[[], Any], member: re.Pattern[bytes], max_bytes: int, partial: bool
) -> bytes:
    """Return the content of all members; bytes after the last one are ignored.

    Args:
        member: matches the start of a further member.
    """
    contents: list[bytes] = []
    at, left = 0, max_bytes + 1
    for _ in range(MAX_MEMBERS):
        inflater = new_inflater()
        while left > 0 and not inflater.eof:
            # In pieces, because the inflater copies what follows the end of a member.
            piece = body[at : at + _PIECE]
            try:
                contents.append(inflater.decompress(piece, left))
            except _UNREADABLE as error:
                raise BadBody("bad_encoding") from error
            left -= len(contents[-1])
            at += len(piece) - len(inflater.unused_data)
            if not piece:  # truncated
                if not partial or left > max_bytes:
                    raise BadBody("bad_encoding")
                break
        if left <= 0 or not member.match(body, at):
            return b"".join(contents)
    raise BadBody("bad_encoding")


def _bounded(data: bytes, max_bytes: int) -> bytes:
    if len(data) > max_bytes:
        raise BadBody("page_too_large")
    return data


def _looks_like_markup(body: bytes) -> bool:
    return body[:512].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")
