"""Finds the captions of an image in its page: alt, aria-label, title, and the caption of its figure."""

from collections.abc import Mapping, Sequence
from functools import cached_property

from selectolax.lexbor import LexborCSSSelector, LexborHTMLParser, LexborNode

from dataops.web.captions import normalise_caption

MAX_FIGURE_LEVELS = 64
"""Maximum number of levels between an image and its figure."""
MAX_CAPTION_NODES = 2_000
"""Maximum number of nodes that are read of one figcaption or label."""
MAX_LABELS = 8
"""Maximum number of elements that are read for one aria-labelledby."""

_SELECTOR = LexborCSSSelector()
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

    def __init__(self, tree: LexborHTMLParser, figcaptions: Sequence[LexborNode], max_chars: int):
        self._tree = tree
        self._figcaptions = figcaptions
        self._max_chars = max_chars
        self._figures: dict[int, str] = {}
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
        if self._figcaptions and image.mem_id in self._in_figures:
            found.setdefault(self._figcaption(image), "figcaption")
        found.pop("", None)
        return found

    def _label(self, name: str) -> str:
        if name not in self._labels:
            node = self._by_id.get(name)
            self._labels[name] = normalise_caption(_text(node), self._max_chars) if node else ""
        return self._labels[name]

    @cached_property
    def _by_id(self) -> dict[str, LexborNode]:
        found: dict[str, LexborNode] = {}
        for node in self._tree.css("[id]"):
            found.setdefault(node.attributes.get("id") or "", node)
        return found

    @cached_property
    def _caption_of(self) -> dict[int, LexborNode]:
        """The first figcaption among the children of each element."""
        found: dict[int, LexborNode] = {}
        for caption in self._figcaptions:
            if (parent := caption.parent) is not None:
                found.setdefault(parent.mem_id, caption)
        return found

    @cached_property
    def _in_figures(self) -> frozenset[int]:
        """The images inside a figure, found by one query: most images have no figure, and a search for each is slow."""
        assert self._tree.root is not None
        return frozenset(image.mem_id for image in _SELECTOR.find("figure img, figure amp-img", self._tree.root))

    def _figcaption(self, image: LexborNode) -> str:
        figure = _figure(image)
        if figure is None:
            return ""
        if figure.mem_id not in self._figures:
            caption = self._caption_of.get(figure.mem_id)
            if caption is None:  # the figcaption is not a child; it counts unless it belongs to an inner figure
                caption = figure.css_first("figcaption")
                around = _figure(caption) if caption else None
                caption = caption if around and around.mem_id == figure.mem_id else None
            self._figures[figure.mem_id] = normalise_caption(_text(caption), self._max_chars) if caption else ""
        return self._figures[figure.mem_id]


def _figure(node: LexborNode) -> LexborNode | None:
    for _ in range(MAX_FIGURE_LEVELS):
        parent = node.parent
        if parent is None or parent.tag == "figure":
            return parent
        node = parent
    return None


def _text(node: LexborNode) -> str:
    """Return the visible text of an element; blocks and line breaks separate words."""
    texts: list[str] = []
    current, waiting = node.first_child, []
    for _ in range(MAX_CAPTION_NODES):
        while current is None and waiting:
            current = waiting.pop()
        if current is None:
            break
        tag = current.tag
        if tag == "-text":
            texts.append(current.text_content or "")
        elif tag not in _HIDDEN_TAGS:
            if tag in _BLOCK_TAGS:
                texts.append(" ")
            waiting.append(current.next)
            current = current.first_child
            continue
        current = current.next
    return "".join(texts)
