"""Find RSL licences, whose terms are not read: the signal rsl.

A response names the licence of its content by a `Link` header. A server that requires a licence answers with status 401,
402, 403 or 503 and a challenge of the authentication scheme `License`, beside the link or a body that is the licence.
Servers also send the challenge alone, so each of the three counts by itself, whatever the status. A page links to its
licence, or has it in a `<script>`; a robots.txt names that of the host.

Source: rslstandard.org/rsl (version 1.0), section 6.3 (Crawler Authorization Protocol); rslstandard.org/guide/robots-txt
and guide/http; RFC 9110, sections 11.3 and 11.6.1 (challenges).
"""

import re
from collections.abc import Iterator

from dataops.rights.signals import Finding, Signal, Statement

RSL_TYPE = "application/rsl+xml"
# Matches one link with its parameters, up to the next one.
_LINK = re.compile(r"<([^<>]{1,4096})>([^<]{0,4096})")
_REL = re.compile(r";\s{0,9}rel\s{0,9}=\s{0,9}(?:\"([^\"]{0,200})|'([^']{0,200})|([^\s;,\"']{1,200}))", re.IGNORECASE)
_TYPE = re.compile(r";\s{0,9}type\s{0,9}=\s{0,9}[\"']?\s{0,9}application/rsl\+xml(?![\w.+-])", re.IGNORECASE)
_URL = re.compile(r"(?:https?://|/)\S{1,4096}", re.IGNORECASE)
# One item of a comma-separated list; a quoted string that has no end reaches to the end of the field.
_ITEM = re.compile(r'(?:"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[^",])++', re.DOTALL)
# A scheme, which starts a challenge; a name before `=` is a parameter of the challenge before it.
_SCHEME = re.compile(r"([\w!#$%&'*+.^`|~-]++)(?:\s++(?!=)|;|\Z)", re.ASCII)


def find_rsl(statement: Statement) -> Iterator[Finding]:
    """Yield what a statement declares of an RSL licence: its URL, the challenge with its parameters, or its media type."""
    name, value = statement.name, statement.value
    if statement.place == "robots-host":
        found = match[0] if (match := _URL.match(value)) else None
    elif statement.place == "link":
        found = RSL_TYPE if _is_rsl_type(value.get("type") or "") else None
    elif name == "link":
        found = _find_link(value)
    elif name == "www-authenticate":
        found = _find_challenge(value)
    else:
        found = RSL_TYPE if _is_rsl_type(value) else None
    if found:
        yield Finding(False, found)


def _is_rsl_type(media_type: str) -> bool:
    return media_type.partition(";")[0].strip().lower() == RSL_TYPE


def _find_link(header: str) -> str | None:
    for match in _LINK.finditer(header):
        rels = (value for found in _REL.findall(match[2]) for value in found)
        if _TYPE.search(match[2]) and any("license" in rel.lower().split() for rel in rels):
            return match[1].strip()
    return None


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


RSL = Signal(
    name="rsl",
    reads={
        "header": ("link", "www-authenticate", "content-type"),
        "link": ("license",),
        "script": (RSL_TYPE,),
        "robots-host": ("license", "licence"),
    },
    find=find_rsl,
    hints=(b"rsl+xml", b"www-authenticate"),
    order=22,
)
