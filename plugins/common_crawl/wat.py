"""Extracts (image URL, caption) pairs from WAT files, in which Common Crawl publishes metadata of its pages as JSON.

Of each JSON record only `Envelope.Payload-Metadata.HTTP-Response-Metadata` is read: its `HTML-Metadata` (Links and Head)
and its `Headers`. Records are parsed into typed structs, so that the parser skips all other fields. A record that does
not fit the structs is parsed again by plain loops that ignore values of unexpected types.

Source: WAT files of Common Crawl, written by ia-web-commons (ExtractingParseObserver).
"""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache
from typing import Any, Generic, NamedTuple, TypeVar, Union

import msgspec

from dataops.archives.members import ByteStream, Damage
from dataops.archives.records import read_records
from dataops.errors import UnusableSource
from dataops.reasons import Reason
from dataops.rights.signals import find_in_elements, find_in_headers, find_in_metas, list_signals
from dataops.web.captions import normalise_caption
from dataops.web.declarations import (
    SharedImage,
    is_license_link,
    parse_language,
    parse_shared_images,
    read_meta,
    resolve_terms,
)
from dataops.web.page_pairs import MAX_IMAGES, PageBounds, PageOrigin, PagePair, new_pair
from dataops.web.urls import BadUrl, Resolver, canonicalise_url
from plugins.common_crawl.urls import ListResolver

MAX_RECORD_BYTES = 64 << 20
"""Maximum size of a record, in bytes; larger ones are damages."""
IMAGE_PATH = "IMG@/src"
"""`path` of links to images."""
LANGUAGE_META = "HTML@/lang"
"""Name of the meta that holds the language of the page."""


class ImageLink(msgspec.Struct, gc=False, tag_field="path", tag=IMAGE_PATH):
    """A link to an image."""

    url: str = ""
    alt: str = ""
    title: str = ""


class Link(msgspec.Struct, gc=False):
    """An element with a URL; `path` is ELEMENT@/attribute."""

    path: str = ""
    url: str = ""
    alt: str = ""
    title: str = ""
    rel: str = ""
    type: str = ""


# The paths of nearly all other links. A record with any other path is parsed again with `Link`.
_PATHS = (
    "A@/href A@/data-href AREA@/href STYLE/#text FORM@/action INPUT@/src IFRAME@/src SOURCE@/src VIDEO@/src VIDEO@/poster "
    "AUDIO@/src TRACK@/src EMBED@/src OBJECT@/data OBJECT@/codebase BLOCKQUOTE@/cite DIV@/data-href BUTTON@/data-href"
)
# Only `rel` of these links is parsed, which most do not have: five of six links do not lead to an image.
_Other = [
    msgspec.defstruct("Other", [("rel", str, "")], gc=False, tag_field="path", tag=path) for path in _PATHS.split()
]
_Typed = Union[(ImageLink, *_Other)]  # a tuple of types


class MetaTag(msgspec.Struct, gc=False):
    """A `<meta>` element."""

    name: str = ""
    property: str = ""
    content: str = ""
    http_equiv: str = msgspec.field(name="http-equiv", default="")


T = TypeVar("T", Link, MetaTag)
L = TypeVar("L")


class HtmlHead(msgspec.Struct, gc=False):
    """The field `Head` of HTML-Metadata."""

    base: str = msgspec.field(name="Base", default="")
    metas: list[MetaTag] = msgspec.field(name="Metas", default_factory=list)
    links: msgspec.Raw = msgspec.field(name="Link", default=msgspec.Raw(b"[]"))
    """JSON, parsed only if it may hold a licence: most pages have dozens of these links."""


class HtmlMetadata(msgspec.Struct, Generic[L], gc=False):
    """The field `HTML-Metadata`; links that are not ImageLinks have at least a `rel`."""

    links: list[L] = msgspec.field(name="Links", default_factory=list)
    head: HtmlHead = msgspec.field(name="Head", default_factory=HtmlHead)


class _Response(msgspec.Struct, Generic[L], gc=False):
    html: HtmlMetadata[L] | None = msgspec.field(name="HTML-Metadata", default=None)
    headers: msgspec.Raw = msgspec.field(name="Headers", default=msgspec.Raw(b"{}"))


class _Payload(msgspec.Struct, Generic[L], gc=False):
    response: _Response[L] | None = msgspec.field(name="HTTP-Response-Metadata", default=None)


class _Header(msgspec.Struct, gc=False):
    url: str = msgspec.field(name="WARC-Target-URI", default="")


class _Envelope(msgspec.Struct, Generic[L], gc=False):
    payload: _Payload[L] = msgspec.field(name="Payload-Metadata", default_factory=lambda: _Payload())
    header: _Header = msgspec.field(name="WARC-Header-Metadata", default_factory=_Header)


class _Wat(msgspec.Struct, Generic[L], gc=False):
    envelope: _Envelope[L] = msgspec.field(name="Envelope", default_factory=lambda: _Envelope())


class WatPage(NamedTuple):
    """The metadata of an HTML page."""

    offset: int
    url: str
    """Canonical URL."""
    html: HtmlMetadata[Any]
    headers: bytes
    """Response headers as JSON."""
    body: bytes | memoryview
    """The whole record as JSON."""


_decode = msgspec.json.Decoder(_Wat[_Typed]).decode
_decode_any = msgspec.json.Decoder(_Wat[Link]).decode
_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)


def read_wat(stream: ByteStream, max_url_chars: int, count: Callable[[str], None]) -> Iterator[WatPage | Damage]:
    """Yield the pages of a WAT file (gz, zstd or plain) in file order, and a Damage for each damaged record.

    Reasons, in addition to those of dataops.archives.records: `bad_json` (not a JSON object), `odd_json` (values of
    unexpected types, or text that is not Unicode: the page is yielded without them), `bad_page_url`.

    Args:
        count: called with `records` for each record, and with `pages` or `not_html` for each JSON record.

    Raises: SourceError if the file has no readable record, no WAT record, or too many damages.
    """
    found = others = 0
    for record in read_records(stream, MAX_RECORD_BYTES):
        if isinstance(record, Damage):
            yield record
            continue
        count("records")
        if b"application/json" not in record.head:
            others += 1
            continue
        found += 1
        if record.body is None:
            yield Damage(record.offset, Reason.TOO_LARGE)
            continue
        try:
            envelope = _decode(record.body).envelope
        except _UNREADABLE:
            envelope, reason = _parse_any_links(record.body)
            if reason:
                yield Damage(record.offset, reason)
        response = envelope.payload.response if envelope else None
        if envelope is None or response is None or response.html is None:
            count("not_html")
            continue
        url = envelope.header.url.strip().removeprefix("<").removesuffix(">")
        try:
            url = canonicalise_url(url, url, max_url_chars)
            page = WatPage(record.offset, url, response.html, bytes(response.headers), record.body)
        except BadUrl:
            yield Damage(record.offset, "bad_page_url")
            continue
        count("pages")
        yield page
    if not found and others > 1:
        raise UnusableSource("no WAT record; is it an archive of pages, of kind 'warc'?")


def extract_wat_pairs(
    page: WatPage, bounds: PageBounds, opt_out: frozenset[str]
) -> tuple[PageOrigin, list[PagePair], int]:
    """Return the origin of the page, its pairs, and the number of its images beyond MAX_IMAGES.

    The pairs are those that dataops.web.pages extracts from the page itself, as far as WAT has them: alt and title of
    `<img src>`, then the texts of og:image.

    Args:
        opt_out: names of the signals by which a page forbids the use of its images.
    """
    head = page.html.head
    resolver = ListResolver(resolve_base_url(page, bounds.url), bounds.url)
    images = [link for link in page.html.links if type(link) is ImageLink]
    used, metas = images[:MAX_IMAGES], _select_metas(head.metas)
    shared = parse_shared_images(metas)
    urls, reasons = resolver.resolve_all([*(image.url for image in used), *(image.reference for image in shared)])
    rows = _image_rows(used, urls, reasons, bounds)
    rows += _shared_image_rows(shared, urls[len(used) :], reasons[len(used) :], bounds)
    rels = {link.rel for link in page.html.links if type(link) is not ImageLink}
    licenses = _license_links(page.body) if any(map(_is_license, rels - {""})) else []
    if b"license" in bytes(head.links).lower():
        values = _objects(_load(bytes(head.links)))
        links = [_build_struct(Link, link) for link in values]
        licenses += [link for link in links if link.rel and _is_license(link.rel)]
    found = find_in_metas(metas)
    found |= find_in_elements(b"", [{"rel": link.rel, "type": link.type, "href": link.url} for link in licenses])
    found = resolve_terms(found, resolver.base, bounds.url)
    found |= resolve_terms(_header_signals(page.headers), page.url, bounds.url)
    if licenses and (license := _resolve_license(licenses, resolver)) is not None:
        rows = [row._replace(license=license) for row in rows]
    if found & opt_out:
        rows = [row._replace(reason=row.reason or Reason.OPT_OUT) for row in rows]
    language = parse_language({"lang": next((text for name, text in metas if name == LANGUAGE_META), None)})
    origin = PageOrigin(page.url, page.offset, language, ",".join(sorted(found)) or None)
    return origin, rows, max(0, len(images) - MAX_IMAGES)


def _image_rows(
    images: Sequence[ImageLink], urls: Sequence[str], reasons: Sequence[str | None], bounds: PageBounds
) -> list[PagePair]:
    """Return the rows of the images, whose URLs are the first ones."""
    rows: list[PagePair] = []
    add, longest = rows.append, bounds.caption
    for image, url, reason in zip(images, urls, reasons, strict=False):
        alt = normalise_caption(image.alt, longest) if image.alt else ""
        title = normalise_caption(image.title, longest) if image.title else ""
        if alt:
            add(new_pair((url, alt, "alt", reason, None, None, None, None)))
        if title and title != alt:
            add(new_pair((url, title, "title", reason, None, None, None, None)))
        elif not alt:
            add(new_pair((url, "", None, reason or Reason.NO_CAPTION, None, None, None, None)))
    return rows


def _select_metas(metas: Sequence[MetaTag]) -> list[tuple[str, str]]:
    """Return (name or property in lower case, content) of each meta that extraction uses."""
    selected: list[tuple[str, str]] = []
    for meta in metas:
        if meta.content and LANGUAGE_META in (meta.name, meta.property):
            selected.append((LANGUAGE_META, meta.content))
        elif meta.content:
            selected += read_meta(meta.name, meta.property, meta.http_equiv, meta.content)
    return selected


def _shared_image_rows(
    images: Sequence[SharedImage], urls: Sequence[str], reasons: Sequence[str | None], bounds: PageBounds
) -> Iterator[PagePair]:
    for image, url, reason in zip(images, urls, reasons, strict=True):
        texts = dict.fromkeys(normalise_caption(text, bounds.caption) for text in image.texts)
        for text in filter(None, texts):
            yield new_pair((url, text, "og", reason, None, image.width, image.height, None))


def resolve_base_url(page: WatPage, max_url_chars: int) -> str:
    """Return the URL that references of the page are relative to: its `<base>` if that is usable, else its own URL."""
    base = page.html.head.base
    try:
        return canonicalise_url(base, page.url, max_url_chars) if base else page.url
    except BadUrl:
        return page.url


def _license_links(body: bytes | memoryview) -> list[Link]:
    try:
        envelope = _decode_any(body).envelope
    except _UNREADABLE:
        envelope, _ = _parse_leniently(body)
    html = envelope.payload.response.html if envelope and envelope.payload.response else None
    return (
        [link for link in html.links if link.path != IMAGE_PATH and link.rel and _is_license(link.rel)] if html else []
    )


def _resolve_license(links: Sequence[Link], resolver: Resolver) -> str | None:
    """Return the licence URL of the links; None if there are several: WAT does not show which image each is for."""
    found: set[str] = set()
    for link in links:
        try:
            found.add(resolver.resolve(link.url))
        except BadUrl:
            continue
    return found.pop() if len(found) == 1 else None


@lru_cache(maxsize=10_000)
def _is_license(rel: str) -> bool:
    return is_license_link({"rel": rel})


def _header_signals(headers: bytes) -> set[str]:
    lower = headers.lower().replace(b"_", b"-")
    if not any(name in lower for name in header_hints()):
        return set()
    fields: list[tuple[str, str]] = []
    for name, value in _object(_load(headers)).items():
        values = value if isinstance(value, list) else [value]
        fields += [(name.lower(), text) for text in values if isinstance(text, str)]
    return find_in_headers(fields)


def _load(raw: bytes) -> Any:
    """Return the value of a part of a record; None if the standard library's parser rejects it.

    msgspec skips such parts unread; they may be nested more deeply, or hold longer numbers, than Python can build.
    """
    try:
        return json.loads(raw.decode("utf-8", "replace"), strict=False)
    except (ValueError, RecursionError):
        return None


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _parse_any_links(body: bytes | memoryview) -> tuple[_Envelope[Any] | None, str | None]:
    """Parse a record with unknown link paths, or one that does not fit the structs.

    Returns: the envelope, and the reason of the damage if there is one.
    """
    envelope: _Envelope[Any] | None
    reason: str | None = None
    try:
        envelope = _decode_any(body).envelope
    except _UNREADABLE:
        envelope, reason = _parse_leniently(body)
    response = envelope.payload.response if envelope else None
    html: HtmlMetadata[Any] | None = response.html if response else None
    if html:
        html.links = [
            ImageLink(link.url, link.alt, link.title) if link.path == IMAGE_PATH else link for link in html.links
        ]
    return envelope, reason


def _parse_leniently(body: bytes | memoryview) -> tuple[_Envelope[Any] | None, str | None]:
    """Parse what is usable of a record that does not fit the structs.

    Returns: the envelope, and the reason of the damage.
    """
    record = _load(bytes(body))
    if not isinstance(record, dict):
        return None, "bad_json"
    envelope = _object(record.get("Envelope"))
    response = _object(_object(envelope.get("Payload-Metadata")).get("HTTP-Response-Metadata"))
    html = response.get("HTML-Metadata")
    if not isinstance(html, dict):
        return None, "odd_json"
    head = _object(html.get("Head"))
    metas = [_build_struct(MetaTag, meta) for meta in _objects(head.get("Metas"))]
    links = [_build_struct(Link, link) for link in _objects(html.get("Links"))]
    head_links = msgspec.Raw(json.dumps(head.get("Link")).encode())
    base, url = head.get("Base"), _object(envelope.get("WARC-Header-Metadata")).get("WARC-Target-URI")
    page = HtmlMetadata(links, HtmlHead(base if isinstance(base, str) else "", metas, head_links))
    headers = msgspec.Raw(json.dumps(response.get("Headers")).encode())
    return _Envelope(_Payload(_Response(page, headers)), _Header(url if isinstance(url, str) else "")), "odd_json"


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _build_struct(kind: type[T], values: dict[str, Any]) -> T:
    """Build a struct from the values that are text."""
    names = zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True)
    return kind(**{name: values[key] for name, key in names if isinstance(values.get(key), str)})


@cache
def header_hints() -> tuple[bytes, ...]:
    """Return bytes of which the headers of a response have one, in lower case, if they have any signal."""
    found = (signal.hints or map(str.encode, signal.reads["header"]) for signal in list_signals("header"))
    return tuple(dict.fromkeys(hint for hints in found for hint in hints))
