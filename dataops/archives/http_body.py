"""The body of an archived HTTP response: head, transfer coding and content coding undone, whatever servers sent."""

import io
import re
import zlib
from dataclasses import dataclass

from fastwarc.stream_io import BrotliReader, ZstdReader

from dataops.web.declarations import parse_header_directives

_STATUS = re.compile(rb"HTTP/\d(?:\.\d)?\s+(\d{3})\b", re.IGNORECASE)
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_CHUNK = re.compile(rb"[ \t]*([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]*)?\r?\n")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([a-zA-Z0-9_.:-]+)", re.IGNORECASE)
_MAX_HEAD = 1 << 16
_GZIP_START = b"\x1f\x8b\x08"


class BadBody(ValueError):
    """The record holds no readable response; `reason` is what the manifest counts it under."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class ResponseHead:
    """What matters of a response's head."""

    status: int
    content_type: str
    """Media type in lower case without parameters; '' where none is given."""
    charset: str | None
    """Codings, here and below, are in the order in which they were applied."""
    transfer_encoding: tuple[str, ...]
    content_encoding: tuple[str, ...]
    opt_out: frozenset[str] = frozenset()
    """What it says of the page's use (dataops.web.declarations)."""


def split_response(data: bytes) -> tuple[ResponseHead, bytes]:
    """Head and undecoded body of an HTTP response. Raises: BadBody('bad_http') when it is none."""
    status = _STATUS.match(data)
    end = _HEAD_END.search(data, 0, _MAX_HEAD)
    if not status or not end:
        raise BadBody("bad_http")
    given: list[tuple[str, str]] = []
    for line in re.split(rb"\r?\n", data[: end.start()])[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            given.append((name.strip().lower().decode("latin-1"), value.strip().decode("latin-1")))
    fields = dict(reversed(given))  # the first of a name counts
    content_type = fields.get("content-type", "")
    charset = _CHARSET.search(content_type)
    head = ResponseHead(
        status=int(status[1]),
        content_type=content_type.partition(";")[0].strip().lower(),
        charset=charset[1] if charset else None,
        transfer_encoding=_codings(given, "transfer-encoding"),
        content_encoding=_codings(given, "content-encoding"),
        opt_out=frozenset(parse_header_directives(given)),
    )
    return head, data[end.end() :]


def _codings(given: list[tuple[str, str]], field: str) -> tuple[str, ...]:
    codings = (coding.strip().lower() for name, value in given if name == field for coding in value.split(","))
    return tuple(coding.removeprefix("x-") for coding in codings if coding not in ("", "identity"))


def decode_body(head: ResponseHead, body: bytes, max_bytes: int) -> bytes:
    """The body without its codings.

    Crawlers often store a decoded body under the headers of the coded one, and servers name codings that they did not
    apply, or apply one twice: a body that plainly is not coded as its headers say is taken as it is, and one that still is
    gzip when all is undone is undone again, for no page starts so.

    Raises: BadBody with bad_encoding (damaged or unknown coding) or page_too_large (over `max_bytes` decoded).
    """
    for coding in reversed(head.transfer_encoding):
        body = remove_chunking(body) if coding == "chunked" else _decoded(coding, body, max_bytes)
    for coding in reversed(head.content_encoding):
        body = _decoded(coding, body, max_bytes)
    if body[:3] == _GZIP_START:
        body = _decoded("gzip", body, max_bytes)
    return _bounded(body, max_bytes)


def remove_chunking(body: bytes) -> bytes:
    """The body without chunked transfer coding (RFC 9112, section 7.1); as it is where its first chunk has no size line.

    What follows a damaged chunk is kept as it stands: the text before and after is more use than none.
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


def _decoded(coding: str, body: bytes, max_bytes: int) -> bytes:
    if coding == "gzip":
        return _inflated(body, zlib.MAX_WBITS | 16, max_bytes) if body[:2] == _GZIP_START[:2] else body
    if _looks_like_markup(body):
        return body
    if coding == "deflate":  # zlib by the standard, raw deflate from some servers
        wrapped = len(body) > 1 and body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0
        return _inflated(body, zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS, max_bytes)
    if coding in ("br", "zstd"):
        try:
            reader = BrotliReader(io.BytesIO(body)) if coding == "br" else ZstdReader(io.BytesIO(body))
            return _bounded(reader.read(max_bytes + 1), max_bytes)
        except OSError as error:
            raise BadBody("bad_encoding") from error
    raise BadBody("bad_encoding")


def _inflated(body: bytes, window_bits: int, max_bytes: int) -> bytes:
    """The content of all its members; what follows the last and starts none is passed over."""
    pieces: list[bytes] = []
    left = max_bytes + 1
    while left > 0:
        inflater = zlib.decompressobj(window_bits)
        try:
            pieces.append(inflater.decompress(body, left))
        except zlib.error as error:
            raise BadBody("bad_encoding") from error
        left -= len(pieces[-1])
        body = inflater.unused_data
        if not inflater.eof and left > 0:
            raise BadBody("bad_encoding")  # cut off
        if not body.startswith(_GZIP_START):
            break
    return _bounded(b"".join(pieces), max_bytes)


def _bounded(data: bytes, max_bytes: int) -> bytes:
    if len(data) > max_bytes:
        raise BadBody("page_too_large")
    return data


def _looks_like_markup(body: bytes) -> bool:
    return body[:512].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")
