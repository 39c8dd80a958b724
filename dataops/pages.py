"""Image-caption candidates out of HTML: a row for each caption that a page gives an image."""

from collections.abc import Iterator
from dataclasses import dataclass

from selectolax.lexbor import LexborHTMLParser, LexborNode

from dataops.candidates import Candidate
from dataops.captions import normal_caption
from dataops.markup import check_complexity
from dataops.urls import BadUrl, bounded_url, canonical_url

MAX_IMAGES = 20_000
"""Images taken of one page; the rest are counted as the damage `too_many_images`."""
FIGURE_LEVELS = 64
"""How far above an image its figure may be."""
CAPTION_NODES = 2_000
"""Nodes read of one figcaption."""

_BREAKING = frozenset(
    {
        *("address", "article", "aside", "blockquote", "br", "dd", "div", "dl", "dt", "figcaption", "figure", "footer"),
        *("h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "p", "pre", "section"),
        *("table", "td", "th", "tr", "ul"),
    }
)
_SILENT = frozenset(("script", "style", "noscript", "template", "-comment"))


@dataclass(frozen=True)
class PageBounds:
    """How long what is taken from a page may be, in characters."""

    caption: int
    url: int


def candidates(
    html: str, page_url: str, bounds: PageBounds, opt_out: frozenset[str] = frozenset()
) -> tuple[list[Candidate], int]:
    """Every (image, caption) of the page in document order, and the number of images beyond MAX_IMAGES.

    An `<img>` gives a row for each of its alt, its title and the figcaption of its figure that has text, or a single row
    `no_caption` where none has. Addresses are resolved against the page's `<base>`. A row whose address cannot be used
    keeps a bounded form of it and its reason (see dataops.urls.BadUrl).

    Args:
        html: the decoded page.
        page_url: its canonical address.
        opt_out: directives (lower case) by which a page's `<meta name="robots">` forbids the use of its images: all its
            rows get the reason `opted_out`.

    Raises: dataops.markup.BadPage when the page is built to exhaust a parser.
    """
    check_complexity(html)
    tree = LexborHTMLParser(html.replace("\0", ""))
    base = _base(tree, page_url, bounds)
    images = tree.css("img")
    captions = _FigureCaptions(tree, bounds)
    found = [row for image in images[:MAX_IMAGES] for row in _rows(image, base, captions, bounds)]
    if _directives(tree) & opt_out:
        found = [row._replace(reason=row.reason or "opted_out") for row in found]
    return found, max(0, len(images) - MAX_IMAGES)


def _directives(tree: LexborHTMLParser) -> set[str]:
    """What the page tells robots, in lower case."""
    metas = (node.attributes for node in tree.css("meta[name][content]"))
    told = ((meta.get("content") or "") for meta in metas if (meta.get("name") or "").strip().lower() == "robots")
    return {directive.strip().lower() for content in told for directive in content.split(",")}


def _rows(image: LexborNode, base: str, captions: "_FigureCaptions", bounds: PageBounds) -> Iterator[Candidate]:
    attributes = image.attributes
    reference, reason = attributes.get("src") or "", None
    try:
        url = canonical_url(reference, base, bounds.url)
    except BadUrl as bad:
        url, reason = bounded_url(reference, bounds.url), bad.reason
    texts = (
        ("alt", normal_caption(attributes.get("alt") or "", bounds.caption)),
        ("title", normal_caption(attributes.get("title") or "", bounds.caption)),
        ("figcaption", captions.of(image)),
    )
    given = [(source, text) for source, text in texts if text]
    for source, text in given:
        yield Candidate(url, text, source, reason)
    if not given:
        yield Candidate(url, "", None, reason or "no_caption")


def _base(tree: LexborHTMLParser, page_url: str, bounds: PageBounds) -> str:
    """The address that others are relative to: the first `<base>` with an href, where it can be used."""
    node = tree.css_first("base[href]")
    if node is None:
        return page_url
    try:
        return canonical_url(node.attributes.get("href") or "", page_url, bounds.url)
    except BadUrl:
        return page_url


class _FigureCaptions:
    """The caption of the figure around an image; each figure's text is read once."""

    def __init__(self, tree: LexborHTMLParser, bounds: PageBounds):
        self.max_chars = bounds.caption
        self.any = tree.css_first("figcaption") is not None
        self.texts: dict[int, str] = {}

    def of(self, image: LexborNode) -> str:
        figure = self._figure(image) if self.any else None
        if figure is None:
            return ""
        if figure.mem_id not in self.texts:
            caption = next((child for child in figure.iter() if child.tag == "figcaption"), None)
            if caption is None:  # wrapped in something: still this figure's, unless it is that of a figure within
                caption = figure.css_first("figcaption")
                around = self._figure(caption) if caption else None
                caption = caption if around and around.mem_id == figure.mem_id else None
            self.texts[figure.mem_id] = normal_caption(_text(caption), self.max_chars) if caption else ""
        return self.texts[figure.mem_id]

    @staticmethod
    def _figure(node: LexborNode) -> LexborNode | None:
        for _ in range(FIGURE_LEVELS):
            parent = node.parent
            if parent is None or parent.tag == "figure":
                return parent
            node = parent
        return None


def _text(node: LexborNode) -> str:
    """The text of an element as it reads: blocks and line breaks set words apart, scripts and styles are silent."""
    pieces: list[str] = []
    stack = [node.first_child]
    for _ in range(CAPTION_NODES):
        while stack and stack[-1] is None:
            stack.pop()
        if not stack:
            break
        current = stack.pop()
        assert current is not None
        stack.append(current.next)
        if current.tag == "-text":
            pieces.append(current.text(deep=False))
        elif current.tag not in _SILENT:
            if current.tag in _BREAKING:
                pieces.append(" ")
            stack.append(current.first_child)
    return "".join(pieces)
