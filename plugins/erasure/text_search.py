"""Search bytes for many strings and image digests at once, and overwrite what was found without changing a size.

A string is found in each encoding in which pages, JSON and Markdown write it. Each encoded string has an anchor: its last
bytes. The windows of the data are hashed into a table of all anchors, and only windows in the table are compared, so the
time does not depend on the number of strings.
"""

import base64
import binascii
import hashlib
import html
import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from dataops.escaping import escape_markdown
from plugins.erasure.places import find_quotes, is_text
from tasks.takedown.holders import What

MIN_TEXT_CHARS, MIN_TEXT_WORDS = 20, 3
"""A caption with fewer characters or words is found only where it is the whole of a string."""
PREFIX_CHARS = 100
"""Number of characters of a long caption that are searched for: reports cut captions at 200."""
WIDTHS = (8, 4)
"""Lengths of anchors, in bytes; a string shorter than the last is not searched for."""
TABLE_BITS = 22
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_DATA_URL = re.compile(rb"base64,([A-Za-z0-9+/]{40,}={0,2})")
_URL_CONTINUES = re.compile(rb"[A-Za-z0-9_~%/?=#@+-]|[.,;:!](?=\w)|&(?!quot;|#34;|#39;|#x27;|lt;|gt;)")
_WORD = re.compile(rb"\w")
_SAFE_IN_PAGES = str.maketrans({sign: f"\\u{ord(sign):04x}" for sign in "<>&'"})
"""How Jinja writes these signs in JSON."""
_HAS_WORDS = re.compile(r"evaluat|predictions|metrics|tokenizer|vocab|merges\.txt")
"""Paths of files with names of classes, or with the vocabulary of a model."""
_NAME = re.compile(r"[a-z0-9][a-z0-9_.%-]*")
BESIDE = 1000
"""Maximum distance in bytes between an image or a URL and a caption that may be a name."""
_BEFORE_WHOLE, _AFTER_WHOLE = frozenset(b">\"'`|\n\t(:"), frozenset(b"<\"'`|\n\t)\\")


class Span(NamedTuple):
    """Something that was found, from one byte to another."""

    what: What
    start: int
    end: int
    filler: bytes = b"-"


class _Needle(NamedTuple):
    data: bytes
    what: What
    is_whole: bool
    """It is found only as the whole of a string."""
    is_name: bool
    """It may also be a name in a file of a program, and is found only in pages, beside an image or a URL."""
    rest: bytes | None = None
    """What follows in the caption of which this is the beginning; None if it is all of a caption or URL."""


class TextSearch:
    """Strings and image digests to search for.

    Args:
        images: size of each image in bytes by its sha256; a negative size matches any.
    """

    def __init__(self, urls: Iterable[str], captions: Iterable[str], images: Mapping[str, int]):
        self._images, self._sizes, self._captions = images, frozenset(images.values()), frozenset(captions)
        self._needles: dict[int, dict[int, list[_Needle]]] = {width: {} for width in WIDTHS}
        self.longest = 0
        for url in urls:
            self._add(url, "URL")
        for caption in self._captions:
            self._add(caption, "caption", is_whole=is_short(caption), is_name=may_be_name(caption))
            if len(caption) > PREFIX_CHARS:
                for data, whole in zip(encodings(caption[:PREFIX_CHARS].rstrip()), encodings(caption), strict=True):
                    if whole.startswith(data):
                        self._add_needle(
                            _Needle(data, "caption", is_whole=False, is_name=False, rest=whole[len(data) :])
                        )
        self._anchors = {width: np.array(sorted(found), np.uint64) for width, found in self._needles.items()}
        self._tables = {width: _build_table(anchors) for width, anchors in self._anchors.items()}

    def _add(self, string: str, what: What, *, is_whole: bool = False, is_name: bool = False) -> None:
        for data in {*encodings(string)}:
            self._add_needle(_Needle(data, what, is_whole, is_name))

    def _add_needle(self, needle: _Needle) -> None:
        width = next((width for width in WIDTHS if len(needle.data) >= width), None)
        if width is not None:
            self._needles[width].setdefault(int.from_bytes(needle.data[-width:], "little"), []).append(needle)
            self.longest = max(self.longest, len(needle.data) + len(needle.rest or b""))

    def is_image(self, data: bytes | memoryview) -> bool:
        """Return whether these are the bytes of an image."""
        if len(data) not in self._sizes and -1 not in self._sizes:
            return False
        return hashlib.sha256(data).hexdigest() in self._images

    def find(self, data: bytes, name: str = "") -> list[Span]:
        """Return what the data holds of the strings, and of the images as data URLs.

        Args:
            name: path of the file; "" for a value that quotes pairs. A short caption is found only in values, pages and
                logs, and in other files beside an image or a URL: there it may be a name of a program. On pages of
                evaluations it may be the name of a class, and in vocabularies a token: it is not found there.
        """
        skips_short, is_quoting = bool(_HAS_WORDS.search(name)), not name or is_text(name)
        names = list[Span]()
        found = [Span("image", *match.span(1), b"A") for match in _DATA_URL.finditer(data) if self._encodes(match[1])]
        for width in WIDTHS:
            for end, anchor in self._find_anchors(data, width):
                for needle in self._needles[width][anchor]:
                    start = end - len(needle.data)
                    if needle.is_whole and (skips_short or (needle.is_name and not name)):
                        continue
                    spans = names if needle.is_name or (needle.is_whole and not is_quoting) else found
                    if start >= 0 and data.startswith(needle.data, start) and _is_bounded(data, start, end, needle):
                        more = _count_equal(data, end, needle.rest) if needle.rest else 0
                        spans.append(Span(needle.what, start, end + more))
        spans = _without_overlaps([*found, *_select_beside(names, found)])
        return _select_within(spans, find_quotes(data, name)) if spans and is_text(name) else spans

    def redact(self, data: bytes, name: str = "") -> bytes:
        """Return a page, a log or a value with everything that `find` returns overwritten; it has the same size."""
        changed = bytearray(data)
        for span in self.find(data, name):
            changed[span.start : span.end] = span.filler * (span.end - span.start)
        return bytes(changed)

    def find_in_value(self, value: str) -> list[Span]:
        """Return what a string of a record that quotes pairs holds; a whole caption is found however short it is."""
        data = value.encode("utf-8", "surrogatepass")
        return [Span("caption", 0, len(data))] if value in self._captions else self.find(data)

    def redact_value(self, value: str) -> str:
        """Return a string of a record with everything that `find_in_value` returns overwritten."""
        if value in self._captions:
            return "-" * len(value)
        data = value.encode("utf-8", "surrogatepass")
        new = self.redact(data)
        return value if new == data else new.decode("utf-8", "replace")

    def _encodes(self, text: bytes) -> bool:
        try:
            return self.is_image(base64.b64decode(text, validate=True))
        except binascii.Error:
            return False

    def _find_anchors(self, data: bytes, width: int) -> Iterator[tuple[int, int]]:
        """Yield the end of each window that is an anchor, and the anchor."""
        anchors, table = self._anchors[width], self._tables[width]
        if not len(anchors):
            return
        for shift in range(min(width, max(len(data) - width + 1, 0))):
            windows = np.frombuffer(data, f"<u{width}", (len(data) - shift) // width, shift).astype(
                np.uint64, copy=False
            )
            places = np.flatnonzero(table[_hash(windows)])
            if len(places):
                places = places[np.isin(windows[places], anchors)]
            for place, value in zip(places.tolist(), windows[places].tolist(), strict=True):
                yield shift + (place + 1) * width, value


def _hash(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return (values * _MULTIPLIER) >> np.uint64(64 - TABLE_BITS)


def _build_table(anchors: NDArray[np.uint64]) -> NDArray[np.bool_]:
    table = np.zeros(1 << TABLE_BITS if len(anchors) else 1, bool)
    if len(anchors):
        table[_hash(anchors)] = True
    return table


def is_short(caption: str) -> bool:
    """Return whether a caption is so short that other texts may have it by chance."""
    return len(caption) < MIN_TEXT_CHARS or len(caption.split()) < MIN_TEXT_WORDS


def may_be_name(caption: str) -> bool:
    """Return whether a caption may also be a name in a file of a program, such as that of a stage in a manifest."""
    return is_short(caption) and bool(_NAME.fullmatch(caption))


def encodings(string: str) -> list[bytes]:
    """Return the bytes of a string as it is in text, HTML, JSON, Markdown and the query of a URL."""
    escaped = html.escape(string)
    forms = [
        *(string, escaped, html.escape(string, quote=False), escape_markdown(string)),
        escaped.replace("&quot;", "&#34;").replace("&#x27;", "&#39;"),  # as Jinja writes it
        *(json.dumps(form, ensure_ascii=ascii)[1:-1] for form in (string, escaped) for ascii in (True, False)),
        json.dumps(string)[1:-1].translate(_SAFE_IN_PAGES),
        *(quote(string, safe=safe, errors="replace") for safe in ("", "/", "/:")),
    ]
    return [form.encode("utf-8", "surrogatepass") for form in forms]


def _count_equal(data: bytes, at: int, rest: bytes) -> int:
    """Return the number of bytes of the data from a place on that are those of the rest of a caption."""
    there = data[at : at + len(rest)]
    return next(
        (number for number, pair in enumerate(zip(there, rest, strict=False)) if pair[0] != pair[1]), len(there)
    )


def _select_beside(names: Sequence[Span], found: Sequence[Span]) -> list[Span]:
    """Return the spans that are at most BESIDE bytes from an image or a URL."""
    anchors = _without_overlaps([span for span in found if span.what in ("image", "URL")])
    starts = [span.start for span in anchors]
    before = ((name, bisect_right(starts, name.end + BESIDE)) for name in names)
    return [name for name, number in before if number and anchors[number - 1].end >= name.start - BESIDE]


def _select_within(spans: Sequence[Span], ranges: Sequence[tuple[int, int]]) -> list[Span]:
    """Return the spans that lie in one of the ranges, which are in the order of their starts."""
    starts = [start for start, _ in ranges]
    before = ((span, bisect_right(starts, span.start)) for span in spans)
    return [span for span, number in before if number and span.end <= ranges[number - 1][1]]


def _without_overlaps(spans: list[Span]) -> list[Span]:
    """Return the spans without those that lie in another one of the same kind."""
    kept: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        if not any(span.what == other.what and span.end <= other.end for other in kept[-4:]):
            kept.append(span)
    return kept


def _is_bounded(data: bytes, start: int, end: int, needle: _Needle) -> bool:
    """Return whether a needle at this place is not a part of a longer URL or word, or of a longer string."""
    if needle.is_whole:
        before, after = data[max(start - 16, 0) : start].rstrip(b" "), data[end : end + 16].lstrip(b" ")
        return (not before or before[-1] in _BEFORE_WHOLE) and (not after or after[0] in _AFTER_WHOLE)
    if needle.what == "URL":
        return not _URL_CONTINUES.match(data, end)
    return not _WORD.match(data[start - 1 : start]) and (needle.rest is not None or not _WORD.match(data, end))
