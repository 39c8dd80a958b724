"""Read RSL licences: the signal rsl.

A response names the licence of its content by a `Link` header. A server that requires a licence
answers with status 401, 402, 403 or 503 and a challenge of the authentication scheme `License`,
beside the link or a body that is the licence. Servers also send the challenge alone, so each of the
three counts by itself, whatever the status. A page links to its licence, or has it in a `<script>`;
a robots.txt names that of the host.

A licence that permits training free of charge and without conditions permits it. Terms that ask for
a payment, attribution, a token or reports, that concern other users or usages, that do not cover
the URL, or that cannot be read reserve it. A challenge reserves it whatever the licence says,
because the server refuses the content without a token.

Source: rslstandard.org/rsl (version 1.0), sections 3.1.1 (conservative interpretation), 3.3 (content and server), 3.4 to
3.7 (permits, prohibits, payment), 6.3 (Crawler Authorization Protocol); rslstandard.org/guide/robots-txt, guide/http and
guide/getting-started (`train-ai`); RFC 9110, sections 11.3 and 11.6.1 (challenges).
"""

import hashlib
import re
from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from typing import NamedTuple
from urllib.parse import urlsplit
from xml.etree.ElementTree import Element, ParseError, XMLParser

from dataops.rights.path_patterns import PathPatterns, complete_pattern, count_octets, encode, get_path, is_of_host
from dataops.rights.signals import PADDING, Agents, Finding, Signal, Statement, normalise_key

RSL_TYPE = "application/rsl+xml"
MAX_CONTENTS = 1_000
"""Maximum number of `<content>` elements of a licence; one with more reserves all."""
MAX_LINKS = 8
"""Maximum number of licences that one header names; all of them must permit, and more reserve."""
_TRAINING = frozenset({"all", "ai-all", "ai-train", "train-ai"})
# Matches one link with its parameters, up to the next one.
_LINK = re.compile(r"<([^<>]{1,4096})>([^<]{0,4096})")
_REL = re.compile(r";\s{0,9}rel\s{0,9}=\s{0,9}(?:\"([^\"]{0,200})|'([^']{0,200})|([^\s;,\"']{1,200}))", re.IGNORECASE)
_TYPE = re.compile(r";\s{0,9}type\s{0,9}=\s{0,9}[\"']?\s{0,9}application/rsl\+xml(?![\w.+-])", re.IGNORECASE)
_URL = re.compile(r"(?:[a-z]{3,5}:)?[^\s:]{0,999}(?:/|\.(?:xml|rsl|html?|php|txt)\b)\S{0,4096}", re.IGNORECASE)
# One item of a comma-separated list; a quoted string that has no end reaches to the end of the field.
_ITEM = re.compile(r'(?:"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[^",])++', re.DOTALL)
# A scheme, which starts a challenge; a name before `=` is a parameter of the challenge before it.
_SCHEME = re.compile(r"([\w!#$%&'*+.^`|~-]++)(?:\s++(?!=)|;|\Z)", re.ASCII)
_QUOTES = str.maketrans({"\u201c": '"', "\u201d": '"', "\u2033": '"'})  # of the standard's own templates


class _License(NamedTuple):
    """The terms of one `<license>`; several in one `<content>` are alternatives."""

    permits: frozenset[str] | None
    """Usages; None without a list of them."""
    conditions: tuple[str, ...]
    """What it asks for, such as `payment attribution`."""
    is_free: bool
    """Whether it states that it is free of charge."""


class _Content(NamedTuple):
    """One `<content>`: the part of a site that licences concern."""

    pattern: str
    prohibits: frozenset[str]
    licenses: tuple[_License, ...]
    server: str

    def covers(self, path: str) -> bool:
        return PathPatterns([(0, complete_pattern(self.pattern))], permits=False).find(path) is not None


class RslLicense:
    """A licence, which is read once for many URLs."""

    def __init__(self, text: str):
        self.digest, self._text = hashlib.sha256(encode(text)).hexdigest(), text

    @cached_property
    def _contents(self) -> list[_Content] | None:
        """The contents; None if the licence cannot be read."""
        text = self._text.lstrip("\ufeff" + PADDING).translate(_QUOTES)
        if "<!DOCTYPE" in text.upper() or "<!ENTITY" in text.upper():
            return None
        parser = XMLParser()
        try:
            parser.feed(text)
            root = parser.close()
        except (ParseError, ValueError):
            return None
        found = [_read_content(one) for one in root.iter() if _name(one) == "content"]
        return found if 0 < len(found) <= MAX_CONTENTS else None

    def judge(self, url: str) -> Finding:
        """Return what the licence says on training on a URL, with the digest of its text."""
        permits, terms = self._judge(url)
        return Finding(permits, f"{terms}; sha256:{self.digest}")

    def _judge(self, url: str) -> tuple[bool, str]:
        if self._contents is None:
            return False, "its terms cannot be read"
        path, host = get_path(url), urlsplit(url).hostname or ""
        covering = [one for one in self._contents if is_of_host(one.pattern, host) and one.covers(path)]
        if not covering:
            return False, "no terms for this URL"
        for one in covering:
            if not one.prohibits.isdisjoint(_TRAINING):
                return False, f"prohibits {', '.join(sorted(one.prohibits & _TRAINING))}"
            if one.server:
                return False, f"a token of {one.server}"
        longest = max(count_octets(one.pattern) for one in covering)
        answers = [_choose(one.licenses) for one in covering if count_octets(one.pattern) == longest]
        return min(answers, key=lambda answer: answer[0])


def _choose(licenses: tuple[_License, ...]) -> tuple[bool, str]:
    """Return whether one of some licences permits training freely, else what they ask for."""
    asked: list[str] = []
    for one in licenses:
        usages = one.permits & _TRAINING if one.permits is not None else ({"all"} if one.is_free else ())
        if usages and not one.conditions:
            return True, f"permits {', '.join(sorted(usages))}, free of charge"
        asked += one.conditions if usages or one.permits is None else [f"permits only {', '.join(sorted(one.permits))}"]
    return False, "; ".join(dict.fromkeys(asked)) or "no permission"


def _name(element: Element) -> str:
    return element.tag.rpartition("}")[2].rpartition(":")[2].lower()


def _words(element: Element) -> frozenset[str]:
    return frozenset(
        normalise_key(word) for word in re.split(r"[\s,;]+", "".join(element.itertext())) if word.strip(PADDING)
    )


def _read_content(element: Element) -> _Content:
    attributes = {normalise_key(name): value.strip(PADDING) for name, value in element.attrib.items()}
    found = [one for one in element.iter() if _name(one) == "license"]
    server = attributes.get("server", "")
    if attributes.get("encrypted", "false").lower() not in ("false", "0", "no"):
        server = server or "its server, as the content is encrypted"
    prohibits = (_words(one) for one in element.iter() if _name(one) == "prohibits" and _type(one) in ("", "usage"))
    return _Content(
        attributes.get("url") or "/", frozenset().union(*prohibits), tuple(map(_read_license, found)), server
    )


def _type(element: Element) -> str:
    return normalise_key(element.get("type", ""))


def _read_license(element: Element) -> _License:
    permits: frozenset[str] | None = None
    conditions: list[str] = []
    is_free = False
    for one in element.iter():
        name, kind = _name(one), _type(one)
        if name == "permits" and kind in ("", "usage"):
            permits = (permits or frozenset()) | _words(one)
        elif name in ("permits", "prohibits") and kind not in ("", "usage"):
            conditions.append(f"{name} {kind} {' '.join(sorted(_words(one)))}")
        elif name == "payment" and kind == "free":
            is_free = True
        elif name == "payment":
            conditions.append(f"payment {kind or 'of an unknown kind'}")
        elif name == "amount" and "".join(one.itertext()).strip(PADDING).strip("0.,"):
            conditions.append(f"amount {' '.join(one.itertext()).strip()} {one.get('currency', '')}".strip())
        elif name in ("reporting", "accepts"):
            conditions.append(name)
    return _License(permits, tuple(dict.fromkeys(conditions)), is_free)


def find_rsl(statement: Statement) -> Iterator[Finding]:
    """Yield what a statement declares of an RSL licence: its URL, the challenge with its parameters, or its media type.

    A URL is that of terms, which decide where they can be read.
    """
    place, name, value = statement.place, statement.name, statement.value
    if place == "terms":
        yield value.judge(statement.url)
    elif place == "script":
        if "<" in value:
            yield RslLicense(value).judge(statement.url)
        else:
            yield Finding(False, RSL_TYPE)
    elif place == "robots-host":
        if match := _URL.fullmatch(value.strip("<>" + PADDING)):
            yield Finding(False, match[0], match[0])
    elif place == "link":
        if _is_rsl_type(value.get("type") or ""):
            yield Finding(False, RSL_TYPE, (value.get("href") or "").strip())
    elif name == "link":
        links = list(islice(_find_links(value), MAX_LINKS + 1))
        yield from (Finding(False, link, link) for link in links[:MAX_LINKS])
        if len(links) > MAX_LINKS:
            yield Finding(False, f"more than {MAX_LINKS} licences")
    elif name == "www-authenticate":
        if challenge := _find_challenge(value):
            yield Finding(False, challenge)
    elif _is_rsl_type(value):
        yield Finding(False, RSL_TYPE)


def _is_rsl_type(media_type: str) -> bool:
    return media_type.partition(";")[0].strip().lower() == RSL_TYPE


def _find_links(header: str) -> Iterator[str]:
    for match in _LINK.finditer(header):
        rels = (value for found in _REL.findall(match[2]) for value in found)
        if _TYPE.search(match[2]) and any("license" in rel.lower().split() for rel in rels):
            yield match[1].strip()


def _find_challenge(header: str) -> str | None:
    """Return the first challenge of the scheme `License`, with its parameters."""
    challenge: list[str] = []
    for match in _ITEM.finditer(header):
        item = " ".join(match[0].split())
        scheme = _SCHEME.match(item)
        if scheme and challenge:
            break
        if challenge or (scheme and scheme[1].lower() == "license"):
            challenge += [item] if item else []
    return ", ".join(challenge) or None


def _parse(text: str, agents: Agents, url: str) -> RslLicense:
    return RslLicense(text)


RSL = Signal(
    name="rsl",
    reads={
        "header": ("link", "www-authenticate", "content-type"),
        "link": ("license",),
        "script": (RSL_TYPE,),
        "robots-host": ("license", "licence"),
        "terms": (),
    },
    find=find_rsl,
    parse=_parse,
    hints=(b"rsl+xml", b"www-authenticate"),
    order=22,
)
