"""Define what an opt-out signal is, and find the registered signals in what pages, responses and images declare.

A signal is one object in one module, which an entry point of the group `pairmill.signals` names. It states where it is
read, and `find` is the only function that parses a statement of it. The names of config values, of the column
`page_opt_out` and of the evidence of a download are those of the signals.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from email.message import Message
from functools import cache
from typing import Any, Literal, NamedTuple

from dataops.plugins import load

Place = Literal[
    "header", "meta", "http-equiv", "link", "script", "robots", "robots-host", "robots-agents", "file", "image"
]  # fmt: skip
"""Where a statement stands: a header field of a response; `<meta name>` or `<meta http-equiv>`; a link with
`rel=license`; the type of a `<script>`; a line of robots.txt that concerns paths, or the whole host; the groups of
robots.txt; a file of the host; an image."""
Stage = Literal["extract", "filter", "download"]
ALL_STAGES: frozenset[Stage] = frozenset({"extract", "filter", "download"})
ANY_ROBOT = "*bot"
"""Stands for the name of any robot in `reads["meta"]`."""
MAX_DETAIL_CHARS = 1_000
"""Maximum length of the evidence that is kept of a signal, in characters."""

_PAGE: frozenset[Place] = frozenset({"header", "meta", "http-equiv", "link", "script"})
_DOWNLOAD: frozenset[Place] = frozenset({"header", "robots", "robots-host", "robots-agents", "file", "image"})
_ROBOT_NAME = re.compile(r"(?:[a-z0-9._-]*bot(?:-[a-z]+)?|[a-z0-9_-]*crawler|slurp|teoma|google-extended|anthropic-ai)")


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
    """Name of the header field, meta, relation, media type or line, in lower case; path of a file; format of an image."""
    value: Any
    """Text; attributes of a link; bytes of an image; content of a file as `Signal.parse` returns it."""
    agents: Agents | None = None
    """Robots whose exclusion counts; None for a page that others fetched."""
    url: str = ""
    """URL for which a file is searched."""


class Finding(NamedTuple):
    """What a statement says on training."""

    permits: bool
    detail: str
    """What decides, as evidence: `train-ai=n`, a URL."""


@dataclass(frozen=True, kw_only=True)
class Signal:
    """Define an opt-out signal."""

    name: str
    reads: Mapping[Place, tuple[str, ...]]
    """Names that are read at each place, in lower case: header fields, metas, lines of robots.txt (the first spelling is
    that of the standard), media types, paths."""
    find: Callable[[Statement], Iterable[Finding]]
    """Returns what a statement says; several findings only of files and images."""
    parse: Callable[[str, Agents], Any] | None = None
    """Parses a file once for the URLs of its host."""
    drops: frozenset[Stage] = ALL_STAGES
    """Stages that drop rows with this signal by default."""
    hints: tuple[bytes, ...] = ()
    """Bytes in lower case of which the headers of a response have one, if they have this signal; by default, the names of
    its header fields."""
    order: int = 100
    """The first signal in this order that drops an image is named in its error."""


@dataclass(frozen=True)
class OptOut:
    """One signal that was found."""

    signal: str
    """Name of the signal, or `payment_required` for the offer of a 402 response, which drops a row whatever the config."""
    detail: str
    where: str
    """URL of the response, or of the host's file."""
    when: str
    """Time of the response, ISO 8601 in UTC."""


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


@cache
def header_hints() -> tuple[bytes, ...]:
    """Return bytes of which the headers of a response have one, in lower case, if they have any signal."""
    found = (signal.hints or map(str.encode, signal.reads["header"]) for signal in list_signals("header"))
    return tuple(dict.fromkeys(hint for hints in found for hint in hints))


def find_prohibitions(signal: Signal, statement: Statement) -> Iterator[str]:
    """Yield the details of what forbids training in a statement."""
    for finding in signal.find(statement):
        if not finding.permits:
            yield finding.detail[:MAX_DETAIL_CHARS].encode("utf-8", "replace").decode()


def is_meta_read(name: str) -> bool:
    """Return whether a signal reads the `<meta>` of a name in lower case."""
    return name in signals_by_name("meta") or _ROBOT_NAME.fullmatch(name) is not None


def find_in_metas(metas: Iterable[tuple[str, str]]) -> set[str]:
    """Return the names of the signals in `<meta>` elements.

    Args:
        metas: (name in lower case, content) of each.
    """
    known = signals_by_name("meta")
    found: set[str] = set()
    for name, content in metas:
        signals = known.get(name)
        if signals is None:
            if ":" in name or not _ROBOT_NAME.fullmatch(name):  # most are og: or twitter:
                continue
            signals = known.get(ANY_ROBOT, ())
        found |= _names(signals, Statement("meta", name, content))
    return found


def find_in_headers(fields: Iterable[tuple[str, str]]) -> set[str]:
    """Return the names of the signals in the header fields of a page's response.

    Args:
        fields: (name in lower case, value) of each.
    """
    known = signals_by_name("header")
    found: set[str] = set()
    for name, value in fields:
        if signals := known.get(name):
            found |= _names(signals, Statement("header", name, value))
    return found


def find_in_elements(html: bytes, links: Iterable[Mapping[str, str | None]]) -> set[str]:
    """Return the names of the signals in the links and scripts of a page.

    Args:
        links: attributes of the links to licences.
    """
    found: set[str] = set()
    for link in links:
        for rel in (link.get("rel") or "").lower().split():
            found |= _names(signals_by_name("link").get(rel, ()), Statement("link", rel, link))
    for media_type, signals in signals_by_name("script").items():
        if media_type.partition("/")[2].encode() in html and _script(media_type).search(html):
            found |= _names(signals, Statement("script", media_type, media_type))
    return found


def find_header_opt_outs(headers: Message, agents: Agents, where: str, when: str) -> Iterator[OptOut]:
    """Yield the signals in the headers of a response: for each the first one of each field.

    Args:
        where: URL of the response.
        when: time of the response, ISO 8601 in UTC.
    """
    for signal in list_signals("header"):
        for name in signal.reads["header"]:
            values = (Statement("header", name, str(value), agents) for value in headers.get_all(name, []))
            details = (detail for value in values for detail in find_prohibitions(signal, value))
            if (detail := next(details, None)) is not None:
                yield OptOut(signal.name, detail, where, when)


def find_in_image(data: bytes, kind: str) -> list[tuple[str, str]]:
    """Return (signal, detail) of each mark in an image file that forbids training.

    Args:
        kind: format, one of dataops.images.kinds.KINDS.
    """
    statement = Statement("image", kind, data)
    return [
        (signal.name, detail) for signal in list_signals("image") for detail in find_prohibitions(signal, statement)
    ]


def _names(signals: Iterable[Signal], statement: Statement) -> set[str]:
    return {signal.name for signal in signals if any(not finding.permits for finding in signal.find(statement))}


@cache
def _script(media_type: str) -> re.Pattern[bytes]:
    return re.compile(rb"<script\b[^<>]{1,500}" + re.escape(media_type.encode()), re.IGNORECASE)
