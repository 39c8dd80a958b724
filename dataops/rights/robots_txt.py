"""Parses robots.txt, for the crawl and the download. Source: RFC 9309."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from protego import Protego

_AGENT_LINE = re.compile(r"^[ \t]*user[- ]?agent[ \t]*:[ \t]*([^#\r\n]*)", re.IGNORECASE | re.MULTILINE)
MAX_WILDCARDS = 2_000
"""Maximum number of wildcards in one file: each one costs 3 microseconds for every URL that is checked."""


def is_unreachable(status: int | None) -> bool:
    """Whether a status (None: no response) forbids all requests to the origin: 5xx, or 429 for now (section 2.3.1.4)."""
    return status is None or status == 429 or status >= 500


@dataclass(frozen=True)
class RobotsFile:
    """The rules of one origin's robots.txt."""

    parser: Protego
    named_agents: frozenset[str]
    """Agents with a group of their own, in lower case."""

    @classmethod
    def parse(cls, text: str) -> "RobotsFile":
        """Parse a file. Text that is not a robots.txt allows everything, a file with too many wildcards nothing."""
        if text.count("*") > MAX_WILDCARDS:
            text = "User-agent: *\nDisallow: /"
        named = frozenset(name.strip().lower() for name in _AGENT_LINE.findall(text))
        return cls(Protego.parse(text.removeprefix("\ufeff")), named)

    def allows(self, url: str, agent: str) -> bool:
        """Whether the group for the agent, else the group for all agents, allows a URL."""
        return self.parser.can_fetch(url, agent)

    def crawl_delay(self, agent: str) -> float | None:
        """Return the Crawl-delay in seconds, a common field that is not part of RFC 9309; None if there is none."""
        return self.parser.crawl_delay(agent)

    def list_denied_agents(self, url: str, agents: Iterable[str], ours: str) -> Sequence[str]:
        """Return the agents that a group of their own forbids a URL.

        The result is empty if the file has a group for our own agent, whose rules then are the owner's answer to us.
        """
        if not self.named_agents or ours.lower() in self.named_agents:
            return ()
        return [
            agent for agent in agents if agent.lower() in self.named_agents and not self.parser.can_fetch(url, agent)
        ]
