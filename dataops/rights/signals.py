"""Define what an opt-out signal is, and find the registered signals in what pages, responses and images declare.

A signal is one object in one module, which an entry point of the group `pairmill.signals` names. It
states where it is read, and `find` is the only function that parses a statement of it. The names of
config values, of the column `page_opt_out` and of the evidence of a download are those of the
signals.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from functools import cache, lru_cache
from typing import Any, Literal, NamedTuple
from urllib.parse import urljoin

from dataops.plugins import load

Place = Literal[
    "header", "meta", "link", "script", "robots", "robots-host", "robots-agents", "file", "terms", "image"
]  # fmt: skip
"""Where a statement stands: a header field of a response, which a `<meta name>` or `<meta http-equiv>` may have as well;
`<meta name>` only; a link with `rel=license`; a `<script>` by its type; a line of robots.txt that concerns paths, or the
whole host; the groups of robots.txt; a file of the host; a document that another statement names; an image."""
Stage = Literal["extract", "filter", "download"]
ALL_STAGES: frozenset[Stage] = frozenset({"extract", "filter", "download"})
ANY_ROBOT = "*bot"
"""Stands for the name of any robot in `reads["meta"]`."""
X_ROBOTS_TAG = "x-robots-tag"
MAX_DETAIL_CHARS = 1_000
"""Maximum length of the evidence that is kept of a signal, in characters."""

_PAGE: frozenset[Place] = frozenset({"header", "meta", "link", "script"})
_DOWNLOAD: frozenset[Place] = frozenset({"header", "robots", "robots-host", "robots-agents", "file", "image"})
_ROBOT_NAME = re.compile(r"(?:[a-z0-9._-]*bot(?:-[a-z]+)?|[a-z0-9_-]*crawler|slurp|teoma|google-extended|anthropic-ai)")
_ONLY_DIRECTIVES = re.compile(
    r"[\s,;\"']*(?:(?:no[-_]?(?:ai|image[-_]?ai|ml|image[-_]?index|index|follow|archive)|none|all|index|follow)[\s,;\"']*){1,12}",
    re.IGNORECASE,
)
_TEXT_METAS = frozenset({"description", "keywords", "news-keywords", "title", "author", "subject", "abstract"})
PADDING = " \t\r\n\f\v\xa0\ufeff\"'`\u2018\u2019\u201c\u201d"
"""White space and quotation marks around keys and values, which change no meaning."""
_JOINTS = re.compile(r"[_\s]+")
_FLAGS = {
    **dict.fromkeys(("1", "true", "yes", "y", "on", "allow", "allowed"), True),
    **dict.fromkeys(("0", "false", "no", "n", "off"), False),
}


def normalise_key(key: str) -> str:
    """Return a key as all signals compare it: in lower case without quotation marks, with `-` for `_` and white space."""
    return _JOINTS.sub("-", key.strip(PADDING).lower())


def read_flag(value: object) -> bool | None:
    """Return what the value of a yes-or-no key states: `true`, `1`, `?1`, `1.0`, `yes` and others, or their opposites.

    None is any other value. Who reads a key that is known must take it for the answer that forbids.
    """
    text = str(value).strip(PADDING).lower()
    with suppress(ValueError, OverflowError):
        text = f"{float(text):g}"  # 1.0, 1e0
    return _FLAGS.get(text.removeprefix("?"))


class Agents(NamedTuple):
    """Robots whose exclusion counts."""

    own: str
    """Our own name."""
    others: tuple[str, ...] = ()
    """Names of agents that collect training data."""


class Statement(NamedTuple):
    """What somebody declares at one place, unparsed."""

    place: Place
    name: str
    """Normalised name of the header field, meta, relation, media type or line; path of a file; URL of a document; format of
    an image."""
    value: Any
    """Text; attributes of a link; bytes of an image; content of a file or document as `Signal.parse` returns it."""
    agents: Agents | None = None
    """Robots whose exclusion counts; None for a page that others fetched."""
    url: str = ""
    """URL for which a file or document is searched."""


class Finding(NamedTuple):
    """What a statement says on training."""

    permits: bool
    detail: str
    """What decides, as evidence: `train-ai=n`, a URL."""
    terms: str = ""
    """Reference to a document that decides instead, where it can be read: `Signal.find` then reads it as `terms`."""


@dataclass(frozen=True, kw_only=True)
class Signal:
    """Define an opt-out signal."""

    name: str
    reads: Mapping[Place, tuple[str, ...]]
    """Names that are read at each place, in lower case: header fields, metas, lines of robots.txt (the first spelling is
    that of the standard), media types, paths."""
    find: Callable[[Statement], Iterable[Finding]]
    """Returns what a statement says; several findings only of files and images."""
    parse: Callable[[str, Agents, str], Any] | None = None
    """Parses a file or a document of terms, with its URL, once for many URLs. If it raises an error, the file forbids."""
    drops: frozenset[Stage] = ALL_STAGES
    """Stages that drop rows with this signal by default."""
    hints: tuple[bytes, ...] = ()
    """Bytes in lower case of which the headers of a response have one, if they have this signal; by default, the names of
    its header fields."""
    order: int = 100
    """The first signal in this order that drops an image is named in its error."""


@dataclass(frozen=True)
class OptOut:
    """One signal that was found, or, if it `permits`, a permission that is kept as evidence."""

    signal: str
    """Name of the signal, or `payment_required` for the offer of a 402 response, which drops a row whatever the config."""
    detail: str
    where: str
    """URL of the response, of the host's file, or of the document with the terms."""
    when: str
    """Time of the response, ISO 8601 in UTC."""
    permits: bool = False
    terms: str = ""
    """Absolute URL of a document of terms that is not read yet."""


@cache
def list_signals(place: Place) -> tuple[Signal, ...]:
    """Return the signals that are read at a place, in their order."""
    return tuple(signal for signal in load("signals").values() if place in signal.reads)


def list_names(stage: Stage) -> tuple[str, ...]:
    """Return the names of the signals that a stage reads: those of pages, or those that `download` finds."""
    places = _DOWNLOAD if stage == "download" else _PAGE
    return tuple(name for name, signal in load("signals").items() if not places.isdisjoint(signal.reads))


def list_defaults(stage: Stage) -> tuple[str, ...]:
    """Return the names of the signals by which a stage drops rows by default."""
    signals = load("signals")
    return tuple(name for name in list_names(stage) if stage in signals[name].drops)


@cache
def signals_by_name(place: Place) -> Mapping[str, tuple[Signal, ...]]:
    """Return the signals that are read at a place, by each name that they read there."""
    found: dict[str, tuple[Signal, ...]] = {}
    for signal in list_signals(place):
        for name in signal.reads[place]:
            found[name] = (*found.get(name, ()), signal)
    return found


def declare(signal: Signal, statement: Statement, where: str, when: str) -> Iterator[OptOut]:
    """Yield what a statement declares, with text that can be stored.

    Args:
        where: URL of the response or the file; references to terms are relative to it.
        when: its time, ISO 8601 in UTC.
    """
    for finding in signal.find(statement):
        yield make_opt_out(signal.name, finding, where, when)


def make_opt_out(signal: str, finding: Finding, where: str, when: str) -> OptOut:
    """Return a finding as evidence; see `declare`."""
    detail = finding.detail[:MAX_DETAIL_CHARS].encode("utf-8", "replace").decode()
    terms = ""
    if finding.terms:
        try:
            terms = urljoin(where, finding.terms)
        except ValueError:
            terms = "unreadable:"
    return OptOut(signal, detail, where, when, finding.permits, terms)


def is_meta_read(name: str) -> bool:
    """Return whether a signal reads the `<meta>` of a normalised name, whatever its content."""
    return name in meta_signals() or (":" not in name and _ROBOT_NAME.fullmatch(name) is not None)


@cache
def meta_signals() -> Mapping[str, tuple[Signal, ...]]:
    """Return the signals that are read in `<meta>` elements, by each name: those of header fields count there, too."""
    return {**signals_by_name("header"), **signals_by_name("meta")}


def is_of_robot(name: str, content: str) -> bool:
    """Return whether a `<meta>` addresses a robot: by its normalised name, or as its content has nothing but directives."""
    if ":" in name or name in _TEXT_METAS:  # most are og: or twitter:
        return False
    return bool(_ROBOT_NAME.fullmatch(name) or (len(content) < 200 and _ONLY_DIRECTIVES.fullmatch(content)))


def find_in_metas(metas: Iterable[tuple[str, str]]) -> set[str]:
    """Return the signals in `<meta>` elements: each its name, or `name:URL` where a document of terms decides.

    Args:
        metas: (normalised name, content) of each.
    """
    found: set[str] = set()
    for meta in metas:
        if ":" not in meta[0] or meta[0] in meta_signals():  # most are og: or twitter:
            found |= (_find_in_meta if len(meta[1]) < 200 else _find_in_meta.__wrapped__)(*meta)
    return found


@lru_cache(maxsize=10_000)
def _find_in_meta(name: str, content: str) -> set[str]:
    robot = meta_signals().get(ANY_ROBOT, ()) if is_of_robot(name, content) else ()
    return _names(meta_signals().get(name, robot), Statement("meta", name, content))


def find_in_headers(fields: Iterable[tuple[str, str]]) -> set[str]:
    """Return the signals in the header fields of a page's response, as `find_in_metas` does.

    Args:
        fields: (name, value) of each.
    """
    known = signals_by_name("header")
    found: set[str] = set()
    for name, value in fields:
        key = normalise_key(name)
        found |= _names(known.get(key, ()), Statement("header", key, value))
    return found


def find_in_elements(html: bytes, links: Iterable[Mapping[str, str | None]], url: str = "") -> set[str]:
    """Return the signals in the links and scripts of a page, as `find_in_metas` does. Terms of a script are read.

    Args:
        links: attributes of the links to licences.
        url: of the page.
    """
    found: set[str] = set()
    for link in links:
        for rel in (link.get("rel") or "").lower().split():
            found |= _names(signals_by_name("link").get(rel, ()), Statement("link", rel, link))
    for media_type, signals in signals_by_name("script").items():
        if media_type.partition("/")[2].encode() in html.lower():
            for script in _script(media_type).finditer(html):
                text = script[1].decode("utf-8", "replace")
                found |= _names(signals, Statement("script", media_type, text, url=url))
    return found


def find_header_opt_outs(headers: Message, agents: Agents, where: str, when: str) -> Iterator[OptOut]:
    """Yield what the headers of a response declare: for each signal and field the terms that decide, and of what else it
    says the first prohibition, or a permission.

    Args:
        where: URL of the response.
        when: time of the response, ISO 8601 in UTC.
    """
    fields: dict[str, list[str]] = {}
    for name, value in headers.items():
        fields.setdefault(normalise_key(name), []).append(str(value))
    for signal in list_signals("header"):
        for name in signal.reads["header"]:
            statements = (Statement("header", name, value, agents) for value in fields.get(name, ()))
            found = dict.fromkeys(one for statement in statements for one in declare(signal, statement, where, when))
            yield from (one for one in found if one.terms)
            if decided := [one for one in found if not one.terms]:
                yield min(decided, key=lambda one: one.permits)


def find_in_image(data: bytes, kind: str) -> list[tuple[str, str]]:
    """Return (signal, detail) of each mark in an image file that forbids training.

    Args:
        kind: format, one of dataops.images.kinds.KINDS.
    """
    statement = Statement("image", kind, data)
    found = (one for signal in list_signals("image") for one in declare(signal, statement, "", ""))
    return [(one.signal, one.detail) for one in found if not one.permits]


def _names(signals: Iterable[Signal], statement: Statement) -> set[str]:
    return {
        f"{signal.name}:{finding.terms}" if finding.terms else signal.name
        for signal in signals
        for finding in signal.find(statement)
        if not finding.permits
    }


def read_page_terms(column: str | None, page_url: str | None) -> list[OptOut]:
    """Return what a page declares by documents of terms, as the column `page_opt_out` has it: `rsl:https://...`."""
    found = ((name, terms) for name, _, terms in (one.partition(":") for one in (column or "").split(",")))
    return [
        OptOut(name, terms, page_url or terms, "", terms=terms)
        for name, terms in found
        if terms and any(signal.name == name for signal in list_signals("terms"))
    ]


@cache
def _script(media_type: str) -> re.Pattern[bytes]:
    start = rb"<script\b[^<>]{1,500}" + re.escape(media_type.encode()) + rb"[^<>]{0,500}+>?"
    return re.compile(start + rb"((?:[^<]++|<(?!/script)){0,9999}+)", re.IGNORECASE)
