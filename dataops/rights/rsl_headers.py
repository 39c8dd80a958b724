"""Finds RSL licences in the headers of a response.

A response names the licence of its content by a `Link` header. A server that requires a licence answers with status 401,
402, 403 or 503 and a challenge of the authentication scheme `License`, beside the link or a body that is the licence.
Servers also send the challenge alone, so each of the three counts by itself, whatever the status.

Source: rslstandard.org/rsl (version 1.0), section 6.3 (Crawler Authorization Protocol); RFC 9110, sections 11.3 and 11.6.1
(challenges).
"""

import re

from dataops.rights.ai_preferences import MAX_DETAIL_CHARS, RSL_TYPE, find_rsl_link, is_rsl_type

RSL_FIELDS = ("link", "www-authenticate", "content-type")
"""Names of the header fields that may declare a licence, in lower case."""

# One item of a comma-separated list; a quoted string that has no end reaches to the end of the field.
_ITEM = re.compile(r'(?:"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[^",])++', re.DOTALL)
# A scheme, which starts a challenge; a name before `=` is a parameter of the challenge before it.
_SCHEME = re.compile(r"([\w!#$%&'*+.^`|~-]++)(?:\s++(?!=)|;|\Z)", re.ASCII)


def find_rsl(name: str, value: str) -> str | None:
    """Return what a header field declares of an RSL licence: its URL, the challenge, or its media type; None without one.

    Args:
        name: name of the field, in lower case.
    """
    if name == "link":
        return find_rsl_link(value)
    if name == "www-authenticate":
        return find_license_challenge(value)
    return RSL_TYPE if name == "content-type" and is_rsl_type(value) else None


def find_license_challenge(header: str) -> str | None:
    """Return the first challenge of the scheme `License` in a `WWW-Authenticate` header, with its parameters, or None."""
    challenge: list[str] = []
    for match in _ITEM.finditer(header):
        item = " ".join(match[0].split())
        scheme = _SCHEME.match(item)
        if scheme and challenge:
            break
        if challenge or (scheme and scheme[1].lower() == "license"):
            challenge += [item] if item else []
    return ", ".join(challenge)[:MAX_DETAIL_CHARS] if challenge else None
