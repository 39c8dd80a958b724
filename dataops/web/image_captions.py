"""Finds the captions of an image in its page: alt, aria-label, title, and the caption of its figure."""

from collections.abc import Mapping, Sequence
from functools import cached_property

from selectolax.lexbor import LexborHTMLParser, LexborNode

from dataops.web.captions import normalise_caption

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
