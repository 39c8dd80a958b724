"""Tells markup that is built, or grown, to exhaust a parser: the work that a tree would cost, before it is built."""

import re
from collections import Counter
from collections.abc import Iterator

MAX_DEPTH = 5_000
"""Open elements at once. Building a tree takes time that grows with the square of its depth: 0.1 s at 10,000, 17 s at
100,000 (measured with Lexbor 3)."""
MAX_REOPENED = 2_000_000
"""Most elements that unclosed formatting may make, at some 360 bytes: each is opened again in each paragraph after."""
MAX_ATTRIBUTES = 50_000
"""Of one tag: each is compared with all before it (5 s at this number)."""

_FEW = 2_500  # tags that can reach none of the bounds
_NAME = re.compile(r"<(/?)([a-zA-Z][^\s/>]{0,63})")
# To the ">" that ends a tag: quotes count only after "=". Possessive, so that it takes linear time.
_TAG_END = re.compile(r"(?:[^>=]++|=\s*+(?:\"[^\"]*+\"|'[^']*+')?+)*+>")
_SEPARATOR = re.compile(r"[\s/\"']")
_RAW = re.compile(r"</(script|style|textarea|title|xmp|iframe|noframes|noembed)\b", re.IGNORECASE)
_RAW_NAMES = frozenset(("script", "style", "textarea", "title", "xmp", "iframe", "noframes", "noembed"))
# Elements that hold nothing, or that the next of their kind closes: they do not nest.
_FLAT = frozenset(
    {
        *(
            "area",
            "base",
            "br",
            "col",
            "embed",
            "hr",
            "img",
            "input",
            "link",
            "meta",
            "param",
            "source",
            "track",
            "wbr",
        ),
        *("p", "li", "dt", "dd", "option", "optgroup", "tr", "td", "th", "thead", "tbody", "tfoot", "colgroup"),
        *("rp", "rt", "rb", "rtc", "html", "head", "body"),
    }
)
_FORMATTING = frozenset(
    ("a", "b", "big", "code", "em", "font", "i", "nobr", "s", "small", "strike", "strong", "tt", "u")
)


class BadPage(ValueError):
    """The page cannot be read; `reason` is what the manifest counts it under: too_complex."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


def check_complexity(html: str) -> None:
    """Raise BadPage('too_complex') where a tree of the page's tags could not be built in fair time and memory.

    The tags are read as a tokenizer reads them (comments and scripts are skipped), their nesting simply: an end tag
    closes an open element of its own name. That counts pages of sloppy markup as deeper than they are.
    """
    wide = len(html) > 2 * MAX_ATTRIBUTES and any(len(piece) > 2 * MAX_ATTRIBUTES for piece in html.split(">"))
    count = html.count("<")
    if not wide and count <= _FEW:
        return
    is_open: Counter[str] = Counter()
    depth = formatting = 0
    for name, closing, start, end in _tags(html):
        if wide and end - start > 2 * MAX_ATTRIBUTES and len(_SEPARATOR.findall(html, start, end)) > MAX_ATTRIBUTES:
            raise BadPage("too_complex")
        if name in _FLAT or name in _RAW_NAMES or (closing and not is_open[name]):
            continue
        step = -1 if closing else 1
        is_open[name] += step
        depth += step
        formatting += step if name in _FORMATTING else 0
        if depth > MAX_DEPTH or formatting * count > MAX_REOPENED:
            raise BadPage("too_complex")


def _tags(html: str) -> Iterator[tuple[str, bool, int, int]]:
    """(name, whether it is an end tag, where it starts, where it ends) of each tag."""
    at = 0
    while (at := html.find("<", at)) >= 0:
        if html.startswith("<!--", at):
            end = html.find("-->", at + 2)
            if end < 0:
                return
            at = end + 3
            continue
        tag = _NAME.match(html, at)
        if not tag:
            at += 1
            continue
        ending = _TAG_END.match(html, tag.end())
        end = ending.end() if ending else len(html)
        name, closing = tag[2].lower(), bool(tag[1])
        yield name, closing, at, end
        at = end
        if name in _RAW_NAMES and not closing:
            at = _raw_end(html, at, name)


def _raw_end(html: str, at: int, name: str) -> int:
    """Where the text of a raw element ends: at its end tag, else at the end of the page."""
    for closer in _RAW.finditer(html, at):
        if closer[1].lower() == name:
            return closer.start()
    return len(html)
