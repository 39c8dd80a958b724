"""Image-caption candidates out of HTML: a row for each caption that a page gives an image."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from selectolax.lexbor import LexborCSSSelector, LexborDocumentOptions, LexborHTMLParser, LexborNode

from dataops.web.captions import normalise_caption
from dataops.web.declarations import (
    Licenses,
    is_license_link,
    normalise_meta_name,
    parse_language,
    parse_meta_directives,
)
from dataops.web.image_captions import ImageCaptions
from dataops.web.image_urls import Attributes, ImageReference, choose_reference
from dataops.web.markup import SOUGHT_TAGS, BadPage, Markup, Reader, read_markup
from dataops.web.open_graph import parse_shared_images
from dataops.web.page_pairs import MAX_IMAGES, PageBounds, PagePair, new_pair
from dataops.web.urls import BadUrl, Resolver, canonicalise_url, truncate_url

MAX_SOURCES = 64
"""Nodes before an image that are looked at for the `<source>` elements of its picture."""

_IMAGES = frozenset(("img", "amp-img"))
_SHARED_IMAGE = re.compile(rb"(?:og|twitter):image", re.IGNORECASE)
_ANY_IMAGE = re.compile(rb"<(?:img|image|amp-img)[\s/>]|" + _SHARED_IMAGE.pattern, re.IGNORECASE)
_LICENSE_LINKS = ('[rel~="license" i]:is(a,link)', 'a[href*="creativecommons.org/" i]')  # the quickest of many ways
_SELECTOR = LexborCSSSelector()  # a tree's own would be made anew for each page
_Image = tuple[LexborNode, Attributes, ImageReference]
_NO_EVENTS = int(LexborDocumentOptions.WO_EVENTS)  # what scripts would do to the tree: a seventh of the time


@dataclass(frozen=True)
class ExtractedPage:
    """What one page gives."""

    pairs: list[PagePair]
    surplus_images: int = 0
    """Images beyond MAX_IMAGES."""
    language: str | None = None
    opt_out: str | None = None
    """As the columns page_language and page_opt_out."""


def extract_page_pairs(
    html: bytes,
    page_url: str,
    bounds: PageBounds,
    opt_out: frozenset[str] = frozenset(),
    header_opt_outs: frozenset[str] = frozenset(),
) -> ExtractedPage:
    """Every (image, caption) of the page in document order, then those of the image that it wants to be shown by.

    An `<img>` gives a row for each of its texts (see dataops.web.image_captions), or a single row `no_caption` where it has
    none; its address is that of the largest image that it stands for (see dataops.web.image_urls), resolved against the
    page's `<base>`. An image in `<noscript>` that stands in for one that was found gives none. A row whose address cannot
    be used keeps a bounded form of it and its reason (see dataops.web.urls.BadUrl). `og:image` gives a row for its alt, the
    page's og:title and og:description.

    Args:
        html: the page in UTF-8.
        page_url: its canonical address.
        opt_out: directives (see dataops.web.declarations) by which a page forbids the use of its images: all its rows get the
            reason `opt_out`.
        header_opt_outs: those that came with the page's response.

    Raises: dataops.web.markup.BadPage when the page is built to exhaust a parser.
    """
    if b"\0" in html:
        html = html.replace(b"\0", b"")
    try:
        markup = read_markup(html, Reader.PAIRS)
    except BadPage:
        if _ANY_IMAGE.search(html):
            raise
        return ExtractedPage([])
    if not markup.starts & _IMAGES and not _SHARED_IMAGE.search(markup.html):
        return ExtractedPage([])
    page = _Page(markup, page_url, bounds)
    metas = page.metas()
    found = [*page.of_images(), *page.of_shared(metas)]
    told = parse_meta_directives(metas) | header_opt_outs
    if told & opt_out:
        found = [row._replace(reason=row.reason or "opt_out") for row in found]
    language = parse_language(page.tree.root.attributes) if page.tree.root else None
    beyond = max(0, len(page.images) - MAX_IMAGES)
    return ExtractedPage(found, beyond, language, ",".join(sorted(told)) or None)


class _Page:
    """The nodes of one page from which rows are made, found in one pass over its tree."""

    def __init__(self, markup: Markup, page_url: str, bounds: PageBounds):
        self.tree, self.bounds = LexborHTMLParser(markup.html, options=_NO_EVENTS), bounds
        tree = self.tree
        by_tag: dict[str | None, list[LexborNode]] = {}
        for node in _SELECTOR.find(_query(markup.starts, markup.licensed), tree.root) if tree.root else ():
            by_tag.setdefault(node.tag, []).append(node)
        self.by_tag = by_tag
        self.images = [*by_tag.get("img", ()), *by_tag.get("amp-img", ())]
        self.base = self._base(page_url)
        self.resolver = Resolver(self.base, bounds.url)
        links = {link.mem_id: link for tag in ("link", "a") for link in by_tag.get(tag, ())}
        self.licenses = Licenses(filter(_is_license, links.values()), self.base, bounds.url)
        self.captions = ImageCaptions(tree, by_tag.get("figcaption", ()), bounds.caption)

    def _base(self, page_url: str) -> str:
        """The address that others are relative to: the first `<base>` with an href, where it can be used."""
        for node in self.by_tag.get("base", ()):
            attributes = node.attributes
            if "href" in attributes:
                try:
                    return canonicalise_url(attributes["href"] or "", page_url, self.bounds.url)
                except BadUrl:
                    return page_url
        return page_url

    def metas(self) -> list[tuple[str, str]]:
        """(name or property in lower case, content) of each `<meta>` of which something is made."""
        found: list[tuple[str, str]] = []
        for node in self.by_tag.get("meta", ()):
            attributes = node.attributes
            if content := attributes.get("content"):
                name, property_ = attributes.get("name"), attributes.get("property")
                if name and (key := normalise_meta_name(name)):
                    found.append((key, content))
                if property_ and property_ != name and (key := normalise_meta_name(property_)):
                    found.append((key, content))
        return found

    def of_images(self) -> list[PagePair]:
        """The rows of the images of the page's body."""
        images = self._read_images()
        if stand_ins := self._stand_ins():
            images = self._without(stand_ins, list(images))
        rows: list[PagePair] = []
        add, resolve, captions_of, longest = rows.append, self.resolver.resolve, self.captions.of, self.bounds.url
        license_of = self.licenses.of if self.licenses else None
        for image, attributes, (reference, width, height) in images:
            if reference.startswith("data:"):  # of too many images for exceptions
                url, reason = truncate_url(reference, longest), "data_url"
            else:
                try:
                    url, reason = resolve(reference), None
                except BadUrl as bad:
                    url, reason = truncate_url(reference, longest), bad.reason
            license = license_of(image) if license_of else None
            captions = captions_of(image, attributes)
            for text, source in captions.items():
                add(new_pair((url, text, source, reason, license, width, height, None)))
            if not captions:
                add(new_pair((url, "", None, reason or "no_caption", license, width, height, None)))
        return rows

    def _read_images(self) -> Iterator[_Image]:
        """Each image with its attributes and its address."""
        has_pictures = "picture" in self.by_tag
        for image in self.images[:MAX_IMAGES]:
            attributes = image.attributes
            yield image, attributes, choose_reference(attributes, _sources(image) if has_pictures else ())

    def _without(self, stand_ins: Mapping[int, set[int]], images: Sequence[_Image]) -> Iterator[_Image]:
        """The images but for those stand-ins that have the address of another one, or that one of them stands beside."""
        shown = {(image.mem_id, chosen.reference) for image, _, chosen in images if image.mem_id not in stand_ins}
        nodes = {node for node, reference in shown if self._address(reference)[1] is None}
        references = {reference for _, reference in shown}
        for image, attributes, chosen in images:
            beside = stand_ins.get(image.mem_id)
            if beside is None or not (chosen.reference in references or beside & nodes):
                yield image, attributes, chosen

    def _stand_ins(self) -> dict[int, set[int]]:
        """The images within `<noscript>`, each with the images just before and after that element."""
        found: dict[int, set[int]] = {}
        for noscript in self.by_tag.get("noscript", ()):
            if images := _SELECTOR.find("img", noscript):
                beside = {image.mem_id for image in _images_beside(noscript)}
                found.update((image.mem_id, beside) for image in images)
        return found

    def of_shared(self, metas: Iterable[tuple[str, str]]) -> Iterator[PagePair]:
        """The rows of `og:image`."""
        for image in parse_shared_images(metas):
            url, reason = self._address(image.reference)
            license = self.licenses.of_page(self.tree.root)
            texts = dict.fromkeys(normalise_caption(text, self.bounds.caption) for text in image.texts)
            for text in filter(None, texts):
                yield new_pair((url, text, "og", reason, license, image.width, image.height, None))

    def _address(self, reference: str) -> tuple[str, str | None]:
        """The canonical address, or a bounded form of what cannot be used and the reason."""
        try:
            return self.resolver.resolve(reference), None
        except BadUrl as bad:
            return truncate_url(reference, self.bounds.url), bad.reason


@lru_cache(maxsize=2 << len(SOUGHT_TAGS))
def _query(starts: frozenset[str], licensed: bool) -> str:
    """The selector of all elements that are read, of those that may be there: each that it names costs time."""
    return ",".join([*sorted(starts), *(_LICENSE_LINKS if licensed else ())]) or "img"


def _is_license(link: LexborNode) -> bool:
    return is_license_link(link.attributes)


def _sources(image: LexborNode) -> list[Attributes]:
    """The attributes of the `<source>` elements before an image in its picture."""
    parent = image.parent
    if parent is None or parent.tag not in ("picture", "noscript"):
        return []
    found: list[Attributes] = []
    node = image.prev
    for _ in range(MAX_SOURCES):
        if node is None:
            break
        if node.tag == "source":
            found.append(node.attributes)
        node = node.prev
    return found[::-1]


def _images_beside(node: LexborNode) -> list[LexborNode]:
    """The images that an element's neighbours are, or hold as their first."""
    found: list[LexborNode] = []
    for step in ("prev", "next"):
        beside = getattr(node, step)
        while beside is not None and not beside.is_element_node:
            beside = getattr(beside, step)
        image = beside and (beside if beside.tag == "img" else beside.css_first("img"))
        if image:
            found.append(image)
    return found
