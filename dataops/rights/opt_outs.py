"""What a rights holder may say against the use of an image, and what of it stands in the headers of a response."""

from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from typing import Literal

Signal = Literal["x_robots_tag", "tdm_header", "tdmrep", "robots_ai_agents", "ai_txt", "iptc", "c2pa"]
SIGNALS: tuple[Signal, ...] = ("x_robots_tag", "tdm_header", "tdmrep", "robots_ai_agents", "ai_txt", "iptc", "c2pa")
"""All that is looked for, in the order in which it can be known: the well-known files of a host come before a request."""

_VALUED = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})


@dataclass(frozen=True)
class OptOut:
    """One signal: what it says, where it stood and when it was read."""

    signal: Signal
    detail: str
    where: str
    """The address of the response, or of the host's file."""
    when: str
    """ISO 8601, UTC."""


def find_disallowed_directive(headers: Message, agent_token: str, disallowed: frozenset[str]) -> str | None:
    """The directive of an X-Robots-Tag header that forbids this use, or None.

    A header may start with the name of the agent that it speaks to (`otherbot: noindex`); `none` means `noindex,
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
    """(agent, directive) of each item of an X-Robots-Tag header, in lower case.

    `name:` before a directive says whom it and those after it address; before one, all are addressed ("*").
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
    """Whether a response reserves text and data mining: `tdm-reservation: 1`; any value but 0 and 1 counts as none.

    Source: TDM Reservation Protocol, section "TDM Header Field", w3.org/community/reports/tdmrep.
    """
    return any(value.strip() == "1" for value in headers.get_all("TDM-Reservation", []))


def find_header_opt_outs(
    headers: Message, agent_token: str, disallowed: frozenset[str], where: str, when: str
) -> Iterator[OptOut]:
    """The signals in the headers of a response."""
    if directive := find_disallowed_directive(headers, agent_token, disallowed):
        yield OptOut("x_robots_tag", directive, where, when)
    if is_tdm_reserved(headers):
        yield OptOut("tdm_header", "tdm-reservation 1", where, when)
