"""Defines the opt-out signals of rights holders, and parses those in the headers of a response."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from email.message import Message
from typing import Literal, get_args

from dataops.rights.ai_preferences import MAX_DETAIL_CHARS, PREFERENCE_FIELDS, find_prohibition
from dataops.rights.rsl_headers import RSL_FIELDS, find_rsl

Signal = Literal[
    "robots_ai_agents", "content_usage", "content_signal", "rsl", "tdmrep", "ai_txt", "x_robots_tag", "tdm_header", "iptc",
    "c2pa",
]  # fmt: skip
SIGNALS: tuple[Signal, ...] = get_args(Signal)
"""All signals, in the order of evaluation."""

NO_PRICE = "no price"
MAX_OFFER_BYTES = 4_096
"""Maximum bytes that are read of the body of a 402 response."""
_DIRECTIVES = frozenset(
    ["all", "none", "index", "follow", "noindex", "nofollow", "noarchive", "nocache", "nosnippet", "notranslate",
     "noimageindex", "noai", "noimageai", "indexifembedded", "nositelinkssearchbox", "unavailable_after"]
)  # fmt: skip
"""Words that name no agent where a colon follows."""
_PADDING = " \t\r\n\"'"
_SEPARATOR = re.compile("[,;]")
_LIMIT = re.compile(r"\bmax-[a-z-]{1,40}\s{0,9}[:=]\s{0,9}[^\s,;]*")
_AGENT = re.compile(r"([a-z*_][\w.*-]*)(?:/\S*)?")
_WORD = re.compile(r"[a-z0-9_-]+")


@dataclass(frozen=True)
class OptOut:
    """One signal that was found."""

    signal: Signal | Literal["payment_required"]
    """`payment_required` is the offer of a 402 response, which drops the row whatever the config."""
    detail: str
    where: str
    """URL of the response, or of the host's file."""
    when: str
    """Time of the response, ISO 8601 in UTC."""


def find_disallowed_directive(
    headers: Message, agent_token: str, disallowed: frozenset[str], ai_agents: Collection[str] = ()
) -> str | None:
    """Return the directive of an X-Robots-Tag header that forbids this use, or None.

    A header may start with the name of an agent that it addresses (`otherbot: noindex`); `none` means `noindex,
    nofollow`. Directives count if they address all agents, ours, or one of `ai_agents`.

    Source: developers.google.com/search/docs/crawling-indexing/robots-meta-tag (X-Robots-Tag, and `none`).
    """
    addressed = {"*", agent_token.lower(), *map(str.lower, ai_agents)}
    for value in headers.get_all("X-Robots-Tag", []):
        for agent, directive in parse_robots_tag(str(value)):
            if agent in addressed and (directive in disallowed or (directive == "none" and "noindex" in disallowed)):
                return directive
    return None


def parse_robots_tag(value: str) -> Iterator[tuple[str, str]]:
    """Yield (agent, directive) of each directive of an X-Robots-Tag header or a robots meta, in lower case.

    `name:` before a directive addresses it and the following ones to an agent; directives before the first name address
    all agents ("*"). A name is one word that starts with a letter: the rest of a date after its comma
    (`unavailable_after: Wed, 03 Dec 2025 13:09:53 GMT, noai`) is none. Quotation marks and other separators than commas
    are accepted. The words of a date are yielded too, the values of `max-...` are not.
    """
    addressed = "*"
    for item in _SEPARATOR.split(_LIMIT.sub(" ", value.lower())):
        name, colon, rest = item.partition(":")
        name = name.strip(_PADDING)
        if colon and name not in _DIRECTIVES and (agent := _AGENT.fullmatch(name)):
            addressed, item = agent[1].rstrip("*") or "*", rest
        for word in _WORD.findall(item):
            yield addressed, word


def parse_reservation(value: str) -> bool | None:
    """Return whether a value of `tdm-reservation` reserves text and data mining: 1 does, 0 does not; None if it is neither.

    Source: TDM Reservation Protocol, section "TDM Header Field", w3.org/community/reports/tdmrep.
    """
    return {"1": True, "0": False}.get(value.strip(_PADDING))


def is_tdm_reserved(headers: Message) -> bool:
    """Return whether a response reserves text and data mining; repeated fields may be joined by commas."""
    values = headers.get_all("TDM-Reservation", [])
    return any(parse_reservation(item) for value in values for item in str(value).split(","))


def offers_in_body(headers: Message) -> bool:
    """Return whether a 402 response has its offer in the body: it is JSON, and no header has a price."""
    return "json" in str(headers.get("Content-Type", "")).lower() and describe_price(headers) == NO_PRICE


def describe_price(headers: Message, body: bytes = b"") -> str:
    """Return the price that a 402 response offers, as it is written; NO_PRICE without one.

    Args:
        body: start of the body, where `offers_in_body`.

    Sources: developers.cloudflare.com/ai-crawl-control/features/pay-per-crawl (`crawler-price`); github.com/coinbase/x402
    (version 1: a JSON body; version 2: `PAYMENT-REQUIRED`); RFC 9110, section 15.5.3 (402).
    """
    for name in ("Crawler-Price", "Payment-Required"):
        if value := str(headers.get(name, "")).strip():
            return f"{name.lower()}: {value}"[:MAX_DETAIL_CHARS].encode("utf-8", "replace").decode()
    offer = " ".join(body[:MAX_OFFER_BYTES].decode("utf-8", "replace").split())
    return f"body: {offer}"[:MAX_DETAIL_CHARS] if offer else NO_PRICE


def find_header_opt_outs(
    headers: Message,
    agent_token: str,
    disallowed: frozenset[str],
    where: str,
    when: str,
    ai_agents: Collection[str] = (),
) -> Iterator[OptOut]:
    """Yield the signals in the headers of a response.

    Args:
        where: URL of the response.
        when: time of the response, ISO 8601 in UTC.
        ai_agents: other agents whose directives count, in X-Robots-Tag.
    """
    if directive := find_disallowed_directive(headers, agent_token, disallowed, ai_agents):
        yield OptOut("x_robots_tag", directive, where, when)
    if is_tdm_reserved(headers):
        yield OptOut("tdm_header", "tdm-reservation 1", where, when)
    for name, signal in PREFERENCE_FIELDS.items():
        if detail := next(filter(None, map(find_prohibition, map(str, headers.get_all(name, [])))), None):
            yield OptOut(signal, detail, where, when)
    for license in find_rsl_licenses(headers):
        yield OptOut("rsl", license, where, when)


def find_rsl_licenses(headers: Message) -> list[str]:
    """Return what the headers of a response declare of an RSL licence: the first declaration of each kind of field."""
    fields = ((name, map(str, headers.get_all(name, []))) for name in RSL_FIELDS)
    found = (next(filter(None, (find_rsl(name, value) for value in values)), None) for name, values in fields)
    return [license.encode("utf-8", "replace").decode() for license in found if license]
