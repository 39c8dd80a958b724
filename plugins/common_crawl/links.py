"""The links of a WAT record in compiled code: finds the images in the JSON, and resolves their references.

What is unusual in a text is left to Python: the results are those of `dataops.web.urls.Resolver` and
`dataops.web.captions.normalise_caption` for each reference and caption.
"""

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dataops.kernels.characters import ASSIGNED, next_code
from dataops.kernels.compiled import compiled, load_or_build
from dataops.web.captions import normalise_caption
from dataops.web.page_pairs import MAX_IMAGES
from dataops.web.urls import MAX_DATA_URL_CHARS, Resolver

_SHORTEST = len('{"path":"IMG@/src"},')
_NAMES = b"path", b"rel", b"url", b"alt", b"title"
_KEY_LENGTHS = tuple(map(len, _NAMES))
# Keys and the quotes behind them as numbers, and the bits that they take of what _word returns.
_KEYS = tuple(int.from_bytes(name + b'"', "little") for name in _NAMES)
_KEY_MASKS = tuple((1 << 8 * length + 8) - 1 for length in _KEY_LENGTHS)
# Short texts as numbers, as _number returns them.
_HTTP, _AUTHORITY, _DATA = (int.from_bytes(b"\1" + text, "big") for text in (b"http", b"://", b"data:"))
_IMAGE = int.from_bytes(b"IMG@/src", "big")
_LOW, _HIGH = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
_QUOTES, _BACKSLASHES = _LOW * np.uint64(ord('"')), _LOW * np.uint64(ord("\\"))
_LICENSE = np.frombuffer(b"license", np.uint8)
_NO_TEXT = -1
_ABSOLUTE, _NO_PREFIX, _DATA_PREFIX = -1, -2, -3
PLAIN, DATA, OTHER = 0, 1, 2
"""Kinds of references: resolved; `data:`, truncated; for Python to resolve."""

_HOST, _SEGMENT, _QUERY = 1, 2, 4
_CLASSES = np.zeros(256, np.uint8)
"""Characters of hosts and of URLs that need no parsing, as in the regular expressions of dataops.web.urls."""
for _class, _characters in (
    (_HOST | _SEGMENT | _QUERY, b"abcdefghijklmnopqrstuvwxyz0123456789_-"),
    (_SEGMENT | _QUERY, b"ABCDEFGHIJKLMNOPQRSTUVWXYZ!$%&'()*+,.:=@~"),
    (_QUERY, b"/;?[]|"),
):
    _CLASSES[np.frombuffer(_characters, np.uint8)] = _class


class PageLinks(NamedTuple):
    """The links of one page."""

    text: bytes
    """UTF-8 of reference, alt and title of each image, one after the other."""
    ends: NDArray[np.int64]
    """(3 * images,): where each of these texts ends."""
    images: int
    """Number of all images; those beyond MAX_IMAGES are not in `text`."""
    has_license: bool
    """Whether another link may declare a licence."""


def scan_links(json: bytes | memoryview, *, strict: bool = True) -> PageLinks | None:
    """Return the links of a JSON array of objects; None if it is no such array, or has unusable values.

    Args:
        json: syntactically valid, but its strings may be no Unicode.
        strict: whether a lone surrogate is unusable.
    """
    data = np.frombuffer(json, np.uint8)
    text, ends = np.empty(len(data), np.uint8), np.empty(3 * min(len(data) // _SHORTEST + 1, MAX_IMAGES), np.int64)
    images, has_license = _scan(data, strict, text, ends)
    if images < 0:
        return None
    ends = ends[: 3 * images].copy()
    return PageLinks(text[: ends[-1] if images else 0].tobytes(), ends, images, has_license)


class ImageTexts(NamedTuple):
    """The n images of several pages."""

    pages: NDArray[np.int32]
    """(n,): index of each image's page."""
    text: NDArray[np.uint8]
    bounds: NDArray[np.int64]
    """(3n + 1,): bounds in `text` of reference, alt and title of each image."""

    def read(self, i: int) -> str:
        """Return a text by its index in `bounds`."""
        return bytes(self.text[self.bounds[i] : self.bounds[i + 1]]).decode("utf-8", "surrogatepass")


def join_links(links: Sequence[PageLinks]) -> ImageTexts:
    """Return the images of several pages, in their order."""
    sizes, counts = np.array([(len(one.text), len(one.ends)) for one in links]).T
    ends = np.concatenate([one.ends for one in links]) + np.repeat(np.cumsum(sizes) - sizes, counts)
    pages = np.repeat(np.arange(len(links), dtype=np.int32), counts // 3)
    return ImageTexts(
        pages, np.frombuffer(b"".join([one.text for one in links]), np.uint8), np.concatenate(([0], ends))
    )


def resolve_references(
    images: ImageTexts, resolvers: Sequence[Resolver]
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8]]:
    """Return UTF-8 of the URLs that need no parsing, their bounds (n + 1,), and the kind of each reference (n,).

    Args:
        resolvers: that of each page.
    """
    prefixes = [prefix.encode() for resolver in resolvers for prefix in resolver.prefixes[2:]]
    lengths = np.array([*map(len, prefixes)])
    size = len(images.text) + int(lengths.reshape(-1, 3).max(axis=1)[images.pages].sum())
    urls, bounds = np.empty(size, np.uint8), np.zeros(len(images.pages) + 1, np.int64)
    kinds = np.empty(len(images.pages), np.uint8)
    ends = np.cumsum(lengths)
    data = np.frombuffer(b"".join(prefixes), np.uint8)
    _resolve(images.text, images.bounds, images.pages, data, ends, resolvers[0].max_chars, urls, bounds, kinds)
    return urls, bounds, kinds


def normalise_captions(images: ImageTexts, max_chars: int) -> tuple[NDArray[np.int64], list[str]]:
    """Return which alts and titles normalisation may change, as indices in `bounds`, and their normalised texts."""
    unusual = np.zeros(len(images.bounds) - 1, np.bool_)
    _find_unusual(images.text, images.bounds, _plain_characters(), max_chars, unusual)
    found = np.flatnonzero(unusual)
    return found, [normalise_caption(images.read(i), max_chars) for i in found.tolist()]


@lru_cache(maxsize=1)
def _plain_characters() -> NDArray[np.bool_]:
    """Return whether texts of each code point are unchanged by normalisation, whatever is next to it (0x110000,).

    Source: Unicode Standard Annex 15, section 9 (NFC_Quick_Check is Yes, and the combining class is 0).
    """
    return load_or_build("plain_characters", (Path(__file__),), _build)["plain"]


def _build() -> dict[str, NDArray[np.bool_]]:
    codes = [*chain(*ASSIGNED)]
    canonical = [
        parts.split() for parts in map(unicodedata.decomposition, map(chr, codes)) if parts[:1] not in ("", "<")
    ]
    following = {int(parts[1], 16) for parts in canonical if len(parts) == 2} | {*range(0x1161, 0x11C3)}
    plain = np.zeros(0x110000, np.bool_)
    for code in codes:
        text = chr(code)
        plain[code] = text.isprintable() and not unicodedata.combining(text) and unicodedata.is_normalized("NFC", text)
    plain[[*following]] = False
    return {"plain": plain}


@compiled(inline="always")
def _byte(data, at):
    """Return a byte; for a signed index, numba would also handle a negative one."""
    return data[np.uint64(at)]


@compiled(inline="always")
def _skip_space(data, at):
    """Return the position of the next byte of the JSON that is no white space, at most the last one."""
    last = len(data) - 1
    while at < last and _byte(data, at) <= ord(" "):
        at += 1
    return min(at, last)


@compiled(inline="always")
def _zero_bytes(word):
    """Return a number whose lowest bit is in the first byte that is 0; 0 if there is none."""
    return (word - _LOW) & ~word & _HIGH


@compiled(inline="always")
def _word(data, at):
    """Return eight bytes as a little-endian number."""
    word, first = np.uint64(0), np.uint64(at)
    for i in range(8):
        word |= np.uint64(data[first + np.uint64(i)]) << np.uint64(8 * i)
    return word


@compiled(nogil=True)
def _string_end(data, at):
    """Return the position of the quote that ends the string whose content begins at a position."""
    last = len(data) - 1
    while at + 8 <= last:
        word = _word(data, at)
        found = _zero_bytes(word ^ _QUOTES) | _zero_bytes(word ^ _BACKSLASHES)
        if not found:
            at += 8
            continue
        found &= ~found + np.uint64(1)
        at += np.int64(((found >> np.uint64(7)) * np.uint64(0x0001020304050607)) >> np.uint64(56))
        if _byte(data, at) == ord('"'):
            return at
        at += 2
    while at < last and data[at] != ord('"'):
        at += 2 if data[at] == ord("\\") else 1
    return min(at, last)


@compiled(nogil=True)
def _value_end(data, at):
    """Return the position of what follows a value that is no string: a comma or a closing bracket."""
    depth = 0
    while at < len(data) - 1:
        byte = data[at]
        if byte == ord('"'):
            at = _string_end(data, at + 1)
        elif byte == ord("[") or byte == ord("{"):
            depth += 1
        elif depth and (byte == ord("]") or byte == ord("}")):
            depth -= 1
        elif not depth and (byte == ord(",") or byte == ord("]") or byte == ord("}")):
            return at
        at += 1
    return min(at, len(data) - 1)


@compiled(inline="always")
def _number(data, at, end):
    """Return up to eight bytes after a byte of 1 as a big-endian number, of 64 bits; 0 for more bytes."""
    number = np.uint64(end - at <= 8)
    if number:
        for i in range(at, end):
            number = (number << np.uint64(8)) | np.uint64(data[i])
    return number


@compiled(inline="always")
def _is_escaped(data, at, end):
    """Return whether a name may be one that matters, with an escape: these have at least eight characters."""
    found = False
    if end - at > 7:
        for i in range(at, end):
            found |= data[i] == ord("\\")
    return found


@compiled(nogil=True)
def _may_be_license(data, at, end):
    """Return whether a relation contains `license`, or is escaped."""
    for i in range(at, end - 6):
        same = 0
        while same < 7 and data[i + same] | 0x20 == _LICENSE[same]:
            same += 1
        if same == 7:
            return True
    return _is_escaped(data, at, end)


@compiled(nogil=True)
def _scan(data, strict, text, ends):
    """Write the texts of the images; return their number or _NO_TEXT, and whether a licence may be there."""
    images, used, has_license = 0, 0, False
    spans = np.empty((5, 2), np.int64)  # of path, rel, url, alt, title: their content, or (-1, 0) if it is no string
    at = _skip_space(data, 0)
    if len(data) < 2 or data[at] != ord("["):
        return _NO_TEXT, False
    at = _skip_space(data, at + 1)
    while data[at] != ord("]"):
        if data[at] != ord("{"):
            return _NO_TEXT, False
        at = _read_link(data, at, spans)
        if at < 0 or spans[0, 0] < 0 or spans[1, 0] < 0:
            return _NO_TEXT, False
        if _number(data, spans[0, 0], spans[0, 1]) == np.uint64(_IMAGE):
            images += 1
            for i in range(2, 5):
                if spans[i, 0] < 0:
                    return _NO_TEXT, False
                if 3 * images <= len(ends):
                    used = _copy_string(data, spans[i, 0], spans[i, 1], strict, text, used)
                    if used < 0:
                        return _NO_TEXT, False
                    ends[3 * images + i - 5] = used
        elif _is_escaped(data, spans[0, 0], spans[0, 1]):
            return _NO_TEXT, False
        else:
            has_license |= _may_be_license(data, spans[1, 0], spans[1, 1])
    return images, has_license


@compiled(nogil=True)
def _read_link(data, at, spans):
    """Write the spans of a link's values; return the position of the next link or the end, or _NO_TEXT."""
    spans[:] = 0
    at = _skip_space(data, at + 1)
    while _byte(data, at) != ord("}"):
        if _byte(data, at) != ord('"'):
            return _NO_TEXT
        which, end = -1, at
        if at + 9 <= len(data):  # what follows a key in JSON is longer
            word = _word(data, at + 1)
            for i in range(5):
                if word & np.uint64(_KEY_MASKS[i]) == np.uint64(_KEYS[i]):
                    which, end = i, at + 1 + _KEY_LENGTHS[i]
        if which < 0:
            end = _string_end(data, at + 1)
            if _is_escaped(data, at + 1, end):
                return _NO_TEXT
        at = _skip_space(data, end + 1)
        if _byte(data, at) != ord(":"):
            return _NO_TEXT
        at = _skip_space(data, at + 1)
        if _byte(data, at) == ord('"'):
            start, at = at + 1, _string_end(data, at + 1)
            if which >= 0:
                spans[which, 0], spans[which, 1] = start, at
            at = _skip_space(data, at + 1)
        else:
            if which >= 0:
                spans[which, 0] = -1
            at = _value_end(data, at)
        if _byte(data, at) == ord(","):
            at = _skip_space(data, at + 1)
        elif _byte(data, at) != ord("}"):
            return _NO_TEXT
    at = _skip_space(data, at + 1)
    return _skip_space(data, at + 1) if _byte(data, at) == ord(",") else at


@compiled(nogil=True)
def _copy_string(data, at, end, strict, text, used):
    """Write the content of a JSON string without its escapes; return where it ends, or _NO_TEXT if it is no Unicode."""
    while at < end:
        code = np.int64(data[at])
        at += 1
        if code == ord("\\"):
            code, at = _read_escape(data, at, end)
        elif code >= 0x80:
            code, at = _read_character(data, at - 1, end)
        elif code < 0x20:
            return _NO_TEXT
        if code < 0 or (strict and 0xD800 <= code < 0xE000):
            return _NO_TEXT
        if code < 0x80:
            text[used] = code
            used += 1
            continue
        more = 1 if code < 0x800 else 2 if code < 0x10000 else 3
        text[used] = (0xFF00 >> (more + 1)) & 0xFF | code >> 6 * more
        for i in range(more):
            text[used + 1 + i] = 0x80 | (code >> 6 * (more - 1 - i)) & 0x3F
        used += more + 1
    return used


@compiled(nogil=True)
def _read_character(data, at, end):
    """Return the code point of UTF-8 at a position, _NO_TEXT if it is none, and the position after it."""
    first = np.int64(data[at])
    more = 1 if first < 0xE0 else 2 if first < 0xF0 else 3
    if first < 0xC2 or first > 0xF4 or at + more >= end:
        return _NO_TEXT, at
    code = first & (0x3F >> more)
    for i in range(at + 1, at + more + 1):
        if data[i] & 0xC0 != 0x80:
            return _NO_TEXT, at
        code = code << 6 | np.int64(data[i]) & 0x3F
    is_short = (more == 2 and code < 0x800) or (more == 3 and code < 0x10000)
    return _NO_TEXT if is_short or code > 0x10FFFF else code, at + more + 1


@compiled(nogil=True)
def _read_escape(data, at, end):
    """Return the code point of an escape whose letter is at a position, else _NO_TEXT, and the position after it."""
    letter = data[at]
    at += 1
    if letter == ord("u"):
        code = _read_hex(data, at, end)
        at += 4
        if 0xD800 <= code < 0xDC00 and at + 6 <= end and data[at] == ord("\\") and data[at + 1] == ord("u"):
            low = _read_hex(data, at + 2, end)
            if 0xDC00 <= low < 0xE000:
                return 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00), at + 6
        return code, at
    if letter == ord('"') or letter == ord("\\") or letter == ord("/"):
        return np.int64(letter), at
    code = _NO_TEXT
    for name, value in ((ord("n"), 10), (ord("t"), 9), (ord("r"), 13), (ord("b"), 8), (ord("f"), 12)):
        if letter == name:
            code = value
    return code, at


@compiled(nogil=True)
def _read_hex(data, at, end):
    """Return the number of four hex digits; _NO_TEXT if they are none."""
    if at + 4 > end:
        return _NO_TEXT
    code = 0
    for i in range(at, at + 4):
        digit = np.int64(data[i])
        if ord("0") <= digit <= ord("9"):
            code = code << 4 | digit - ord("0")
        elif ord("a") <= digit | 0x20 <= ord("f"):
            code = code << 4 | (digit | 0x20) - ord("a") + 10
        else:
            return _NO_TEXT
    return code


@compiled(nogil=True)
def _resolve(text, bounds, pages, prefixes, prefix_ends, longest, urls, url_bounds, kinds):
    for i in range(len(pages)):
        at, end = bounds[3 * i], bounds[3 * i + 1]
        start = used = url_bounds[i]
        kinds[i] = kind = OTHER
        prefix = _find_prefix(text, at, end)
        if prefix == _DATA_PREFIX:
            kind, end = DATA, min(end, at + MAX_DATA_URL_CHARS)
            for j in range(at, end):
                if not 0x20 < text[j] < 0x7F:
                    kind = OTHER
        elif prefix >= 0:
            which = 3 * pages[i] + prefix
            for j in range(prefix_ends[which - 1] if which else 0, prefix_ends[which]):
                urls[used] = prefixes[j]
                used += 1
        if prefix != _NO_PREFIX:
            for j in range(at, end):
                urls[used] = text[j]
                used += 1
            if prefix != _DATA_PREFIX and used - start <= longest and _is_canonical(urls, start, used):
                kind = PLAIN
            kinds[i] = kind
        url_bounds[i + 1] = used if kind != OTHER else start


@compiled(nogil=True)
def _find_prefix(text, at, end):
    """Return the index of the prefix of a reference: scheme, root, folder; else a constant."""
    size = end - at
    if size == 0:  # nothing is at this position
        return _NO_PREFIX
    first = text[at]
    if first == ord(".") or first == ord("?") or first == ord("#"):
        return _NO_PREFIX
    if size >= 4 and _number(text, at, at + 4) == np.uint64(_HTTP):
        return _ABSOLUTE
    if first == ord("/"):
        return 0 if size > 1 and text[at + 1] == ord("/") else 1
    if size >= 5 and _number(text, at, at + 5) == np.uint64(_DATA):
        return _DATA_PREFIX
    for i in range(at, end):
        if text[i] == ord(":"):
            return _NO_PREFIX
    return 2


@compiled(nogil=True)
def _is_canonical(url, at, end):
    """Return whether a URL matches the first alternative of the pattern of plain references in dataops.web.urls."""
    if end - at < 9 or _number(url, at, at + 4) != np.uint64(_HTTP):
        return False
    at += 5 if url[at + 4] == ord("s") else 4
    if _number(url, at, at + 3) != np.uint64(_AUTHORITY):
        return False
    at += 3
    for label in range(5):
        start = at
        while at < end and _CLASSES[url[at]] & _HOST:
            at += 1
        if label == 4 or at == end or not 0 < at - start < 63:
            return False
        if url[at] != ord("."):
            break
        at += 1
    if url[at] != ord("/"):
        return False
    while at < end and url[at] != ord("?"):
        if url[at] == ord("/"):
            if at + 1 < end and url[at + 1] == ord("."):
                return False
            if at + 2 < end and url[at + 1] == ord("%") and url[at + 2] == ord("2"):
                return False
        elif not _CLASSES[url[at]] & _SEGMENT:
            return False
        at += 1
    if at == end - 1:
        return False
    is_allowed = True
    for i in range(at + 1, end):
        is_allowed &= _CLASSES[url[i]] & _QUERY != 0
    return is_allowed


@compiled(nogil=True)
def _find_unusual(text, bounds, plain, max_chars, unusual):
    """Note the captions that normalisation may change."""
    for i in range(len(unusual)):
        at, end, chars, last, same = bounds[i], bounds[i + 1], 0, np.uint32(ord(" ")), True
        if i % 3 == 0 or at == end:
            continue
        while at < end:
            code, at = next_code(text, at)
            same &= plain[code] and (code != ord(" ") or last != ord(" "))
            last = code
            chars += 1
        unusual[i] = not same or last == ord(" ") or chars > max_chars
