"""Extracts (image URL, caption) pairs from WAT files, in which Common Crawl publishes metadata of its pages as JSON.

Of each JSON record only `Envelope.Payload-Metadata.HTTP-Response-Metadata` is read: its `HTML-Metadata` (Links and Head)
and its `Headers`. Records are parsed into typed structs, so that the parser skips all other fields. A record that does
not fit the structs is parsed again by plain loops that ignore values of unexpected types.

Source: WAT files of Common Crawl, written by ia-web-commons (ExtractingParseObserver).
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
import pyarrow as pa

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
from dataops.web.page_pairs import PageBounds, PageOrigin
from dataops.web.urls import BadUrl, Resolver, canonicalise_url, truncate_url
from plugins.common_crawl.links import (
    DATA,
    OTHER,
    ImageTexts,
    PageLinks,
    join_links,
    normalise_captions,
    resolve_references,
    scan_links,
)

MAX_RECORD_BYTES = 64 << 20
"""Maximum size of a record, in bytes; larger ones are damages."""
IMAGE_PATH = "IMG@/src"
"""`path` of links to images."""
LANGUAGE_META = "HTML@/lang"
"""Name of the meta that holds the language of the page."""


class MetaTag(msgspec.Struct, gc=False):
    """A `<meta>` element."""

    name: str = ""
    property: str = ""
    content: str = ""
    http_equiv: str = msgspec.field(name="http-equiv", default="")


T = TypeVar("T")


class HtmlHead(msgspec.Struct, gc=False):
    """The field `Head` of HTML-Metadata."""

    base: str = msgspec.field(name="Base", default="")
    metas: list[MetaTag] = msgspec.field(name="Metas", default_factory=list)
    links: msgspec.Raw = msgspec.field(name="Link", default=msgspec.Raw(b"[]"))
    """JSON, parsed only if it may hold a licence: most pages have dozens of these links."""


class _HtmlMetadata(msgspec.Struct, gc=False):
    links: msgspec.Raw = msgspec.field(name="Links", default=msgspec.Raw(b"[]"))
    head: HtmlHead = msgspec.field(name="Head", default_factory=HtmlHead)


class _Response(msgspec.Struct, gc=False):
    html: _HtmlMetadata | None = msgspec.field(name="HTML-Metadata", default=None)
    headers: msgspec.Raw = msgspec.field(name="Headers", default=msgspec.Raw(b"{}"))


class _Payload(msgspec.Struct, gc=False):
    response: _Response | None = msgspec.field(name="HTTP-Response-Metadata", default=None)


class _Header(msgspec.Struct, gc=False):
    url: str = msgspec.field(name="WARC-Target-URI", default="")


class _Envelope(msgspec.Struct, gc=False):
    payload: _Payload = msgspec.field(name="Payload-Metadata", default_factory=_Payload)
    header: _Header = msgspec.field(name="WARC-Header-Metadata", default_factory=_Header)


class _Wat(msgspec.Struct, gc=False):
    envelope: _Envelope = msgspec.field(name="Envelope", default_factory=_Envelope)


class WatPage(NamedTuple):
    """The metadata of an HTML page."""

    offset: int
    url: str
    """Canonical URL."""
    base: str
    """Its `<base>`, or ''."""
    metas: list[MetaTag]
    links: PageLinks
    licenses: list[dict[str, str]]
    """`rel`, `type` and `href` of the links that declare a licence."""
    signals: set[str]
    """Opt-out signals of the response's headers (dataops.rights.signals.find_in_headers)."""
    size: int
    """Size of the record, in bytes."""


_decode = msgspec.json.Decoder(_Wat).decode
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
        parsed, reason = _parse(record.body)
        if reason:
            yield Damage(record.offset, reason)
        if parsed is None:
            count("not_html")
            continue
        url, head, links, headers = parsed
        url = url.strip().removeprefix("<").removesuffix(">")
        try:
            url = canonicalise_url(url, url, max_url_chars)
        except BadUrl:
            yield Damage(record.offset, "bad_page_url")
            continue
        count("pages")
        licenses = _find_licenses(links, head.links, record.body)
        signals, size = _header_signals(headers), len(record.body)
        yield WatPage(record.offset, url, head.base, head.metas, links, licenses, signals, size)
    if not found and others > 1:
        raise UnusableSource("no WAT record; a WET file has no images, and an archive of pages is of kind 'warc'")


def _parse(body: bytes | memoryview) -> tuple[tuple[str, HtmlHead, PageLinks, bytes] | None, str | None]:
    """Return URL, head, links and headers of a page (None if it is none), and the reason of the damage if there is one."""
    try:
        envelope = _decode(body).envelope
        response = envelope.payload.response
        if response is None or response.html is None:
            return None, None
        if links := scan_links(response.html.links):
            return (envelope.header.url, response.html.head, links, bytes(response.headers)), None
    except _UNREADABLE:
        pass
    return _parse_leniently(_load(body))


def _parse_leniently(record: Any) -> tuple[tuple[str, HtmlHead, PageLinks, bytes] | None, str]:
    """Return what is usable of a record that does not fit the structs, as _parse does."""
    if not isinstance(record, dict):
        return None, "bad_json"
    response = _get(record, "Envelope", "Payload-Metadata", "HTTP-Response-Metadata")
    if not isinstance(response.get("HTML-Metadata"), dict):
        return None, "odd_json"
    html = response["HTML-Metadata"]
    head = _get(html, "Head")
    metas = [msgspec.convert(meta, MetaTag) for meta in _texts(head.get("Metas"))]
    links = scan_links(json.dumps(_texts(html.get("Links"))).encode(), strict=False)
    assert links is not None
    base, url = head.get("Base"), _get(record, "Envelope", "WARC-Header-Metadata").get("WARC-Target-URI")
    head_links, headers = (json.dumps(value).encode() for value in (head.get("Link"), response.get("Headers")))
    found = HtmlHead(base if isinstance(base, str) else "", metas, msgspec.Raw(head_links))
    return (url if isinstance(url, str) else "", found, links, headers), "odd_json"


class _PageHead(NamedTuple):
    origin: PageOrigin
    resolver: Resolver
    license: str | None
    forbids: bool
    shared: list[SharedImage]


def extract_wat_pairs(
    pages: Sequence[WatPage], bounds: PageBounds, opt_out: frozenset[str]
) -> tuple[pa.Table, list[PageOrigin]]:
    """Return the pairs of at least one page, as PairsWriter.add_table takes them, and the origins of the pages.

    The pairs are those that dataops.web.pages extracts from the page itself, as far as WAT has them: alt and title of
    the first MAX_IMAGES `<img src>`, then the texts of og:image.

    Args:
        opt_out: names of the signals by which a page forbids the use of its images.
    """
    heads = [_read_head(page, bounds, opt_out) for page in pages]
    shared = _join_shared_images([head.shared for head in heads], bounds.caption)
    images = join_links([*(page.links for page in pages), shared.links])
    n = sum(len(page.links.ends) for page in pages) // 3
    images.pages[n:] = shared.pages
    url_of, urls, reason_of, reasons = resolve_images(images, [head.resolver for head in heads])
    image, source, caption, captions = _caption_rows(images, bounds.caption)

    is_row = (image < n) | (source > 0)  # an og:image without a text has no row
    order = np.flatnonzero(is_row)
    order = order[np.argsort(images.pages[image[order]], kind="stable")]
    image, source, caption = image[order], source[order], caption[order]
    page, share = images.pages[image], np.maximum(image - n + 1, 0)
    source[share > 0] = _SOURCES.index("og")
    owner = np.concatenate([np.arange(n), n + np.array(shared.owners, np.int64)])[image]
    reason_of = reason_of[owner]
    reason_of[(reason_of == 0) & (source == 0)] = _index(reasons, Reason.NO_CAPTION)
    reason_of[(reason_of == 0) & np.array([head.forbids for head in heads])[page]] = _index(reasons, Reason.OPT_OUT)

    def take(values: pa.Array, indices: np.ndarray) -> pa.Array:
        return values.take(pa.array(indices))

    columns = {
        "url": take(urls, url_of[owner]),
        "caption": take(captions, caption),
        "caption_source": take(pa.array(_SOURCES, pa.string()), source),
        "license": take(pa.array([head.license for head in heads], pa.string()), page),
        "declared_width": take(pa.array([None, *shared.widths], pa.int32()), share),
        "declared_height": take(pa.array([None, *shared.heights], pa.int32()), share),
        "drop_reason": take(pa.array(reasons, pa.string()), reason_of),
        "page": pa.array(page),
    }
    return pa.table(columns), [head.origin for head in heads]


class _SharedImages(NamedTuple):
    """The n og:images of several pages, in the form of links: two texts each, with further ones for further texts."""

    links: PageLinks
    pages: tuple[int, ...]
    owners: tuple[int, ...]
    """Of each, which one has its reference."""
    widths: tuple[int | None, ...]
    heights: tuple[int | None, ...]


def _join_shared_images(pages: Sequence[Sequence[SharedImage]], max_chars: int) -> _SharedImages:
    texts, rows = list[str](), list[tuple[int, int, int | None, int | None]]()
    for page, images in enumerate(pages):
        for image in images:
            owner, own = len(rows), image.texts
            if len(own) > 2:  # two are compared with those of the other images
                own = [*dict.fromkeys(normalise_caption(text, max_chars) for text in own)]
            for i in range(0, len(own), 2):
                texts += ("" if i else image.reference, own[i], own[i + 1] if i + 1 < len(own) else "")
                rows.append((page, owner, image.width, image.height))
    data = [text.encode("utf-8", "surrogatepass") for text in texts]
    links = PageLinks(b"".join(data), np.cumsum([*map(len, data)], dtype=np.int64), len(rows), has_license=False)
    return _SharedImages(links, *(zip(*rows, strict=True) if rows else ((),) * 4))


_SOURCES = (None, "alt", "title", "og")
"""Values of `caption_source`."""


def _index(values: list[T], value: T) -> int:
    """Return the index of a value, which is added if it is not there."""
    if value not in values:
        values.append(value)
    return values.index(value)


def resolve_images(
    images: ImageTexts, resolvers: Sequence[Resolver]
) -> tuple[np.ndarray, pa.StringArray, np.ndarray, list[str | None]]:
    """Resolve the references of all images.

    Returns: the index of each image's URL (n,) and the URLs; the index of each image's drop reason (n,) and the reasons.
    """
    text, url_bounds, kinds = resolve_references(images, resolvers)
    url_of, reason_of = np.arange(len(kinds)), (kinds == DATA).astype(np.int32)
    others: list[str] = []
    reasons: list[str | None] = [None, Reason.DATA_URL]
    for i in np.flatnonzero(kinds == OTHER).tolist():
        reference, resolver = images.read(3 * i), resolvers[images.pages[i]]
        url_of[i] = len(kinds) + len(others)
        try:
            others.append(resolver.resolve(reference))
        except BadUrl as bad:
            others.append(truncate_url(reference, resolver.max_chars))
            reason_of[i] = _index(reasons, bad.reason)
    return url_of, pa.concat_arrays([text_column(text, url_bounds), pa.array(others, pa.string())]), reason_of, reasons


def _caption_rows(images: ImageTexts, max_chars: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, pa.StringArray]:
    """Return the image, the index in _SOURCES and the caption's index of each row, and the captions.

    An image has a row for its alt, and one for its title if that is another text; an image without both has one row.
    """
    unusual, texts = normalise_captions(images, max_chars)
    bounds = images.bounds
    empty = len(bounds) - 1 + len(texts)
    captions = pa.concat_arrays([text_column(images.text, bounds), pa.array([*texts, ""], pa.string())])
    index, lengths = np.arange(len(bounds) - 1), np.diff(bounds)
    index[unusual], lengths[unusual] = len(index) + np.arange(len(texts)), [*map(len, texts)]
    (alt, title), (has_alt, has_title) = (index[1::3], index[2::3]), (lengths[1::3] > 0, lengths[2::3] > 0)
    both = np.flatnonzero(has_alt & has_title)
    alts, titles = (captions.take(pa.array(each[both])).to_pylist() for each in (alt, title))
    has_title[both] = [one != other for one, other in zip(alts, titles, strict=True)]
    image = np.repeat(np.arange(len(alt)), np.maximum(has_alt.astype(np.int64) + has_title, 1))
    is_first = np.diff(image, prepend=-1) > 0
    source = np.where(is_first & has_alt[image], 1, np.where(has_title[image], 2, 0))
    return image, source, np.where(source == 0, empty, np.where(source == 1, alt[image], title[image])), captions


def text_column(text: np.ndarray, bounds: np.ndarray) -> pa.StringArray:
    """Return slices of UTF-8 as a column."""
    return pa.StringArray.from_buffers(len(bounds) - 1, pa.py_buffer(bounds.astype(np.int32)), pa.py_buffer(text))


def _read_head(page: WatPage, bounds: PageBounds, opt_out: frozenset[str]) -> _PageHead:
    """Return what applies to all pairs of a page, and its og:image."""
    resolver = Resolver(resolve_base_url(page, bounds.url), bounds.url)
    metas, licenses = _select_metas(page.metas), page.licenses
    found = find_in_metas(metas) | (find_in_elements(b"", licenses) if licenses else set())
    found = resolve_terms(found, resolver.base, bounds.url) | resolve_terms(page.signals, page.url, bounds.url)
    language = parse_language({"lang": next((text for name, text in metas if name == LANGUAGE_META), None)})
    origin = PageOrigin(page.url, page.offset, language, ",".join(sorted(found)) or None)
    license = _resolve_license(licenses, resolver) if licenses else None
    return _PageHead(origin, resolver, license, bool(found & opt_out), parse_shared_images(metas))


def _select_metas(metas: Sequence[MetaTag]) -> list[tuple[str, str]]:
    """Return (name or property in lower case, content) of each meta that extraction uses."""
    selected: list[tuple[str, str]] = []
    for meta in metas:
        if not (content := meta.content):
            continue
        names = meta.name, meta.property, meta.http_equiv
        selected += [(LANGUAGE_META, content)] if LANGUAGE_META in names[:2] else read_meta(names, content)
    return selected


def resolve_base_url(page: WatPage, max_url_chars: int) -> str:
    """Return the URL that references of the page are relative to: its `<base>` if that is usable, else its own URL."""
    try:
        return canonicalise_url(page.base, page.url, max_url_chars) if page.base else page.url
    except BadUrl:
        return page.url


def _find_licenses(links: PageLinks, head_links: msgspec.Raw, body: bytes | memoryview) -> list[dict[str, str]]:
    """Return `rel`, `type` and `href` of the links that declare a licence."""
    values: list[Any] = []
    if links.has_license:
        html = _get(_load(body), "Envelope", "Payload-Metadata", "HTTP-Response-Metadata", "HTML-Metadata")
        values += [link for link in _texts(html.get("Links")) if link.get("path") != IMAGE_PATH]
    if b"license" in bytes(head_links).lower():
        values += _texts(_load(head_links))
    found = [{"rel": link.get("rel", ""), "type": link.get("type", ""), "href": link.get("url", "")} for link in values]
    return [link for link in found if is_license_link({"rel": link["rel"]})]


def _resolve_license(links: Sequence[dict[str, str]], resolver: Resolver) -> str | None:
    """Return the licence URL of the links; None if there are several: WAT does not show which image each is for."""
    found: set[str] = set()
    for link in links:
        with suppress(BadUrl):
            found.add(resolver.resolve(link["href"]))
    return found.pop() if len(found) == 1 else None


def _header_signals(headers: bytes) -> set[str]:
    lower = headers.lower().replace(b"_", b"-")
    if not _header_hints().search(lower):
        return set()
    fields: list[tuple[str, str]] = []
    for name, value in _get(_load(headers)).items():
        values = value if isinstance(value, list) else [value]
        fields += [(name.lower(), text) for text in values if isinstance(text, str)]
    return find_in_headers(fields)


def _load(raw: bytes | memoryview | msgspec.Raw) -> Any:
    """Return the value of a record or a part of it; None if the standard library's parser rejects it.

    msgspec skips such parts unread; they may be nested more deeply, or hold longer numbers, than Python can build.
    """
    try:
        return json.loads(bytes(raw).decode("utf-8", "replace"), strict=False)
    except (ValueError, RecursionError):
        return None


def _get(value: Any, *names: str) -> dict[str, Any]:
    """Return the object at a path; an empty one if there is none."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _texts(value: Any) -> list[dict[str, str]]:
    """Return the objects of an array, with those of their values that are texts."""
    items = value if isinstance(value, list) else []
    return [
        {key: text for key, text in item.items() if isinstance(text, str)} for item in items if isinstance(item, dict)
    ]


@cache
def _header_hints() -> re.Pattern[bytes]:
    """Return a pattern of which the headers of a response have one, in lower case, if they have any signal."""
    found = (signal.hints or map(str.encode, signal.reads["header"]) for signal in list_signals("header"))
    names = {hint for hints in found for hint in hints}
    shortest = sorted(name for name in names if not any(other in name for other in names - {name}))
    return re.compile(b"|".join(map(re.escape, shortest)))
