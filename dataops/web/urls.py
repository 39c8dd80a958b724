"""Canonicalises http(s) URLs into the form that a plain HTTP client can fetch: one text for one resource."""

import ipaddress
import re
import threading
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, unquote

import idna

from dataops.errors import ConfigError
from dataops.reasons import Reason, Unusable
from dataops.regular_files import check_regular

if TYPE_CHECKING:
    from tldextract import TLDExtract

MAX_DATA_URL_CHARS = 64
"""Maximum length of a `data:` URL in a dropped row, in characters."""

_HTTP_SCHEMES = ("http", "https")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*):")
_NO_HOST = re.compile(r"[/\\]{2}(?:[/\\?#]|\Z)")
_SPACE = "".join(map(chr, range(0x21)))
_CONTROL = re.compile(r"[\t\r\n]")
_REFERENCE = re.compile(r"(?:([a-zA-Z][a-zA-Z0-9+.-]*):)?(?://([^/?#]*))?([^?#]*)(?:\?([^#]*))?")
_HOST_PORT = re.compile(r"(?:\[([0-9a-fA-F:.%]+)\]|([^:\[\]]+))(?::([0-9]{0,5}))?")
HOST = r"^https?://(?:[^/?#@]*@)?(\[[^\]]*\]|[^/?#:]*)"
"""Regular expression for the host of a canonical URL, with the host as its group."""
_CREDENTIALS = re.compile(r"//[^/?#]*@")
_SAFE_HOST = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
_DOTTED = re.compile(r"/(\.|%2e){1,2}(/|\Z)", re.IGNORECASE)
# The characters that RFC 3986 (2.2, 2.3) allows literally, and "%", because existing escapes stay unchanged.
_PATH_SAFE = "!$%&'()*+,-./:;=@_~"
QUERY_SAFE = _PATH_SAFE + "?[]|"

# Matches references that need no parsing, as most do not: they are canonical, alone or after a prefix of the page's URL.
# No segment starts with a dot, plain or escaped; a host of at most four labels of 62 characters is never too long.
_SEGMENT = r"(?!\.|%2)[a-zA-Z0-9!$%&'()*+,.:=@_~-]++"
_HOST_AND_PATH = rf"[a-z0-9_-]{{1,62}}+(?:\.[a-z0-9_-]{{1,62}}+){{0,3}}+(?:/(?:{_SEGMENT})?+)++"
_PATH = rf"(?:/{_SEGMENT})*+/?+"
_RELATIVE = rf"(?![^/?]*:){_SEGMENT}{_PATH}"
_QUERY = r"(?:\?[a-zA-Z0-9!$%&'()*+,./:;=@_~?\[\]|-]++)?+"
_PLAIN = re.compile(
    rf"(?:(https?://{_HOST_AND_PATH})|(//{_HOST_AND_PATH})|(/(?:{_SEGMENT}{_PATH})?+)|({_RELATIVE})){_QUERY}"
).fullmatch
_ABSOLUTE = 1  # group of _PLAIN
_UPWARD = re.compile(rf"(?:\./)?+((?:\.\./)*+)({_RELATIVE}{_QUERY})").fullmatch


OWN_IMAGES = "source://"
"""Beginning of the URL of an image that no host serves. `source://photos/cats/1.jpg` is cats/1.jpg of the source photos."""


class BadUrl(Unusable):
    """Raised for an unusable URL; `reason` is its drop_reason: no_url, data_url, not_http, bad_url or url_too_long."""


def canonicalise_url(reference: str, base: str, max_chars: int) -> str:
    """Return the canonical absolute URL of `reference` on a page at `base`.

    Scheme and host are in lower case (IDNA, UTS 46). Credentials, default port, dot segments and
    fragment are removed. White space and non-ASCII characters are percent-encoded as UTF-8.
    Existing escapes stay unchanged, as in browsers, because servers distinguish them.

    Args:
        base: canonical URL of the page, or of its `<base>`.
        max_chars: maximum length of the URL, in characters.

    Raises: BadUrl with the reason.
    Source: RFC 3986, sections 5.2 and 6.2; the URL Standard (url.spec.whatwg.org), sections 4.1 and 4.4, for what
    browsers repair: surrounding white space, tabs and line ends, backslashes.
    """
    if (plain := _PLAIN(reference)) and plain.lastindex == _ABSOLUTE and len(reference) <= max_chars:
        return reference
    return _resolve(reference, base, max_chars)


def _resolve(reference: str, base: str, max_chars: int) -> str:
    reference = _CONTROL.sub("", reference.strip(_SPACE)) if reference else ""
    if not reference:
        raise BadUrl(Reason.NO_URL)
    scheme = _SCHEME.match(reference)
    if scheme and scheme[1].lower() not in _HTTP_SCHEMES:
        raise BadUrl(Reason.DATA_URL if scheme[1].lower() == "data" else Reason.NOT_HTTP)
    if len(reference) > max_chars:
        raise BadUrl(Reason.URL_TOO_LONG)
    if _NO_HOST.match(reference, scheme.end() if scheme else 0):
        raise BadUrl(Reason.BAD_URL)
    try:
        url = _build_url(_join(_split(_replace_backslashes(reference)), _split_base(base)))
    except (ValueError, UnicodeError) as error:
        raise BadUrl(Reason.BAD_URL) from error
    if len(url) > max_chars:
        raise BadUrl(Reason.URL_TOO_LONG)
    return url


class Resolver:
    """Resolves the many references of one page like `canonicalise_url`, but faster.

    Args:
        base: canonical URL of the page, or of its `<base>`.
        max_chars: maximum length of a URL, in characters.
    """

    def __init__(self, base: str, max_chars: int):
        self.base, self.max_chars = base, max_chars
        self._path = base.find("/", base.find("//") + 2)
        scheme, root = base[: base.find(":") + 1], base[: self._path]
        self.prefixes = ("", "", scheme, root, base.partition("?")[0].rpartition("/")[0] + "/")
        """The prefix of a plain reference, by its group in _PLAIN."""
        self._parents: dict[int, str | None] = {}  # folder by number of levels above the base

    def resolve(self, reference: str) -> str:
        """Return the canonical absolute URL. Raises: BadUrl with the reason."""
        if reference.startswith("data:"):  # first, because it may be a whole image
            raise BadUrl(Reason.DATA_URL)
        prefix, rest = None, reference
        if reference.startswith("."):  # _PLAIN matches no such reference
            if upward := _UPWARD(reference):
                dots, rest = upward.groups()
                up = len(dots) // 3
                prefix = self._parents[up] if up in self._parents else self._parents.setdefault(up, self._folder(up))
        elif plain := _PLAIN(reference):
            prefix = self.prefixes[plain.lastindex or 0]
        if prefix is None or len(prefix) + len(rest) > self.max_chars or len(reference) > self.max_chars:
            return _resolve(reference, self.base, self.max_chars)
        return prefix + rest

    def _folder(self, up: int) -> str | None:
        """Return the folder `up` levels above the base's folder; None if empty segments require full parsing."""
        folders = self.base[self._path :].partition("?")[0].split("/")[1:-1]
        kept = folders[: max(0, len(folders) - up)]
        return None if "" in folders else "/".join([self.base[: self._path], *kept, ""])


def truncate_url(reference: str, max_chars: int) -> str:
    """Return what a dropped row keeps of an unusable reference: its start, without credentials."""
    reference = reference.strip()
    is_data = reference[:5].lower() == "data:"
    if not is_data:
        reference = _CREDENTIALS.sub("//", reference[: 2 * max_chars], count=1)
    return reference[: MAX_DATA_URL_CHARS if is_data else max_chars].encode("utf-8", "replace").decode()


def _replace_backslashes(reference: str) -> str:
    """Replace backslashes before the query with slashes, as browsers do."""
    if "\\" not in reference:
        return reference
    cut = min((i for i in (reference.find("?"), reference.find("#")) if i >= 0), default=len(reference))
    return reference[:cut].replace("\\", "/") + reference[cut:]


class _Parts(NamedTuple):
    """The components of a reference without the fragment (RFC 3986, appendix B); None if the delimiter is missing."""

    scheme: str | None
    authority: str | None
    path: str
    query: str | None


def _split(reference: str) -> _Parts:
    match = _REFERENCE.match(reference)
    assert match is not None  # the pattern matches any text
    return _Parts(match[1] and match[1].lower(), match[2], match[3], match[4])


_split_base = lru_cache(maxsize=256)(_split)


def _join(reference: _Parts, base: _Parts) -> _Parts:
    """Resolve a reference by RFC 3986, section 5.2.2, but keep dot segments.

    As in browsers, `http:x` on an http page is relative.
    """
    if reference.scheme and (reference.scheme != base.scheme or reference.authority is not None):
        return reference
    if reference.authority is not None:
        return reference._replace(scheme=base.scheme)
    if not reference.path:
        return base if reference.query is None else base._replace(query=reference.query)
    path = reference.path if reference.path[0] == "/" else base.path[: base.path.rfind("/") + 1] + reference.path
    return base._replace(path=path, query=reference.query)


def _build_url(parts: _Parts) -> str:
    """Return the canonical URL, without credentials: they are private, and what requires them is not public."""
    host, port = _split_host_port((parts.authority or "").rpartition("@")[2])
    if parts.scheme not in _HTTP_SCHEMES:
        raise ValueError("not an http(s) URL")
    authority = host if port is None or port == _DEFAULT_PORTS[parts.scheme] else f"{host}:{port}"
    path = quote(parts.path, safe=_PATH_SAFE, errors="replace") or "/"
    if _DOTTED.search(path):
        path = _remove_dot_segments(path)
    query = "?" + quote(parts.query, safe=QUERY_SAFE, errors="replace") if parts.query else ""
    return f"{parts.scheme}://{authority}{path}{query}"


def _split_host_port(text: str) -> tuple[str, int | None]:
    match = _HOST_PORT.fullmatch(text)
    port = int(match[3]) if match and match[3] else None
    if not match or port == 0 or (port or 0) > 65_535:
        raise ValueError(f"invalid host and port: {text[:80]!r}")
    return canonicalise_host(match[1] or match[2]), port


@lru_cache(maxsize=4096)
def canonicalise_host(host: str) -> str:
    """Return the lower-case ASCII form of a host name or IP address. Raises: ValueError if it is neither."""
    if len(host) > 1024:
        raise ValueError("the host name is longer than 1,024 characters")
    if ":" in host:
        if "%" in host:
            raise ValueError(f"an IP address with a zone is local to one machine: {host!r}")
        address = ipaddress.IPv6Address(host)
        if address.ipv4_mapped:  # Python 3.13 would write its end as IPv4
            return f"[::ffff:{int(address) >> 16 & 0xFFFF:x}:{int(address) & 0xFFFF:x}]"
        return f"[{address.compressed}]"
    if "%" in host:
        host = unquote(host, errors="strict")
    if not host.isascii():
        host = idna.encode(host, uts46=True).decode("ascii")
    host = host.lower().removesuffix(".")
    if len(host) > 253 or not _SAFE_HOST.fullmatch(host):
        raise ValueError(f"invalid host name: {host[:80]!r}")
    return host


def _remove_dot_segments(path: str) -> str:
    """Remove dot segments by RFC 3986, section 5.2.4; `%2e` counts as a dot."""
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


_LOADING = threading.Lock()


@cache
def load_suffixes(*, private: bool) -> "TLDExtract":
    """Return the Public Suffix List of its package, with or without the section of private owners.

    Raises: ConfigError if the package lacks it, or has another file in its place.
    """
    import tldextract  # takes 0.1 s

    suffixes = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None, include_psl_private_domains=private)
    known = "github.io" if private else "co.uk"
    try:
        check_regular(Path(tldextract.__file__).with_name(".tld_set_snapshot"))
        if suffixes(known).suffix != known:
            raise ValueError("it is cut short")
    except (OSError, LookupError, ValueError) as error:
        raise ConfigError(f"the Public Suffix List is missing or damaged; reinstall tldextract ({error})") from error
    return suffixes


@lru_cache(maxsize=10_000)
def find_registrable_domain(host: str) -> str:
    """Return the registrable domain of a host: example.co.uk for www.example.co.uk. IP addresses are returned unchanged.

    user.github.io is a registrable domain: the private section of the Public Suffix List counts.
    """
    with _LOADING:  # else each of the threads that fetch reads the whole list
        suffixes = load_suffixes(private=True)
    return suffixes(host).top_domain_under_public_suffix or host
