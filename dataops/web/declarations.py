"""What a page declares of itself: its language, what it says of its use, and the licence of its images."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from selectolax.lexbor import LexborNode

from dataops.rights.opt_outs import parse_robots_tag
from dataops.web.urls import BadUrl, canonicalise_url

Attributes = Mapping[str, str | None]

AI_DIRECTIVES = frozenset(("noai", "noimageai", "noimageindex"))
"""Directives that speak of images or of learning from them: they count whichever robot they address."""
INDEX_DIRECTIVES = frozenset(("noindex",))
"""Directives on finding the page at all (`none` says noindex too): they count where they address every robot."""
TDM_RESERVATION = "tdm-reservation"
"""The page's rights holder reserves text and data mining. Source: TDM Reservation Protocol, w3.org/community/tdmrep."""
MAX_LICENSE_LEVELS = 64
"""How far above an image an element may be whose licence is the image's."""
MAX_LICENSE_LINKS = 1_000

_LANGUAGE = re.compile(r"[a-z]{2,8}(?:-[a-z0-9]{1,8})*")
_LONGEST_LANGUAGE = 35  # RFC 5646, section 4.4.1
_ROBOT_NAME = re.compile(r"(?:[a-z0-9._-]*bot(?:-[a-z]+)?|[a-z0-9_-]*crawler|slurp|teoma|google-extended|anthropic-ai)")
_USUAL_NAME = 100  # characters; longer ones are not kept
_MEANT = {"none": "noindex"}
_LICENSE = re.compile(r"https?://(?:www\.)?creativecommons\.org/(?:licenses|licences|publicdomain)/", re.IGNORECASE)
# A link speaks for the thing that it stands in, not for the things beside that.
_THINGS = frozenset(("figure", "li", "td", "article", "section", "aside", "blockquote", "dd"))


def parse_language(root: Attributes) -> str | None:
    """The language tag of `<html lang>` (or `xml:lang`) in lower case with hyphens; None where it is no tag (BCP 47)."""
    for name in ("lang", "xml:lang"):
        tag = (root.get(name) or "").strip().lower().replace("_", "-")
        if len(tag) <= _LONGEST_LANGUAGE and _LANGUAGE.fullmatch(tag):
            return tag
    return None


def normalise_meta_name(name: str) -> str:
    """The name (or property) of a `<meta>` in lower case; '' where nothing is made of it, as of most."""
    return _counted_name(name) if len(name) <= _USUAL_NAME else _counted_name.__wrapped__(name)


@lru_cache(maxsize=10_000)
def _counted_name(name: str) -> str:
    name = name.strip().lower()
    counts = name.startswith(("og:", "twitter:")) or name in ("robots", TDM_RESERVATION) or _ROBOT_NAME.fullmatch(name)
    return name if counts else ""


def parse_meta_directives(metas: Iterable[tuple[str, str]]) -> set[str]:
    """The directives on use of `<meta>` elements.

    Args:
        metas: (name in lower case, content) of each.
    """
    found: set[str] = set()
    for name, content in metas:
        if name == "robots":
            found |= _directives(content) & (AI_DIRECTIVES | INDEX_DIRECTIVES)
        elif name == TDM_RESERVATION:
            found |= _reserved(content)
        elif _ROBOT_NAME.fullmatch(name):
            found |= _directives(content) & AI_DIRECTIVES
    return found


def parse_header_directives(fields: Iterable[tuple[str, str]]) -> set[str]:
    """The directives on use of a response's header fields `X-Robots-Tag` and `tdm-reservation`.

    Args:
        fields: (name in lower case, value) of each.

    Source: developers.google.com/search/docs/crawling-indexing/robots-meta-tag (X-Robots-Tag).
    """
    found: set[str] = set()
    for name, value in fields:
        if name == TDM_RESERVATION:
            found |= _reserved(value)
        elif name == "x-robots-tag":
            found |= _robots_tag(value)
    return found


def _robots_tag(value: str) -> set[str]:
    """Those of an X-Robots-Tag header: on AI whomever they address, on indexing those that address all."""
    found: set[str] = set()
    for agent, directive in parse_robots_tag(value):
        counted = AI_DIRECTIVES | INDEX_DIRECTIVES if agent == "*" else AI_DIRECTIVES
        found |= {_MEANT.get(directive, directive)} & counted
    return found


def _directives(content: str) -> set[str]:
    return {_MEANT.get(directive, directive) for directive in map(str.strip, content.lower().split(","))}


def _reserved(content: str) -> set[str]:
    return {TDM_RESERVATION} if content.strip() == "1" else set()


def is_license_link(link: Attributes) -> bool:
    """Whether a link names a licence: by `rel=license`, or by leading to one of Creative Commons."""
    return _says_license(link) or bool(_LICENSE.match((link.get("href") or "").strip()))


def _says_license(link: Attributes) -> bool:
    return "license" in (link.get("rel") or "").lower().split()


class Licenses:
    """The licence that is declared nearest to an image.

    A link speaks for the elements that it stands in, up to the thing (a figure, list item, article ...) around it, and for
    the whole page where there is none. Of the elements around an image the innermost with a licence decides; links with
    `rel=license` come before plain ones, and an element with two licences has none.
    """

    def __init__(self, links: Iterable[LexborNode], base: str, max_url_chars: int):
        self._of: dict[int, str | None] = {}
        said: set[int] = set()
        rated = [(not _says_license(node.attributes), i, node) for i, node in enumerate(links)][:MAX_LICENSE_LINKS]
        for plain, _, node in sorted(rated, key=lambda rated: rated[:2]):
            try:
                url = canonicalise_url(node.attributes.get("href") or "", base, max_url_chars)
            except BadUrl:
                continue
            for above in _above(node):
                if not plain:
                    said.add(above.mem_id)
                if plain and above.mem_id in said:
                    continue
                known = self._of.setdefault(above.mem_id, url)
                self._of[above.mem_id] = url if known == url else None
                if above.tag in _THINGS:
                    break

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._of)

    def of(self, image: LexborNode) -> str | None:
        """The address of the licence, or None."""
        return next((self._of[above.mem_id] for above in _above(image) if above.mem_id in self._of), None)

    def of_page(self, root: LexborNode | None) -> str | None:
        """The address of the licence of the whole page, or None."""
        return self._of.get(root.mem_id) if root else None


def _above(node: LexborNode) -> Iterable[LexborNode]:
    for _ in range(MAX_LICENSE_LEVELS):
        parent = node.parent
        if parent is None or not parent.is_element_node:
            return
        yield parent
        node = parent
