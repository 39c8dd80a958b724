"""Matches URLs against the path patterns of robots.txt, ai.txt and tdmrep.json in bounded time.

Two spellings of a path are equal if they have the same octets after percent-decoding; `*` and a
final `$` in a pattern are special unless they are escaped. Standards and parsers disagree on
whether `%2F` equals `/`: in a pattern that forbids it does, in one that permits it does not, so an
owner's prohibition holds either way.

Source: RFC 9309, sections 2.2.2 (percent-encoding) and 2.2.3 (special characters).
"""

import re
from collections.abc import Iterable
from urllib.parse import quote, unquote_to_bytes

MAX_WORK = 1 << 25
"""Maximum of (octets of the longest literal of each wildcard pattern) x (octets of the path), with each literal
counted as 200: about 20 ms. A path that needs more is not matched; the callers then forbid it."""
_LITERAL_WORK = 200
_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")
_ESCAPED_DELIMITER = re.compile(rb"%(2[35Ff]|3[Ff])")
_UNRESERVED = re.compile(r"%(2D|2E|3[0-9]|4[1-9A-F]|5[0-9AF]|6[1-9A-F]|7[0-9AE])", re.IGNORECASE)
_ABSOLUTE = re.compile(r"https?://(?:[^/@]*@)?([^/:?#]*)[^/]*", re.IGNORECASE)
_PLAIN = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]*")
_RESERVED = ":/?#[]@!$&'()*+,;=%"  # RFC 3986, section 2.2, and the escapes themselves
_NO_RANK = 1 << 62


def get_path(url: str) -> str:
    """Return the path and query of an absolute URL, or of one that begins with its path."""
    origin = _ORIGIN.match(url)
    path = url[origin.end() if origin else 0 :].partition("#")[0]
    return path if path.startswith("/") else f"/{path}"


def decode_path(path: str, *, permits: bool) -> bytes:
    """Return the octets of a path, or of the literal part of a pattern, after percent-decoding.

    Args:
        permits: keep the escapes of `/`, `?`, `#` and `%` before the first `?` apart from the plain characters.
    """
    octets = encode(path)
    if permits and b"%" in octets:
        before, mark, query = octets.partition(b"?")
        octets = _ESCAPED_DELIMITER.sub(lambda match: b"%25" + match[1].upper(), before) + mark + query
    return unquote_to_bytes(octets)


def complete_pattern(pattern: str) -> str:
    """Return a pattern that forbids as one that begins with a path: `private/` and `https://host/private/` do too."""
    pattern = _ABSOLUTE.sub("", pattern, count=1) if _ABSOLUTE.match(pattern) else pattern
    return pattern if pattern.startswith(("/", "*")) else f"/{pattern}"


def is_of_host(pattern: str, host: str) -> bool:
    """Return whether a pattern may concern a host: it begins with a path, or with an origin of this host or with wildcards.

    Args:
        host: in lower case; "" if it is not known. `www.` makes no difference.
    """
    found = _ABSOLUTE.match(pattern)
    other = found[1].lower().rstrip(".").removeprefix("www.") if found else ""
    return not found or not host or "*" in other or other == host.removeprefix("www.")


def encode(text: str) -> bytes:
    """Return the octets of a decoded file: those that were not UTF-8 as they were, other lone surrogates as in UTF-8."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def count_octets(pattern: str) -> int:
    """Return the length of a pattern, which decides between two that match: non-ASCII is escaped, unreserved is not."""
    if _PLAIN.fullmatch(pattern):
        return len(pattern)
    pattern = _UNRESERVED.sub(lambda match: chr(int(match[1], 16)), pattern)
    return len(quote(encode(pattern), safe=_RESERVED))


class PathPatterns:
    """Patterns in order of precedence.

    Args:
        patterns: (rank, pattern) in ascending order of rank.
        permits: whether the patterns permit paths; see the module.
    """

    def __init__(self, patterns: Iterable[tuple[int, str]], *, permits: bool):
        self._permits = permits
        self._prefixes: dict[bytes, int] = {}
        self._exact: dict[bytes, int] = {}
        wildcards: dict[tuple[tuple[bytes, ...], bool], int] = {}
        for rank, pattern in patterns:
            literals, anchored = _split_pattern(pattern, permits)
            if len(literals) == 1:
                (self._exact if anchored else self._prefixes).setdefault(literals[0], rank)
            else:
                wildcards.setdefault((literals, anchored), rank)
        self._lengths = sorted({len(prefix) for prefix in self._prefixes})
        self._wildcards = [
            (max(literals, key=len), rank, literals, anchored) for (literals, anchored), rank in wildcards.items()
        ]
        self._literals = sum(len(literals) for literals, _ in wildcards)
        self._octets = sum(len(longest) for longest, *_ in self._wildcards)

    def estimate_work(self, path: str) -> int:
        """Return the work of matching a path against the wildcards, in the unit of MAX_WORK."""
        return self._octets * len(path) + self._literals * _LITERAL_WORK

    def find(self, path: str) -> int | None:
        """Return the lowest rank of the patterns that match a path with its query, or None."""
        octets = decode_path(path, permits=self._permits)
        best = self._exact.get(octets, _NO_RANK)
        for length in self._lengths:
            if length > len(octets):
                break
            best = min(best, self._prefixes.get(octets[:length], best))
        for longest, rank, literals, anchored in self._wildcards:
            if rank > best:
                break
            if longest in octets and _matches(literals, anchored, octets):
                return rank
        return None if best == _NO_RANK else best


def _split_pattern(pattern: str, permits: bool) -> tuple[tuple[bytes, ...], bool]:
    """Return the decoded literals between the wildcards, and whether the path must end after the last one."""
    anchored = pattern.endswith("$")
    literals, in_query = [], False
    for part in pattern.removesuffix("$").split("*"):
        literals.append(decode_path(part, permits=permits and not in_query))
        in_query = in_query or "?" in part
    kept = [literals[0], *filter(None, literals[1:])]
    if len(literals) > 1 and not literals[-1]:  # a final `*` also ends the effect of `$`
        anchored = False
    return tuple(kept), anchored


def _matches(literals: tuple[bytes, ...], anchored: bool, path: bytes) -> bool:
    """Return whether a path has the literals in their order, the first one at its start. Each is searched once."""
    if not path.startswith(literals[0]):
        return False
    at = len(literals[0])
    for literal in literals[1:-1]:
        found = path.find(literal, at)
        if found < 0:
            return False
        at = found + len(literal)
    if anchored:
        return len(path) - at >= len(literals[-1]) and path.endswith(literals[-1])
    return path.find(literals[-1], at) >= 0
