"""Parses what a page declares: its language, the directives on its use, and the licences of its images."""

import re
from collections.abc import Iterable
from functools import lru_cache

from selectolax.lexbor import LexborNode

from dataops.rights.ai_preferences import PREFERENCE_FIELDS, find_prohibition, is_rsl_type
from dataops.rights.opt_out_headers import parse_reservation, parse_robots_tag
from dataops.rights.rsl_headers import find_rsl
from dataops.web.image_urls import Attributes
from dataops.web.urls import BadUrl, canonicalise_url

AI_DIRECTIVES = frozenset(("noai", "noimageai", "noimageindex"))
"""Directives on images or on training: they count whichever robot they address."""
INDEX_DIRECTIVES = frozenset(("noindex",))
"""Directives on indexing (`none` implies noindex): they count if they address every robot."""
TDM_RESERVATION = "tdm-reservation"
"""Reservation of text and data mining by the rights holder. Source: TDM Reservation Protocol, w3.org/community/tdmrep."""
CONTENT_DIRECTIVES = frozenset(PREFERENCE_FIELDS)
"""Preferences that forbid training, by the name of their header, `<meta name>` or `<meta http-equiv>`."""
RSL = "rsl"
"""A link to an RSL licence, whose terms are not read. Source: rslstandard.org/rsl."""
MAX_LICENSE_LEVELS = 64
"""Maximum number of levels between an image and the element with its licence."""
MAX_LICENSE_LINKS = 1_000
"""Maximum number of licence links that are read of one page."""

_METAS = frozenset(("robots", TDM_RESERVATION, *CONTENT_DIRECTIVES))
_LANGUAGE = re.compile(r"[a-z]{2,8}(?:-[a-z0-9]{1,8})*")
_LONGEST_LANGUAGE = 35  # RFC 5646, section 4.4.1
_ROBOT_NAME = re.compile(r"(?:[a-z0-9._-]*bot(?:-[a-z]+)?|[a-z0-9_-]*crawler|slurp|teoma|google-extended|anthropic-ai)")
_MAX_CACHED_NAME = 100  # characters; longer names are not cached
_ALIASES = {"none": "noindex"}
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


def normalise_meta_name(name: str) -> str:
    """Return the name (or property) of a `<meta>` in lower case; '' if extraction does not use it, as with most."""
    return _cached_meta_name(name) if len(name) <= _MAX_CACHED_NAME else _cached_meta_name.__wrapped__(name)


@lru_cache(maxsize=10_000)
def _cached_meta_name(name: str) -> str:
    name = name.strip().lower()
    is_used = name.startswith(("og:", "twitter:")) or name in _METAS or _ROBOT_NAME.fullmatch(name)
    return name if is_used else ""


def parse_meta_directives(metas: Iterable[tuple[str, str]]) -> set[str]:
    """Return the directives on use in `<meta>` elements.

    Args:
        metas: (name in lower case, content) of each.
    """
    found: set[str] = set()
    for name, content in metas:
        if name == "robots":
            found |= _directives(content)
        elif name == TDM_RESERVATION:
            found |= _tdm_directive(content)
        elif name in CONTENT_DIRECTIVES:
            found |= {name} if find_prohibition(content) else set()
        elif ":" not in name and _ROBOT_NAME.fullmatch(name):  # most are og: or twitter:
            found |= _directives(content) & AI_DIRECTIVES
    return found


def parse_header_directives(fields: Iterable[tuple[str, str]]) -> set[str]:
    """Return the directives on use in the header fields of a response.

    Args:
        fields: (name in lower case, value) of each.

    Source: developers.google.com/search/docs/crawling-indexing/robots-meta-tag (X-Robots-Tag).
    """
    found: set[str] = set()
    for name, value in fields:
        if name == TDM_RESERVATION:
            found |= _tdm_directive(value)
        elif name == "x-robots-tag":
            found |= _directives(value)
        elif name in CONTENT_DIRECTIVES and find_prohibition(value):
            found.add(name)
        elif find_rsl(name, value):
            found.add(RSL)
    return found


def _directives(content: str) -> set[str]:
    """Return the directives on use: those on training for any agent, those on indexing for all agents."""
    found: set[str] = set()
    for agent, directive in parse_robots_tag(content):
        applicable = AI_DIRECTIVES | INDEX_DIRECTIVES if agent == "*" else AI_DIRECTIVES
        found |= {_ALIASES.get(directive, directive)} & applicable
    return found


def _tdm_directive(content: str) -> set[str]:
    return {TDM_RESERVATION} if any(map(parse_reservation, content.split(","))) else set()


def is_rsl_link(link: Attributes) -> bool:
    """Return whether a `<link>` or `<a>` leads to an RSL licence."""
    return _has_license_rel(link) and is_rsl_type(link.get("type"))


def is_license_link(link: Attributes) -> bool:
    """Return whether a link declares a licence: by `rel=license`, or by a URL of a Creative Commons licence."""
    return _has_license_rel(link) or bool(_LICENSE.match((link.get("href") or "").strip()))


def _has_license_rel(link: Attributes) -> bool:
    return "license" in (link.get("rel") or "").lower().split()


class Licenses:
    """The licences of one page, by the elements that they apply to.

    A link applies to the elements around it up to the nearest item (a figure, list item, article ...), or to the whole
    page if it is in no item. An image has the licence of the innermost element around it that has one. Links with
    `rel=license` take precedence over others, and an element with two licences has none.
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
