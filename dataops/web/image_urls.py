"""Chooses one URL for an `<img>` that has several: lazy loading, `srcset`, `<picture>`.

The chosen URL is that of the largest image in a format that the pipeline decodes. If there are
lazy-load attributes, they replace `src` and `srcset`, which then hold a placeholder.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import NamedTuple

_SPACE = "\t\n\f\r "
_URL = re.compile(rf"[{_SPACE},]*+([^{_SPACE}]+)")
# Matches up to the comma that ends a candidate; commas in parentheses, closed or not, do not end it.
_DESCRIPTORS = re.compile(r"((?:[^,(]++|\([^)]*+\)?+)*+),?")
_TOKEN = re.compile(rf"(?:[^{_SPACE}(]++|\([^)]*+\)?+)+")
_DESCRIPTOR = re.compile(r"(\d{1,9})([wh])|(-?(?:\d{1,9}(?:\.\d{1,20})?|\.\d{1,20})(?:[eE][+-]?\d{1,2})?)x")

# Matches a candidate with one integer of `w` or `x`, as nearly all have; at the first other candidate, all the rest.
_PLAIN = re.compile(
    rf"[{_SPACE},]*+([^{_SPACE}]++)(?<!,)[{_SPACE}]++(?:([1-9]\d{{0,8}})w|(\d{{1,9}})x)[{_SPACE}]*+(?:,|\Z)|(.++)",
    re.DOTALL,
)


SrcsetCandidate = tuple[str, int, float, int | None]
"""A URL with its declared size: width in pixels (`w`; 0 if missing), image pixels per layout pixel (`x`; 1 if missing),
height in pixels (`h`, which browsers parse and ignore)."""


def parse_srcset(text: str) -> list[SrcsetCandidate]:
    """Return the candidates of a srcset in their order, without those with invalid descriptors.

    A URL may contain commas: only a comma at its end, or after its descriptors, ends a candidate.

    Source: the HTML Standard, section 4.8.4.3.10 (parsing a srcset attribute). Unlike there, numbers with more digits than
    any image needs are invalid.
    """
    found: list[SrcsetCandidate] = []
    for url, width, density, rest in _PLAIN.findall(text):
        if width:
            found.append((url, int(width), 1.0, None))
        elif density:
            found.append((url, 0, float(density), None))
        else:
            found += _candidates(rest)
    return found


def _candidates(text: str) -> Iterator[SrcsetCandidate]:
    at = 0
    while url := _URL.match(text, at):
        at = url.end()
        if url[1].endswith(","):
            candidate = url[1].rstrip(","), 0, 1.0, None
        else:
            descriptors = _DESCRIPTORS.match(text, at)
            assert descriptors is not None  # the pattern also matches the empty string
            at = descriptors.end()
            candidate = _parse_descriptors(url[1], _TOKEN.findall(descriptors[1]))
        if candidate:
            yield candidate


def _parse_descriptors(url: str, descriptors: list[str]) -> SrcsetCandidate | None:
    width = height = density = None
    for descriptor in descriptors:
        match = _DESCRIPTOR.fullmatch(descriptor)
        if not match:
            return None
        if match[3]:
            density, repeated = float(match[3]), density is not None
            repeated = repeated or density < 0
        elif match[2] == "w":
            width, repeated = int(match[1]), width is not None
        else:
            height, repeated = int(match[1]), height is not None
        if repeated or width == 0 or height == 0:
            return None
    if (density is not None and (width or height)) or (height and not width):
        return None
    return url, width or 0, 1.0 if density is None else density, height


Attributes = Mapping[str, str | None]

LAZY_SRC = (
    "data-src",  # lazysizes, lozad, vanilla-lazyload, yall
    "data-lazy-src",  # WP Rocket, Jetpack
    "data-original",  # jquery.lazyload
    "data-orig-src",  # Avada
    "data-lazy",  # slick
    "data-lazyload",
    "data-lazy-load",
    "data-lazysrc",
    "data-src-lazy",
    "data-lsrc",
    "data-ll-src",
    "data-echo",  # echo.js
    "data-cfsrc",  # Cloudflare Mirage
    "data-ezsrc",  # Ezoic
    "data-pagespeed-lazy-src",  # mod_pagespeed
    "data-nitro-lazy-src",  # NitroPack
    "data-litespeed-src",
    "data-breeze",
    "data-gt-lazy-src",
    "data-flickity-lazyload",
    "data-flickity-lazyload-src",
    "data-zeen-src",
    "data-defer-src",
    "data-delayed-url",
    "data-actualsrc",  # Zhihu
    "data-image-src",
    "data-img-src",
    "data-img-url",  # tagDiv
    "data-dejavu-src",
    "data-inpl-lazy",
    "data-origin",
    "data-swap",
    "data-js-navslider-src",
    "data-src-large",
    "data-src-big",
    "data-src-medium",
    "data-src-small",
    "data-real-src",
    "data-original-src",
    "lazy-src",
    "lazysrc",
    "lazyload",
)
"""Attributes from which scripts load the image later, in order of preference, with the script if it is known. Attributes
with a general name (data-image, data-url) are not in the list."""
LAZY_SRCSET = (
    "data-srcset",
    "data-lazy-srcset",
    "data-original-set",
    "data-orig-srcset",
    "data-lazyload-srcset",
    "data-ezsrcset",
    "data-cfsrcset",
    "data-pagespeed-lazy-srcset",
    "data-nitro-lazy-srcset",
    "data-gt-lazy-srcset",
    "data-flickity-lazyload-srcset",
    "data-zeen-srcset",
    "data-dejavu-srcset",
    "lazy-srcset",
)
MAX_CANDIDATES = 200
"""Maximum number of URLs of one srcset that are compared."""

_LAZY = {name: rank for rank, name in enumerate((*LAZY_SRCSET, *LAZY_SRC))}
_lazy_of = frozenset(_LAZY).intersection
_SETS = frozenset(("srcset", *LAZY_SRCSET))
_size = itemgetter(1, 2)  # width and density of a SrcsetCandidate
_DECODED_TYPES = frozenset(
    f"image/{kind}" for kind in ("jpeg", "jpg", "pjpeg", "png", "apng", "webp", "gif", "avif", "bmp")
)
# Matches most URLs: a path of plain characters with the ending of an image. No pattern below can match such a URL.
_PLAIN_IMAGE = re.compile(
    r"(?:https?:)?+[a-zA-Z0-9/_.,@~+-]*\.(?:jpe?g|png|webp|gif|avif|JPE?G|PNG)(?:\?[a-zA-Z0-9/&=_;,:+-]*+)?+"
).fullmatch
_NOT_DECODED = re.compile(r"\.(?:svgz?|jxl|hei[cf]|jp2|ico|mp4|webm)(?:[?#]|\Z)", re.IGNORECASE)
# Matches templates of scripts, URLs without a file, and words that are not URLs.
_NO_IMAGE = re.compile(
    r"\s*(?:\Z|#|data:|blob:|about:|javascript:|[\[{]|(?:true|false|none|null|undefined|lazy)\s*\Z)", re.IGNORECASE
)
_BRACE = re.compile(r"[^?#]*(?:[{}]|%7[bB])")
_OTHER_MEDIA = re.compile(r"\bprint\b|prefers-", re.IGNORECASE)
_MAX_DIGITS = 6
_LENGTH = re.compile(rf"\s*+(\d{{1,{_MAX_DIGITS}}})(?:\.\d*+)?\s*+(?:px)?\s*+", re.IGNORECASE)


class ImageReference(NamedTuple):
    """The URL reference that was chosen, unchanged, and the size in pixels that the page declares for it."""

    reference: str
    width: int | None = None
    height: int | None = None


_new_reference = partial(tuple.__new__, ImageReference)  # a quarter of the time of ImageReference(...)


def choose_reference(image: Attributes, sources: Sequence[Attributes] = ()) -> ImageReference:
    """Return the URL reference of the largest image; `src` if no reference is usable.

    The largest image is the widest of those with a width (`w`), else that with the greatest density
    (`x`, 1 by default). Of equal ones the first is chosen, and those of the image before those of
    its sources. Sources of a type that the pipeline does not decode are ignored, and so are those
    for print or for a user preference (a dark colour scheme).

    Args:
        image: attributes of the `<img>`.
        sources: attributes of the `<source>` elements before it in its `<picture>`.
    """
    width, height = image.get("width"), image.get("height")
    width, height = parse_length(width) if width else None, parse_length(height) if height else None
    if not sources:
        names, is_set = _lazy_of(image), "srcset" in image
        if not names and not is_set:
            return _new_reference((image.get("src") or "", width, height))
        if len(names) == 1 and not is_set and _SETS.isdisjoint(names):
            text = image[next(iter(names))]
            if text and _is_image(text):
                return _new_reference((text, width, height))
        best = _largest_of((image,), _lazy_names) if names else None
        best = best or _largest_of((image,), _plain_names)
    else:
        elements = (image, *filter(_is_usable_source, sources))
        best = _largest_of(elements, _lazy_names) or _largest_of(elements, _plain_names)
    if best is None:
        return _new_reference((image.get("src") or "", width, height))
    url, own_width, _, own_height = best
    if own_width:
        height = own_height or (round(own_width * height / width) if width and height else None)
        width = own_width
    return _new_reference((url, width, height))


def parse_length(text: str | None) -> int | None:
    """Return the pixels of a width or height attribute; None for a percentage or an invalid length."""
    if not text:
        return None
    if len(text) <= _MAX_DIGITS and text.isdecimal():
        return int(text)
    found = _LENGTH.fullmatch(text)
    return int(found[1]) if found else None


def _is_usable_source(source: Attributes) -> bool:
    kind, media = source.get("type"), source.get("media")
    if kind and kind not in _DECODED_TYPES:
        kind = kind.partition(";")[0].strip().lower()
    return (not kind or kind in _DECODED_TYPES) and not (media and _OTHER_MEDIA.search(media))


def _largest_of(
    elements: Sequence[Attributes], names_of: Callable[[Attributes], Iterable[str]]
) -> SrcsetCandidate | None:
    """Return the largest usable image of some attributes of the elements; the first of equal ones."""
    candidates: list[SrcsetCandidate] = []
    for element in elements:
        for name in names_of(element):
            if text := element.get(name):
                candidates += parse_srcset(text)[:MAX_CANDIDATES] if name in _SETS else [(text, 0, 1.0, None)]
    return _largest(candidates)


def _plain_names(_element: Attributes) -> Iterable[str]:
    return ("srcset", "src")


def _largest(candidates: Sequence[SrcsetCandidate]) -> SrcsetCandidate | None:
    if not candidates:
        return None
    largest = max(candidates, key=_size) if len(candidates) > 1 else candidates[0]
    if _is_image(largest[0]):  # nearly always true, so the others are rarely checked
        return largest
    return max((candidate for candidate in candidates if _is_image(candidate[0])), key=_size, default=None)


def _lazy_names(element: Attributes) -> Iterable[str]:
    names = _lazy_of(element)
    return names if len(names) < 2 else sorted(names, key=_LAZY.__getitem__)


def _is_image(reference: str) -> bool:
    if _PLAIN_IMAGE(reference):
        return True
    if _NO_IMAGE.match(reference) or _NOT_DECODED.search(reference):
        return False
    return not (("{" in reference or "}" in reference or "%7" in reference) and _BRACE.match(reference))
