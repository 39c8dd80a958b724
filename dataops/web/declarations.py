"""Parses what a page declares: its language, the licences of its images, and its images for link previews (Open Graph,
else the Twitter card). Its opt-outs are in dataops.rights.signals.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from selectolax.lexbor import LexborNode

from dataops.rights.signals import is_meta_read, is_of_robot, normalise_key, signals_by_name
from dataops.web.image_urls import Attributes, parse_length
from dataops.web.urls import BadUrl, canonicalise_url

MAX_LICENSE_LEVELS = 64
"""Maximum number of levels between an image and the element with its licence."""
MAX_LICENSE_LINKS = 1_000
"""Maximum number of licence links that are read of one page."""
MAX_TERMS = 8
"""Maximum number of signals of one page whose terms can decide."""

_LANGUAGE = re.compile(r"[a-z]{2,8}(?:-[a-z0-9]{1,8})*")
_LONGEST_LANGUAGE = 35  # RFC 5646, section 4.4.1
_MAX_CACHED_NAME = 100  # characters; longer names are not cached
_LICENSE = re.compile(r"https?://(?:www\.)?creativecommons\.org/(?:licenses|licences|publicdomain)/", re.IGNORECASE)
# A licence link applies to the item that it is in, not to the items next to it.
_ITEM_TAGS = frozenset(("figure", "li", "td", "article", "section", "aside", "blockquote", "dd"))


def parse_language(root: Attributes) -> str | None:
    """Return the language tag of `<html lang>` (or `xml:lang`) in lower case with hyphens; None if it is no BCP 47 tag."""
    for name in ("lang", "xml:lang"):
        tag = (root.get(name) or "").strip().lower().replace("_", "-")
        if len(tag) <= _LONGEST_LANGUAGE and _LANGUAGE.fullmatch(tag):
            return tag
    return None


def read_meta(names: Sequence[str], content: str) -> list[tuple[str, str]]:
    """Return (normalised key, content) for each key of a `<meta>` that extraction uses; nothing for most.

    Args:
        names: its `name`, `property` and `http-equiv`, each '' if it has none.
    """
    keys = (_meta_keys if len("".join(names)) <= _MAX_CACHED_NAME else _meta_keys.__wrapped__)(*names)
    return [(key, content) for key, is_read in keys if is_read or is_of_robot(key, content)]


@lru_cache(maxsize=10_000)
def _meta_keys(name: str, property_: str, equivalent: str) -> list[tuple[str, bool]]:
    """Return the normalised keys of a `<meta>` that may be used, and whether they are whatever its content."""
    found = [
        (key, bool(re.match("(og|twitter):(image|title|description)", key)) or is_meta_read(key))
        for key in map(normalise_key, filter(None, dict.fromkeys((name, property_))))
    ]
    key = normalise_key(equivalent)
    return [*found, (key, True)] if key in signals_by_name("header") else found


def resolve_terms(signals: Iterable[str], base: str, max_url_chars: int) -> set[str]:
    """Return the signals of a page with the absolute URLs of their terms.

    The name alone, which forbids, stands for unusable URLs and for those beyond MAX_TERMS.

    Args:
        signals: `name` or `name:reference` (dataops.rights.signals.find_in_metas).
        base: URL that the references are relative to.
    """
    found: set[str] = set()
    for signal in sorted(signals):
        name, colon, reference = signal.partition(":")
        try:
            url = canonicalise_url(reference, base, max_url_chars) if colon and len(found) < MAX_TERMS else ""
        except BadUrl:
            url = ""
        found.add(f"{name}:{url.replace(',', '%2C')}" if url else name)
    return found


def is_license_link(link: Attributes) -> bool:
    """Return whether a link declares a licence: by `rel=license`, or by a URL of a Creative Commons licence."""
    return _has_license_rel(link) or bool(_LICENSE.match((link.get("href") or "").strip()))


def _has_license_rel(link: Attributes) -> bool:
    return "license" in (link.get("rel") or "").lower().split()


class Licenses:
    """The licences of one page, by the elements that they apply to.

    A link applies to the elements around it up to the nearest item (a figure, list item, article
    ...), or to the whole page if it is in no item. An image has the licence of the innermost
    element around it that has one. Links with `rel=license` take precedence over others, and an
    element with two licences has none.
    """

    def __init__(self, links: Iterable[LexborNode], base: str, max_url_chars: int):
        self._by_element: dict[int, str | None] = {}
        explicit: set[int] = set()
        ranked = [(not _has_license_rel(node.attributes), i, node) for i, node in enumerate(links)][:MAX_LICENSE_LINKS]
        for is_plain, _, node in sorted(ranked, key=lambda link: link[:2]):
            try:
                url = canonicalise_url(node.attributes.get("href") or "", base, max_url_chars)
            except BadUrl:
                continue
            for element in _ancestors(node):
                if not is_plain:
                    explicit.add(element.mem_id)
                if is_plain and element.mem_id in explicit:
                    continue
                known = self._by_element.setdefault(element.mem_id, url)
                self._by_element[element.mem_id] = url if known == url else None
                if element.tag in _ITEM_TAGS:
                    break

    def __bool__(self) -> bool:
        """Return whether the page has any licence."""
        return bool(self._by_element)

    def find(self, image: LexborNode) -> str | None:
        """Return the URL of the licence of an image, or None."""
        known = self._by_element
        return next((known[element.mem_id] for element in _ancestors(image) if element.mem_id in known), None)

    def find_for_page(self, root: LexborNode | None) -> str | None:
        """Return the URL of the licence of the whole page, or None."""
        return self._by_element.get(root.mem_id) if root else None


def _ancestors(node: LexborNode) -> Iterable[LexborNode]:
    for _ in range(MAX_LICENSE_LEVELS):
        parent = node.parent
        if parent is None or not parent.is_element_node:
            return
        yield parent
        node = parent


MAX_SHARED_IMAGES = 100


@dataclass
class SharedImage:
    """An `og:image` with its structured properties, or a `twitter:image`."""

    reference: str
    texts: list[str] = field(default_factory=list)
    """The alt of the image; for the first image also the title and the description of the page."""
    width: int | None = None
    height: int | None = None


def parse_shared_images(metas: Iterable[tuple[str, str]]) -> list[SharedImage]:
    """Return the images of `og:image`, each once, in page order; if there are none, that of `twitter:image`.

    A property after an `og:image` (`og:image:alt`, `og:image:width` ...) belongs to that image. The
    title and the description of the page belong to the first image.

    Args:
        metas: (property or name in lower case, content) of each `<meta>`, in document order.

    Source: The Open Graph protocol, ogp.me (structured properties, arrays).
    """
    images: list[SharedImage] = []
    first: dict[str, str] = {}
    for name, content in metas:
        first.setdefault(name, content)
        if not name.startswith("og:image"):
            continue
        if name in ("og:image", "og:image:url"):
            if not (name == "og:image:url" and images and images[-1].reference == content):
                images.append(SharedImage(content))
        elif images and name == "og:image:alt":
            images[-1].texts.append(content)
        elif images and name == "og:image:width":
            images[-1].width = parse_length(content)
        elif images and name == "og:image:height":
            images[-1].height = parse_length(content)
    prefix = "og:"
    if not images and (image := first.get("twitter:image") or first.get("twitter:image:src")):
        prefix = "twitter:"
        images = [SharedImage(image, [first.get("twitter:image:alt", "")])]
    unique = list({image.reference: image for image in reversed(images)}.values())[::-1][:MAX_SHARED_IMAGES]
    if unique:
        unique[0].texts += [
            first.get(f"{prefix}{name}") or first.get(f"og:{name}", "") for name in ("title", "description")
        ]
    return unique
