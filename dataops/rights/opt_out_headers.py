"""Defines the opt-out signals of rights holders, and parses those in the headers of a response."""

from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from typing import Literal

Signal = Literal["x_robots_tag", "tdm_header", "tdmrep", "robots_ai_agents", "ai_txt", "iptc", "c2pa"]
SIGNALS: tuple[Signal, ...] = ("x_robots_tag", "tdm_header", "tdmrep", "robots_ai_agents", "ai_txt", "iptc", "c2pa")
"""All signals, in the order of evaluation."""

_VALUED = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})


@dataclass(frozen=True)
class OptOut:
    """One signal that was found."""

    signal: Signal
    detail: str
    where: str
    """URL of the response, or of the host's file."""
    when: str
    """Time of the response, ISO 8601 in UTC."""


def find_disallowed_directive(headers: Message, agent_token: str, disallowed: frozenset[str]) -> str | None:
    """Return the directive of an X-Robots-Tag header that forbids this use, or None.

    A header may start with the name of an agent that it addresses (`otherbot: noindex`); `none` means `noindex,
    nofollow`.

    Source: developers.google.com/search/docs/crawling-indexing/robots-meta-tag (X-Robots-Tag, and `none`).
    """
    for value in headers.get_all("X-Robots-Tag", []):
        for agent, directive in parse_robots_tag(value):
            applies = agent in ("*", agent_token.lower())
            if applies and (directive in disallowed or (directive == "none" and "noindex" in disallowed)):
                return directive
    return None


def parse_robots_tag(value: str) -> Iterator[tuple[str, str]]:
    """Yield (agent, directive) of each item of an X-Robots-Tag header, in lower case.

    `name:` before a directive addresses it and the following ones to an agent; directives before the first name address
    all agents ("*").
    """
    addressed = "*"
    for item in value.lower().split(","):
        agent, colon, directive = (part.strip() for part in item.partition(":"))
        if not colon:
            directive = agent
        elif agent not in _VALUED:
            addressed = agent
        yield addressed, directive


def is_tdm_reserved(headers: Message) -> bool:
    """Whether a response reserves text and data mining: `tdm-reservation: 1`; other values do not.

    Source: TDM Reservation Protocol, section "TDM Header Field", w3.org/community/reports/tdmrep.
    """
    return any(value.strip() == "1" for value in headers.get_all("TDM-Reservation", []))


def find_header_opt_outs(
    headers: Message, agent_token: str, disallowed: frozenset[str], where: str, when: str
) -> Iterator[OptOut]:
    """Yield the signals in the headers of a response.

    Args:
        where: URL of the response.
        when: time of the response, ISO 8601 in UTC.
    """
    if directive := find_disallowed_directive(headers, agent_token, disallowed):
        yield OptOut("x_robots_tag", directive, where, when)
    if is_tdm_reserved(headers):
        yield OptOut("tdm_header", "tdm-reservation 1", where, when)
