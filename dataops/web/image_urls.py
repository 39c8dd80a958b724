"""Which of its addresses an `<img>` stands for: lazy loading, `srcset`, `<picture>`.

The rule, in one sentence: the largest image that the page offers and a decoder here reads, where lazy-load attributes,
if there are any, count instead of `src` and `srcset`, which then hold a placeholder.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import NamedTuple

from dataops.web.srcset import SrcsetCandidate, parse_srcset

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
    "data-real-src",
    "data-original-src",
    "lazy-src",
    "lazysrc",
    "lazyload",
)
"""Attributes by which scripts put the image in the place of `src`, with the script where it is known; in order of
preference. Those whose name says no more than "an image" (data-image, data-url) are not here."""
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
    "lazy-srcset",
)
MAX_CANDIDATES = 200
"""Addresses of one image that are compared."""

_LAZY = {name: rank for rank, name in enumerate((*LAZY_SRCSET, *LAZY_SRC))}
_lazy_of = frozenset(_LAZY).intersection
_SETS = frozenset(("srcset", *LAZY_SRCSET))
_extent = itemgetter(1, 2)  # of an offer: width and density
_DECODED_TYPES = frozenset(
    f"image/{kind}" for kind in ("jpeg", "jpg", "pjpeg", "png", "apng", "webp", "gif", "avif", "bmp")
)
# Most addresses: a path in plain letters that ends as images do. Nothing that is looked for below is in it.
_PLAIN_IMAGE = re.compile(
    r"(?:https?:)?+[a-zA-Z0-9/_.,@~+-]*\.(?:jpe?g|png|webp|gif|avif|JPE?G|PNG)(?:\?[a-zA-Z0-9/&=_;,:+-]*+)?+"
).fullmatch
_NOT_DECODED = re.compile(r"\.(?:svgz?|jxl|hei[cf]|jp2|ico|mp4|webm)(?:[?#]|\Z)", re.IGNORECASE)
# What a script puts its own text into, what leads to no file, and what is no address.
_NO_IMAGE = re.compile(
    r"\s*(?:\Z|#|data:|blob:|about:|javascript:|[\[{]|(?:true|false|none|null|undefined|lazy)\s*\Z)", re.IGNORECASE
)
_BRACE = re.compile(r"[^?#]*(?:[{}]|%7[bB])")
_OTHER_MEDIA = re.compile(r"\bprint\b|prefers-", re.IGNORECASE)
_MAX_DIGITS = 6
_LENGTH = re.compile(rf"\s*(\d{{1,{_MAX_DIGITS}}})(?:\.\d*)?\s*(?:px)?\s*", re.IGNORECASE)


class ImageReference(NamedTuple):
    """The address that was chosen, as it stands, and the size in pixels that the page declares of it."""

    reference: str
    width: int | None = None
    height: int | None = None


_reference = partial(tuple.__new__, ImageReference)  # a quarter of the time of ImageReference(...)


def choose_reference(image: Attributes, sources: Sequence[Attributes] = ()) -> ImageReference:
    """The address of the largest image that is offered; `src` as it stands where none can be used.

    Of the offers with a width (`w`) the widest is the largest, else that with the greatest density (`x`, 1 where none is
    given); of equal ones the first, the image's own before those of its sources. Passed over are sources of a type that
    is not decoded here, and those for print or for a user's preference (a dark scheme).

    Args:
        image: attributes of the `<img>`.
        sources: those of the `<source>` elements before it in its `<picture>`.
    """
    width, height = image.get("width"), image.get("height")
    width, height = parse_length(width) if width else None, parse_length(height) if height else None
    if not sources:  # as of most images
        names, is_set = _lazy_of(image), "srcset" in image
        if not names and not is_set:
            return _reference((image.get("src") or "", width, height))
        if len(names) == 1 and not is_set and _SETS.isdisjoint(names):
            text = image[next(iter(names))]
            if text and _is_image(text):
                return _reference((text, width, height))
        best = _largest_lazy((image,)) if names else None
        best = best or _largest_plain((image,))
    else:
        elements = (image, *filter(_is_for_us, sources))
        best = _largest_lazy(elements) or _largest_plain(elements)
    if best is None:
        return _reference((image.get("src") or "", width, height))
    url, own_width, _, own_height = best
    if own_width:
        height = own_height or (round(own_width * height / width) if width and height else None)
        width = own_width
    return _reference((url, width, height))


def parse_length(text: str | None) -> int | None:
    """Pixels of a width or height attribute; None for a percentage and for what is no length."""
    if not text:
        return None
    if len(text) <= _MAX_DIGITS and text.isdecimal():
        return int(text)
    found = _LENGTH.fullmatch(text)
    return int(found[1]) if found else None


def _is_for_us(source: Attributes) -> bool:
    kind, media = source.get("type"), source.get("media")
    if kind and kind not in _DECODED_TYPES:
        kind = kind.partition(";")[0].strip().lower()
    return (not kind or kind in _DECODED_TYPES) and not (media and _OTHER_MEDIA.search(media))


def _largest_lazy(elements: Sequence[Attributes]) -> SrcsetCandidate | None:
    """Of what the lazy-load attributes of the elements offer and could be decoded; the first of equal ones."""
    offers: list[SrcsetCandidate] = []
    for element in elements:
        for name in _lazy_names(element):
            if text := element.get(name):
                offers += parse_srcset(text)[:MAX_CANDIDATES] if name in _SETS else [(text, 0, 1.0, None)]
    return _best(offers)


def _largest_plain(elements: Sequence[Attributes]) -> SrcsetCandidate | None:
    """As _largest_lazy, of the plain attributes."""
    offers: list[SrcsetCandidate] = []
    for element in elements:
        if text := element.get("srcset"):
            offers += parse_srcset(text)[:MAX_CANDIDATES]
        if text := element.get("src"):
            offers.append((text, 0, 1.0, None))
    return _best(offers)


def _best(offers: Sequence[SrcsetCandidate]) -> SrcsetCandidate | None:
    if not offers:
        return None
    best = max(offers, key=_extent) if len(offers) > 1 else offers[0]
    if _is_image(best[0]):  # nearly always: so they are not all looked at
        return best
    return max((offer for offer in offers if _is_image(offer[0])), key=_extent, default=None)


def _lazy_names(element: Attributes) -> Iterable[str]:
    names = _lazy_of(element)
    return names if len(names) < 2 else sorted(names, key=_LAZY.__getitem__)


def _is_image(reference: str) -> bool:
    if _PLAIN_IMAGE(reference):
        return True
    if _NO_IMAGE.match(reference) or _NOT_DECODED.search(reference):
        return False
    return not (("{" in reference or "}" in reference or "%7" in reference) and _BRACE.match(reference))
