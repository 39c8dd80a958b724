"""Extracts the links that a crawler may follow from a page, and the robots directives of the page."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from selectolax.lexbor import LexborDocumentOptions, LexborHTMLParser, LexborNode

from dataops.reasons import Reason
from dataops.rights.directives import parse_robots_tag
from dataops.web.markup import Reader, read_markup
from dataops.web.urls import BadUrl, canonicalise_url

MAX_LINKS = 5_000
"""Maximum number of links that are followed from one page."""

_NO_EVENTS = int(LexborDocumentOptions.WO_EVENTS)  # with them, each option costs time for all before it


@dataclass
class PageLinks:
    """The links and robots directives of one page."""

    directives: frozenset[str]
    """Directives of the robots metas, in lower case; `none` implies noindex and nofollow."""
    follow: list[str] = field(default_factory=list)
    """Canonical URLs, each once, in page order."""
    not_followed: dict[str, int] = field(default_factory=dict)
    """Number of other links by reason: nofollow, not_http, bad_url, url_too_long, too_many_links."""


def extract_links(html: bytes, page_url: str, agent: str, max_url_chars: int) -> PageLinks:
    """Return the links of `<a>`, `<area>` and `<link rel=next>`; none if the page has the directive nofollow.

    Args:
        html: page in UTF-8.
        page_url: canonical URL; links are relative to it or to the page's `<base>`.
        agent: lower-case name of the crawler, as metas may use it.

    Raises: dataops.web.markup.BadPage if the page would exhaust the parser.
    Source: HTML Standard, 4.6.7 (nofollow); developers.google.com/search/docs/crawling-indexing/robots-meta-tag.
    """
    html = html.replace(b"\0", b"")
    tree = LexborHTMLParser(read_markup(html, Reader.LINKS).html, options=_NO_EVENTS)
    links = PageLinks(_directives(tree, agent))
    base = page_url
    if node := tree.css_first("base[href]"):
        try:
            base = canonicalise_url(node.attributes.get("href") or "", page_url, max_url_chars)
        except BadUrl:
            base = page_url
    seen: set[str] = set()
    for node in tree.css("a[href], area[href], link[rel~=next][href]"):
        reason, url = _link(node, base, max_url_chars, "nofollow" in links.directives)
        if reason is None and url not in seen and len(links.follow) >= MAX_LINKS:
            reason = "too_many_links"
        if reason is not None:
            links.not_followed[reason] = links.not_followed.get(reason, 0) + 1
        elif url not in seen:
            seen.add(url)
            links.follow.append(url)
    return links


def _link(node: LexborNode, base: str, max_chars: int, nofollow: bool) -> tuple[str | None, str]:
    if nofollow or "nofollow" in (node.attributes.get("rel") or "").lower().split():
        return "nofollow", ""
    try:
        return None, canonicalise_url(node.attributes.get("href") or "", base, max_chars)
    except BadUrl as bad:
        return Reason.BAD_URL if bad.reason in (Reason.NO_URL, Reason.DATA_URL) else bad.reason, ""


def _directives(tree: LexborHTMLParser, agent: str) -> frozenset[str]:
    metas = [node.attributes for node in tree.css("meta[name][content]")]
    read = (meta for meta in metas if (meta["name"] or "").strip().lower() in ("robots", agent))
    return frozenset(find_directives((meta["content"] or "" for meta in read), agent))


def find_directives(values: Iterable[str], agent: str) -> set[str]:
    """Return the directives that address all agents or ours; `none` implies noindex and nofollow."""
    found = {word for value in values for addressed, word in parse_robots_tag(value) if addressed in ("*", agent)}
    return found | {"noindex", "nofollow"} if "none" in found else found
