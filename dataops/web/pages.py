"""Extracts (image URL, caption) pairs from HTML: one for each caption of an image.

The captions of an image are alt, aria-label, title, and the caption of its figure.
"""

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

from selectolax.lexbor import LexborCSSSelector, LexborDocumentOptions, LexborHTMLParser, LexborNode

from dataops.reasons import Reason
from dataops.rights.signals import find_in_elements, find_in_metas, is_meta_read, normalise_key
from dataops.web.captions import normalise_caption
from dataops.web.declarations import (
    Licenses,
    is_license_link,
    parse_language,
    parse_shared_images,
    read_meta,
    resolve_terms,
)
from dataops.web.image_urls import Attributes, ImageReference, choose_reference
from dataops.web.markup import SOUGHT_TAGS, BadPage, Markup, Reader, read_markup
from dataops.web.page_pairs import MAX_IMAGES, PageBounds, PagePair, new_pair
from dataops.web.urls import BadUrl, Resolver, canonicalise_url, truncate_url

MAX_LABELS = 8
"""Maximum number of elements that are read for one aria-labelledby."""
MIN_TEXT_BUDGET = 10_000
"""Minimum of the budget for the texts of captions and labels: as many characters are read as the page has bytes, and an
element counts as three (`<b>`). So elements in each other are not read again and again."""
WORDPRESS_CAPTION = ".wp-caption-text:not(figcaption)"
"""Selector of WordPress' captions of images that are in no figure. The element around one counts as a figure."""

_SECTIONS = frozenset(("body", "html", "main", "article", "section"))  # they hold more than one image and its caption
_BLOCK_TAGS = frozenset(
    {
        *("address", "article", "aside", "blockquote", "br", "dd", "div", "dl", "dt", "figcaption", "figure", "footer"),
        *("h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "p", "pre", "section"),
        *("table", "td", "th", "tr", "ul"),
    }
)
_HIDDEN_TAGS = frozenset(("script", "style", "noscript", "template", "-comment"))


class ImageCaptions:
    """The captions of the images of one page; the text of each figure and label is read once."""

    def __init__(self, tree: LexborHTMLParser, figcaptions: Sequence[LexborNode], max_chars: int, page_bytes: int):
        self._tree = tree
        self._budget = max(page_bytes, MIN_TEXT_BUDGET)
        self._figcaptions = figcaptions
        self._max_chars = max_chars
        self._figures: dict[int, int | None] = {}
        self._texts: dict[int, str] = {}
        self._labels: dict[str, str] = {}

    def find(self, image: LexborNode, attributes: Mapping[str, str | None]) -> dict[str, str]:
        """Return the caption_source of each caption of an image, the best source first and each text once."""
        found: dict[str, str] = {}
        if text := attributes.get("alt"):
            found[normalise_caption(text, self._max_chars)] = "alt"
        if text := attributes.get("aria-label"):
            found.setdefault(normalise_caption(text, self._max_chars), "aria_label")
        if text := attributes.get("title"):
            found.setdefault(normalise_caption(text, self._max_chars), "title")
        if labels := attributes.get("aria-labelledby"):
            text = " ".join(self._label(label) for label in labels.split()[:MAX_LABELS])
            found.setdefault(normalise_caption(text, self._max_chars), "aria_label")
        if self._figcaptions and (figcaption := self._figcaption(image)):
            found.setdefault(self._read(figcaption), "figcaption")
        found.pop("", None)
        return found

    def _figcaption(self, image: LexborNode) -> LexborNode | None:
        captions = self._figcaption_of  # first, because it adds to the known figures
        return captions.get(_figure(image, self._figures))

    def _label(self, name: str) -> str:
        if name not in self._labels:
            node = self._by_id.get(name)
            self._labels[name] = self._read(node) if node else ""
        return self._labels[name]

    def _read(self, node: LexborNode) -> str:
        """Return the caption in an element."""
        if node.mem_id not in self._texts:
            text, cost = _text(node, min(self._budget, 4 * self._max_chars + MIN_TEXT_BUDGET))
            self._budget -= cost
            self._texts[node.mem_id] = normalise_caption(text, self._max_chars)
        return self._texts[node.mem_id]

    @cached_property
    def _by_id(self) -> dict[str, LexborNode]:
        found: dict[str, LexborNode] = {}
        for node in self._tree.css("[id]"):
            found.setdefault(node.attributes.get("id") or "", node)
        return found

    @cached_property
    def _figcaption_of(self) -> dict[int | None, LexborNode]:
        """The caption of each figure, by the figure's `mem_id`: the first that is its child, else the first in it."""
        children: dict[int | None, LexborNode] = {}
        descendants: dict[int | None, LexborNode] = {}
        for figcaption in self._figcaptions:
            parent = figcaption.parent
            if figcaption.tag != "figcaption" and parent is not None and parent.tag not in _SECTIONS:
                self._figures[parent.mem_id] = parent.mem_id
                children.setdefault(parent.mem_id, figcaption)
        for figcaption in self._figcaptions:
            figure, parent = _figure(figcaption, self._figures), figcaption.parent
            if figcaption.tag == "figcaption" and figure is not None and parent is not None:
                (children if parent.mem_id == figure else descendants).setdefault(figure, figcaption)
        return descendants | children


def _figure(node: LexborNode, known: dict[int, int | None]) -> int | None:
    """Return the `mem_id` of the innermost figure around a node.

    `known` holds that of each element that was passed before, so that elements around many nodes are passed once.
    """
    passed: list[int] = []
    parent, figure = node.parent, None
    while parent is not None:
        identity = parent.mem_id
        if identity in known:
            figure = known[identity]
            break
        passed.append(identity)
        if parent.tag == "figure":
            figure = identity
            break
        parent = parent.parent
    for identity in passed:
        known[identity] = figure
    return figure


def _text(node: LexborNode, budget: int) -> tuple[str, int]:
    """Return the visible text of an element, and what it costs; blocks and line breaks separate words."""
    texts: list[str] = []
    cost = 0
    current, waiting = node.first_child, []
    while cost < budget:
        while current is None and waiting:
            current = waiting.pop()
        if current is None:
            break
        tag = current.tag
        cost += 3
        if tag == "-text":
            texts.append(current.text_content or "")
            cost += len(texts[-1])
        elif tag not in _HIDDEN_TAGS:
            if tag in _BLOCK_TAGS:
                texts.append(" ")
            waiting.append(current.next)
            current = current.first_child
            continue
        current = current.next
    return "".join(texts), cost


MAX_SOURCES = 64
"""Maximum number of nodes before an image that are searched for the `<source>` elements of its picture."""
MAX_NEIGHBOUR_LEVELS = 8
"""Maximum number of levels between an image and the element next to `<noscript>` that holds it."""

_IMAGES = frozenset(("img", "amp-img"))
_SHARED_IMAGE = re.compile(rb"(?:og|twitter):image", re.IGNORECASE)
_ANY_IMAGE = re.compile(rb"<(?:img|image|amp-img)[\s/>]|" + _SHARED_IMAGE.pattern, re.IGNORECASE)
_LICENSE_LINKS = ('[rel~="license" i]:is(a,link)', 'a[href*="creativecommons.org/" i]')  # the fastest of many forms
_SELECTOR = LexborCSSSelector()  # shared, because each tree would create its own
_Image = tuple[LexborNode, Attributes, ImageReference]
_NO_EVENTS = int(LexborDocumentOptions.WO_EVENTS)  # events of scripts take a seventh of the time


@dataclass(frozen=True)
class ExtractedPage:
    """The pairs of one page, and what the page declares."""

    pairs: list[PagePair]
    surplus_images: int = 0
    """Number of images beyond MAX_IMAGES."""
    language: str | None = None
    """Value of the column `page_language`."""
    opt_out: str | None = None
    """Value of the column `page_opt_out`."""


def extract_page_pairs(
    html: bytes,
    page_url: str,
    bounds: PageBounds,
    opt_out: frozenset[str] = frozenset(),
    header_signals: frozenset[str] = frozenset(),
) -> ExtractedPage:
    """Return the pairs of the page in document order, then those of its preview images (`og:image`).

    An `<img>` has a pair for each of its captions (dataops.web.pages), or one with the reason
    `no_caption`. Its URL is that of the largest image that it offers (dataops.web.image_urls),
    resolved against the page's `<base>`. An image in `<noscript>` that replaces a lazy-loaded one
    is ignored. A pair whose URL is unusable has the truncated reference and the reason
    (dataops.web.urls.BadUrl). An `og:image` has a pair for its alt; the first one also for og:title
    and og:description.

    Args:
        html: page in UTF-8.
        page_url: canonical URL of the page.
        opt_out: names of the signals by which a page forbids the use of its images: all its pairs get the reason
            `opt_out`.
        header_signals: signals in the headers of the page's response.

    Raises: dataops.web.markup.BadPage if the page would exhaust the parser.
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
    pairs = [*page.image_pairs(), *page.shared_image_pairs(metas)]
    links = [link.attributes for link in page.links]
    found = find_in_metas(metas) | find_in_elements(html, links, page_url)
    found = resolve_terms(found, page.base, bounds.url) | resolve_terms(header_signals, page_url, bounds.url)
    if found & opt_out:
        pairs = [pair._replace(reason=pair.reason or Reason.OPT_OUT) for pair in pairs]
    language = parse_language(page.tree.root.attributes) if page.tree.root else None
    surplus = max(0, len(page.images) - MAX_IMAGES)
    return ExtractedPage(pairs, surplus, language, ",".join(sorted(found)) or None)


class _Page:
    """The nodes of one page that extraction reads, found in one pass over its tree."""

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
        self.links = list(filter(_is_license, links.values()))
        self.licenses = Licenses(self.links, self.base, bounds.url)
        figcaptions = by_tag.get("figcaption", [])
        if markup.has_wordpress_captions and tree.root:
            figcaptions = [*figcaptions, *_SELECTOR.find(WORDPRESS_CAPTION, tree.root)]
        self.captions = ImageCaptions(tree, figcaptions, bounds.caption, len(markup.html))

    def _base(self, page_url: str) -> str:
        """Return the URL that references are relative to: the first `<base>` with a href if it is usable, else the page."""
        for node in self.by_tag.get("base", ()):
            attributes = node.attributes
            if "href" in attributes:
                try:
                    return canonicalise_url(attributes["href"] or "", page_url, self.bounds.url)
                except BadUrl:
                    return page_url
        return page_url

    def metas(self) -> list[tuple[str, str]]:
        """Return (name or property in lower case, content) of each `<meta>` that extraction uses."""
        found: list[tuple[str, str]] = []
        for node in self.by_tag.get("meta", ()):
            attributes = node.attributes
            names = [attributes.get(key) or "" for key in ("name", "property", "http-equiv")]
            content = attributes.get("content")
            if not content and is_meta_read(name := normalise_key(names[0])):
                content = name  # `<meta name="noai">` says it by its name
            if content:
                found += read_meta(names, content)
        return found

    def image_pairs(self) -> list[PagePair]:
        """Return the pairs of the images in the page's body."""
        images = self._read_images()
        if fallbacks := self._noscript_images():
            images = self._without_fallbacks(fallbacks, list(images))
        pairs: list[PagePair] = []
        add, resolve, find_captions = pairs.append, self.resolver.resolve, self.captions.find
        find_license = self.licenses.find if self.licenses else None
        for image, attributes, (reference, width, height) in images:
            if reference.startswith("data:"):  # too frequent for an exception each
                url, reason = truncate_url(reference, self.bounds.url), Reason.DATA_URL
            else:
                try:
                    url, reason = resolve(reference), None
                except BadUrl as bad:
                    url, reason = truncate_url(reference, self.bounds.url), bad.reason
            license = find_license(image) if find_license else None
            captions = find_captions(image, attributes)
            for text, source in captions.items():
                add(new_pair((url, text, source, reason, license, width, height, None)))
            if not captions:
                add(new_pair((url, "", None, reason or Reason.NO_CAPTION, license, width, height, None)))
        return pairs

    def _read_images(self) -> Iterator[_Image]:
        """Yield each image with its attributes and its URL reference."""
        has_pictures = "picture" in self.by_tag
        for image in self.images[:MAX_IMAGES]:
            attributes = image.attributes
            yield image, attributes, choose_reference(attributes, _sources(image) if has_pictures else ())

    def _without_fallbacks(self, fallbacks: Mapping[int, set[int]], images: Sequence[_Image]) -> Iterator[_Image]:
        """Yield the images except fallbacks with the URL of another image, or with a usable image next to them."""
        regular = {(image.mem_id, chosen.reference) for image, _, chosen in images if image.mem_id not in fallbacks}
        usable_nodes = {node for node, reference in regular if self._resolve(reference)[1] is None}
        references = {reference for _, reference in regular}
        for image, attributes, chosen in images:
            neighbours = fallbacks.get(image.mem_id)
            if neighbours is None or not (chosen.reference in references or neighbours & usable_nodes):
                yield image, attributes, chosen

    def _noscript_images(self) -> dict[int, set[int]]:
        """Return the images within `<noscript>`, each with the images in the elements before and after that element."""
        found: dict[int, set[int]] = {}
        nested: set[int] = set()
        positions: dict[int, int] = {}
        regular = self.by_tag.get("img", ())
        for noscript in self.by_tag.get("noscript", ()):
            if noscript.mem_id in nested:
                continue
            inside = _SELECTOR.find("img,noscript", noscript)
            nested.update(node.mem_id for node in inside if node.tag == "noscript")
            if images := [node.mem_id for node in inside if node.tag == "img"]:
                positions = positions or {image.mem_id: i for i, image in enumerate(regular)}
                first, last = positions[images[0]], positions[images[-1]]
                around = [*regular[max(0, first - 1) : first], *regular[last + 1 : last + 2]]
                beside = (_neighbour(noscript, "prev"), _neighbour(noscript, "next"))
                neighbours = {image.mem_id for image in around if _is_in(image, beside)}
                found.update(dict.fromkeys(images, neighbours))
        return found

    def shared_image_pairs(self, metas: Iterable[tuple[str, str]]) -> Iterator[PagePair]:
        """Yield the pairs of `og:image`."""
        for image in parse_shared_images(metas):
            url, reason = self._resolve(image.reference)
            license = self.licenses.find_for_page(self.tree.root)
            texts = dict.fromkeys(normalise_caption(text, self.bounds.caption) for text in image.texts)
            for text in filter(None, texts):
                yield new_pair((url, text, "og", reason, license, image.width, image.height, None))

    def _resolve(self, reference: str) -> tuple[str, str | None]:
        """Return the canonical URL and None, or the truncated reference and the reason why it is unusable."""
        try:
            return self.resolver.resolve(reference), None
        except BadUrl as bad:
            return truncate_url(reference, self.bounds.url), bad.reason


@lru_cache(maxsize=2 << len(SOUGHT_TAGS))
def _query(starts: frozenset[str], licensed: bool) -> str:
    """Return the selector of the elements to read; only tags that may occur are in it, because each costs time."""
    return ",".join([*sorted(starts), *(_LICENSE_LINKS if licensed else ())]) or "img"


def _is_license(link: LexborNode) -> bool:
    return is_license_link(link.attributes)


def _sources(image: LexborNode) -> list[Attributes]:
    """Return the attributes of the `<source>` elements before an image in its picture, up to another image."""
    parent = image.parent
    if parent is None or parent.tag not in ("picture", "noscript"):
        return []
    found: list[Attributes] = []
    node = image.prev
    for _ in range(MAX_SOURCES):
        if node is None or node.tag == "img":
            break
        if node.tag == "source":
            found.append(node.attributes)
        node = node.prev
    return found[::-1]


def _is_in(image: LexborNode, elements: Container[int | None]) -> bool:
    """Return whether an image is, or is in, one of the elements with these `mem_id`."""
    node: LexborNode | None = image
    for _ in range(MAX_NEIGHBOUR_LEVELS):
        if node is None or node.mem_id in elements:
            break
        node = node.parent
    return node is not None and node.mem_id in elements


def _neighbour(node: LexborNode, direction: Literal["prev", "next"]) -> int | None:
    """Return the `mem_id` of the element before or after a node."""
    neighbour = getattr(node, direction)
    while neighbour is not None and not neighbour.is_element_node:
        neighbour = getattr(neighbour, direction)
    return neighbour and neighbour.mem_id
