"""Tells markup that is built, or grown, to exhaust a parser: the work that a tree would cost, before it is built."""

import re
from collections import Counter
from collections.abc import Iterator

import numpy as np

MAX_DEPTH = 5_000
"""Open elements at once. Building a tree takes time that grows with the square of its depth: 0.1 s at 10,000, 17 s at
100,000 (measured with Lexbor 3)."""
MAX_REOPENED = 2_000_000
"""Most elements that unclosed formatting may make, at some 360 bytes: each is opened again in each paragraph after."""
MAX_ATTRIBUTES = 50_000
"""Of one tag: each is compared with all before it (5 s at this number)."""

_LESS_THAN = ord("<")
_NAME = re.compile(rb"<(/?)([a-zA-Z][^\s/>]{0,63})")
# To the ">" that ends a tag: quotes count only after "=". Possessive, so that it takes linear time.
_TAG_END = re.compile(rb"(?:[^>=]++|=\s*+(?:\"[^\"]*+\"|'[^']*+')?+)*+>")
_SEPARATOR = re.compile(rb"[\s/\"']")
_RAW = re.compile(rb"</(script|style|textarea|title|xmp|iframe|noframes|noembed)\b", re.IGNORECASE)
_RAW_NAMES = frozenset((b"script", b"style", b"textarea", b"title", b"xmp", b"iframe", b"noframes", b"noembed"))
# Elements that hold nothing, or that the next of their kind closes: they do not nest.
_FLAT = frozenset(
    {
        *(b"area", b"base", b"br", b"col", b"embed", b"hr", b"img", b"input", b"link", b"meta", b"param", b"source"),
        *(b"track", b"wbr", b"p", b"li", b"dt", b"dd", b"option", b"optgroup", b"tr", b"td", b"th", b"thead", b"tbody"),
        *(b"tfoot", b"colgroup", b"rp", b"rt", b"rb", b"rtc", b"html", b"head", b"body"),
    }
)
# Opened again after each block that closes over them; of a and nobr there is only ever one.
_FORMATTING = frozenset(
    (b"b", b"big", b"code", b"em", b"font", b"i", b"s", b"small", b"strike", b"strong", b"tt", b"u")
)
_FORMATTING_TAG = re.compile(rb"<(?:b|big|code|em|font|i|s|small|strike|strong|tt|u)[\s/>]", re.IGNORECASE)


class BadPage(ValueError):
    """The page cannot be read; `reason` is what the manifest counts it under: too_complex."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


def check_complexity(html: bytes) -> None:
    """Raise BadPage('too_complex') where a tree of the page's tags could not be built in fair time and memory.

    The tags are read as a tokenizer reads them (comments and scripts are skipped), their nesting simply: an end tag
    closes an open element of its own name. That counts pages of sloppy markup as deeper than they are. Most pages need
    no such reading: they have too few tags to be complex.
    """
    wide = _has_long_run(html)
    count = int(np.count_nonzero(np.frombuffer(html, np.uint8) == _LESS_THAN))
    opened = count if count <= MAX_DEPTH else count - html.count(b"</")
    if not wide and opened <= MAX_DEPTH and _formatting(html, count) * count <= MAX_REOPENED:
        return
    is_open: Counter[bytes] = Counter()
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


def _has_long_run(html: bytes) -> bool:
    """Whether 2 x MAX_ATTRIBUTES bytes have no ">" among them: such a run covers a whole block of half its length."""
    for at in range(0, len(html) - MAX_ATTRIBUTES, MAX_ATTRIBUTES):
        if html.find(b">", at, at + MAX_ATTRIBUTES) < 0:
            end = html.find(b">", at)
            if (end if end >= 0 else len(html)) - html.rfind(b">", 0, at) > 2 * MAX_ATTRIBUTES:
                return True
    return False


def _formatting(html: bytes, count: int) -> int:
    """Formatting elements that may be open at once; no more than MAX_REOPENED allows need no counting."""
    return count if count * count <= MAX_REOPENED else sum(1 for _ in _FORMATTING_TAG.finditer(html))


def _tags(html: bytes) -> Iterator[tuple[bytes, bool, int, int]]:
    """(name, whether it is an end tag, where it starts, where it ends) of each tag."""
    at = 0
    while (at := html.find(b"<", at)) >= 0:
        if html.startswith(b"<!--", at):
            end = html.find(b"-->", at + 2)
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


def _raw_end(html: bytes, at: int, name: bytes) -> int:
    """Where the text of a raw element ends: at its end tag, else at the end of the page."""
    for closer in _RAW.finditer(html, at):
        if closer[1].lower() == name:
            return closer.start()
    return len(html)
