"""Image-caption candidates out of WAT records: the metadata of pages that Common Crawl publishes as JSON.

Read are `Envelope.Payload-Metadata.HTTP-Response-Metadata` of each JSON record: its `HTML-Metadata` (Links, Head) and its
`Headers`. Most records are read by typed structs; what does not fit them is read again, leniently, by plain loops, which
decide alike.

Source: the WAT files of Common Crawl, written by ia-web-commons (ExtractingResourceProducer).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from dataops.candidates import Candidate, Origin
from dataops.captions import normal_caption
from dataops.gzip_members import ByteStream
from dataops.pages import PageBounds
from dataops.records import read_records
from dataops.urls import BadUrl, Resolver, bounded_url, canonical_url
from dataops.warc import Damage

MAX_RECORD_BYTES = 64 << 20
"""Longer records are not read."""
IMAGE = "IMG@/src"


class Link(msgspec.Struct, gc=False):
    """An element that names an address. `path` is element@/attribute."""

    path: str = ""
    url: str = ""
    alt: str = ""
    title: str = ""
    rel: str = ""


class Meta(msgspec.Struct, gc=False):
    """A `<meta>`; the language of `<html>` is one with the name HTML@/lang."""

    name: str = ""
    property: str = ""
    content: str = ""


class Head(msgspec.Struct, gc=False):
    """What the page's head holds."""

    base: str = msgspec.field(name="Base", default="")
    metas: list[Meta] = msgspec.field(name="Metas", default_factory=list)
    links: list[Link] = msgspec.field(name="Link", default_factory=list)


class Html(msgspec.Struct, gc=False):
    """HTML-Metadata."""

    head: Head = msgspec.field(name="Head", default_factory=Head)
    links: list[Link] = msgspec.field(name="Links", default_factory=list)


class Response(msgspec.Struct, gc=False):
    """HTTP-Response-Metadata."""

    html: Html | None = msgspec.field(name="HTML-Metadata", default=None)
    headers: msgspec.Raw = msgspec.field(name="Headers", default=msgspec.Raw(b"{}"))


class _Payload(msgspec.Struct, gc=False):
    response: Response | None = msgspec.field(name="HTTP-Response-Metadata", default=None)


class _Header(msgspec.Struct, gc=False):
    url: str = msgspec.field(name="WARC-Target-URI", default="")


class _Envelope(msgspec.Struct, gc=False):
    payload: _Payload = msgspec.field(name="Payload-Metadata", default_factory=_Payload)
    header: _Header = msgspec.field(name="WARC-Header-Metadata", default_factory=_Header)


class _Wat(msgspec.Struct, gc=False):
    envelope: _Envelope = msgspec.field(name="Envelope", default_factory=_Envelope)


_decode = msgspec.json.Decoder(_Wat).decode


_candidate = partial(tuple.__new__, Candidate)


@dataclass(frozen=True, slots=True)
class Page:
    """What a record says of an HTML page."""

    url: str
    base: str
    links: Sequence[Link]
    metas: Sequence[Meta]
    head_links: Sequence[Link]
    headers: bytes
    """JSON."""
    odd: bool = False
    """Whether something in it has not the type that it should have, and was passed over."""


def read_wat(stream: ByteStream, bounds: PageBounds, opt_out: frozenset[str], count: Any) -> Iterator[Any]:
    for record in read_records(stream, MAX_RECORD_BYTES):
        if isinstance(record, Damage):
            yield record
            continue
        count("records")
        if b"application/json" not in record.head:
            continue
        wat = _decode(record.body)
        response = wat.envelope.payload.response
        if response is None or response.html is None:
            continue
        html = response.html
        page_url = canonical_url(wat.envelope.header.url, wat.envelope.header.url, bounds.url)
        resolve = Resolver(page_url, bounds.url).resolve
        rows = _image_rows(html.links, resolve, bounds)
        yield Origin(page_url, record.offset), rows


def _image_rows(links, resolve, bounds):
    rows: list[Candidate] = []
    add, longest = rows.append, bounds.caption
    for link in links:
        if link.path == IMAGE:
            reason = None
            try:
                url = resolve(link.url)
            except BadUrl as bad:
                url, reason = bounded_url(link.url, bounds.url), bad.reason
            alt = normal_caption(link.alt, longest) if link.alt else ""
            if alt:
                add(_candidate((url, alt, "alt", reason, None, None, None, None)))
            if link.title and (title := normal_caption(link.title, longest)):
                add(_candidate((url, title, "title", reason, None, None, None, None)))
            elif not alt:
                add(_candidate((url, "", None, reason or "no_caption", None, None, None, None)))
    return rows
