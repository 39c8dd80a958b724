"""Canonical http(s) addresses: one text for one resource, in the form that a plain HTTP client can fetch."""

import ipaddress
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, unquote

import idna

MAX_DATA_URL_CHARS = 64
"""Characters kept of a data: address in a dropped row."""

_WEB = ("http", "https")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*):")
_NO_HOST = re.compile(r"[/\\]{2}(?:[/\\?#]|\Z)")
_SPACE = "".join(map(chr, range(0x21)))
_CONTROL = re.compile(r"[\t\r\n]")
_REFERENCE = re.compile(r"(?:([a-zA-Z][a-zA-Z0-9+.-]*):)?(?://([^/?#]*))?([^?#]*)(?:\?([^#]*))?")
_HOST_PORT = re.compile(r"(?:\[([0-9a-fA-F:.%]+)\]|([^:\[\]]+))(?::([0-9]{0,5}))?")
_CREDENTIALS = re.compile(r"//[^/?#]*@")
_SAFE_HOST = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
_DOTTED = re.compile(r"/(\.|%2e){1,2}(/|\Z)", re.IGNORECASE)
# What RFC 3986 (2.2, 2.3) allows literally, and "%": escapes that are there stay as they are.
_PATH_SAFE = "!$%&'()*+,-./:;=@_~"
_QUERY_SAFE = _PATH_SAFE + "?[]|"

# References that need no reading, most of the Web's: canonical as they stand, or behind a prefix of the page's address. No
# segment starts with a dot, plain or escaped; a host of four labels of 62 is not too long.
_SEGMENT = r"(?!\.|%2)[a-zA-Z0-9!$%&'()*+,.:=@_~-]++"
_HOST_AND_PATH = rf"[a-z0-9_-]{{1,62}}+(?:\.[a-z0-9_-]{{1,62}}+){{0,3}}+(?:/(?:{_SEGMENT})?+)++"
_PATH = rf"(?:/{_SEGMENT})*+/?+"
_RELATIVE = rf"(?![^/?]*:){_SEGMENT}{_PATH}"
_QUERY = r"(?:\?[a-zA-Z0-9!$%&'()*+,./:;=@_~?\[\]|-]++)?+"
_PLAIN = re.compile(
    rf"(?:(https?://{_HOST_AND_PATH})|(//{_HOST_AND_PATH})|(/(?:{_SEGMENT}{_PATH})?+)|({_RELATIVE})){_QUERY}"
).fullmatch
_ABSOLUTE = 1  # group of it
_PLAIN_LINES = re.compile(rf"(?:(https?://{_HOST_AND_PATH}{_QUERY})|[^\n]*+)\n").findall
_UPWARD = re.compile(rf"(?:\./)?+((?:\.\./)*+)({_RELATIVE}{_QUERY})").fullmatch


class BadUrl(ValueError):
    """The address cannot be used; `reason` is its drop_reason: no_url, data_url, not_http, bad_url or url_too_long."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


def canonicalise_url(reference: str, base: str, max_chars: int) -> str:
    """The absolute http(s) address of `reference` on a page at `base`.

    Lower-case scheme and host (IDNA, UTS 46), no credentials, no default port, no dot segments, no fragment, no white
    space or non-ASCII: those are percent-encoded as UTF-8. Escapes that are there are not touched: servers tell them apart,
    and browsers do not touch them either.

    Args:
        base: canonical address of the page, or of its `<base>`.
        max_chars: longest address.

    Raises: BadUrl with the reason.
    Source: RFC 3986, sections 5.2 and 6.2; the URL Standard (url.spec.whatwg.org), sections 4.1 and 4.4, for what
    browsers repair: white space around, tabs and line ends within, backslashes.
    """
    if (plain := _PLAIN(reference)) and plain.lastindex == _ABSOLUTE and len(reference) <= max_chars:
        return reference
    return _resolved(reference, base, max_chars)


def _resolved(reference: str, base: str, max_chars: int) -> str:
    reference = _CONTROL.sub("", reference.strip(_SPACE)) if reference else ""
    if not reference:
        raise BadUrl("no_url")
    scheme = _SCHEME.match(reference)
    if scheme and scheme[1].lower() not in _WEB:
        raise BadUrl("data_url" if scheme[1].lower() == "data" else "not_http")
    if len(reference) > max_chars:
        raise BadUrl("url_too_long")
    if _NO_HOST.match(reference, scheme.end() if scheme else 0):
        raise BadUrl("bad_url")
    try:
        url = _canonical(_joined(_parts(_slashes(reference)), _base_parts(base)))
    except (ValueError, UnicodeError) as error:
        raise BadUrl("bad_url") from error
    if len(url) > max_chars:
        raise BadUrl("url_too_long")
    return url


class Resolver:
    """`canonical_url` for the many references of one page.

    Args:
        base: canonical address of the page, or of its `<base>`.
        max_chars: longest address.
    """

    def __init__(self, base: str, max_chars: int):
        self.base, self.max_chars = base, max_chars
        self._path = base.find("/", base.find("//") + 2)
        scheme, root = base[: base.find(":") + 1], base[: self._path]
        # What stands before each kind of plain reference.
        self._prefixes = ("", "", scheme, root, base.partition("?")[0].rpartition("/")[0] + "/")
        self._above: dict[int, str | None] = {}  # folders, by how many levels above

    def resolve(self, reference: str) -> str:
        """The absolute address. Raises: BadUrl with the reason."""
        if reference.startswith("data:"):  # before any work on what may be a whole picture
            raise BadUrl("data_url")
        prefix, rest = None, reference
        if reference.startswith("."):  # which none of the plain ones does
            if upward := _UPWARD(reference):
                dots, rest = upward.groups()
                up = len(dots) // 3
                prefix = self._above[up] if up in self._above else self._above.setdefault(up, self._folder(up))
        elif plain := _PLAIN(reference):
            prefix = self._prefixes[plain.lastindex or 0]
        if prefix is None or len(prefix) + len(rest) > self.max_chars or len(reference) > self.max_chars:
            return _resolved(reference, self.base, self.max_chars)
        return prefix + rest

    def resolve_all(self, references: Sequence[str]) -> tuple[list[str], list[str | None]]:
        """The absolute addresses, and the reasons of those that cannot be used: of these stands what a dropped row keeps.

        It is `resolve` of each in less time: one search reads all that are plain.
        """
        urls = self._plain(references)
        reasons: list[str | None] = [None] * len(urls)
        for i in [i for i, url in enumerate(urls) if not url]:
            if references[i].startswith("data:"):  # every eighth image: too many for exceptions
                urls[i], reasons[i] = truncate_url(references[i], self.max_chars), "data_url"
                continue
            try:
                urls[i] = self.resolve(references[i])
            except BadUrl as bad:
                urls[i], reasons[i] = truncate_url(references[i], self.max_chars), bad.reason
        return urls, reasons

    def _plain(self, references: Sequence[str]) -> list[str]:
        """The absolute addresses of those that are canonical once they are whole, and "" in the place of the others."""
        _, _, scheme, root, folder = self._prefixes
        whole = [
            reference
            if reference[:4] == "http"
            else (scheme if reference[1:2] == "/" else root) + reference
            if reference[:1] == "/"
            else folder + reference
            if reference[:1] not in ".?#" and ":" not in reference
            else ""
            for reference in references
        ]
        lines = "\n".join([*whole, ""])
        urls: list[str] = _PLAIN_LINES(lines)
        is_long = len(lines) > self.max_chars and max(map(len, urls)) > self.max_chars
        return [""] * len(whole) if is_long or len(urls) != len(whole) else urls  # more: a line end in one

    def _folder(self, up: int) -> str | None:
        """The folder so many levels above the base's; None where empty segments need a closer look."""
        folders = self.base[self._path :].partition("?")[0].split("/")[1:-1]
        kept = folders[: max(0, len(folders) - up)]
        return None if "" in folders else "/".join([self.base[: self._path], *kept, ""])


def truncate_url(reference: str, max_chars: int) -> str:
    """What a dropped row keeps of an address that could not be used."""
    reference = reference.strip()
    is_data = reference[:5].lower() == "data:"
    if not is_data:
        reference = _CREDENTIALS.sub("//", reference[: 2 * max_chars], count=1)
    return reference[: MAX_DATA_URL_CHARS if is_data else max_chars].encode("utf-8", "replace").decode()


def _slashes(reference: str) -> str:
    """Backslashes before the query become slashes, as in browsers."""
    if "\\" not in reference:
        return reference
    cut = min((i for i in (reference.find("?"), reference.find("#")) if i >= 0), default=len(reference))
    return reference[:cut].replace("\\", "/") + reference[cut:]


class _Parts(NamedTuple):
    """The parts of a reference (RFC 3986, appendix B); None where its delimiter is not there. The fragment is gone."""

    scheme: str | None
    authority: str | None
    path: str
    query: str | None


def _parts(reference: str) -> _Parts:
    found = _REFERENCE.match(reference)
    assert found is not None  # it matches anything
    return _Parts(found[1] and found[1].lower(), found[2], found[3], found[4])


@lru_cache(maxsize=256)
def _base_parts(base: str) -> _Parts:
    return _parts(base)


def _joined(given: _Parts, base: _Parts) -> _Parts:
    """RFC 3986, section 5.2.2, where `http:x` on an http page is relative, as in browsers. Dot segments stay."""
    if given.scheme and (given.scheme != base.scheme or given.authority is not None):
        return given
    if given.authority is not None:
        return given._replace(scheme=base.scheme)
    if not given.path:
        return base if given.query is None else base._replace(query=given.query)
    path = given.path if given.path[0] == "/" else base.path[: base.path.rfind("/") + 1] + given.path
    return base._replace(path=path, query=given.query)


def _canonical(parts: _Parts) -> str:
    """The address, without credentials: they are nobody's business, and what needs them is not public."""
    host, port = _host_and_port((parts.authority or "").rpartition("@")[2])
    if parts.scheme not in _WEB:
        raise ValueError("no http address")
    where = host if port is None or port == _DEFAULT_PORTS[parts.scheme] else f"{host}:{port}"
    path = quote(parts.path, safe=_PATH_SAFE, errors="replace") or "/"
    if _DOTTED.search(path):
        path = _without_dot_segments(path)
    query = "?" + quote(parts.query, safe=_QUERY_SAFE, errors="replace") if parts.query else ""
    return f"{parts.scheme}://{where}{path}{query}"


def _host_and_port(text: str) -> tuple[str, int | None]:
    found = _HOST_PORT.fullmatch(text)
    port = int(found[3]) if found and found[3] else None
    if not found or port == 0 or (port or 0) > 65_535:
        raise ValueError(f"no host and port: {text[:80]!r}")
    return canonicalise_host(found[1] or found[2]), port


@lru_cache(maxsize=4096)
def canonicalise_host(host: str) -> str:
    """Lower-case ASCII form of a host name or address literal. Raises: ValueError when it is none."""
    if len(host) > 1024:
        raise ValueError("no host name is so long")
    if ":" in host:
        if "%" in host:
            raise ValueError(f"an address of one machine's own network: {host!r}")
        return f"[{ipaddress.IPv6Address(host).compressed}]"
    if "%" in host:
        host = unquote(host, errors="strict")
    if not host.isascii():
        host = idna.encode(host, uts46=True).decode("ascii")
    host = host.lower().removesuffix(".")
    if len(host) > 253 or not _SAFE_HOST.fullmatch(host):
        raise ValueError(f"no host name: {host[:80]!r}")
    return host


def _without_dot_segments(path: str) -> str:
    """RFC 3986, section 5.2.4, where `%2e` counts as a dot."""
    kept: list[str] = []
    segments = path.split("/")[1:]
    for i, segment in enumerate(segments):
        plain = segment.lower().replace("%2e", ".")
        if plain in (".", ".."):
            if plain == ".." and kept:
                kept.pop()
            if i == len(segments) - 1:
                kept.append("")
        else:
            kept.append(segment)
    return "/" + "/".join(kept)
