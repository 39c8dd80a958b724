"""What a robots.txt means, for the crawl and for the download alike. Source: RFC 9309."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from protego import Protego

_AGENT_LINE = re.compile(r"^[ \t]*user[- ]?agent[ \t]*:[ \t]*([^#\r\n]*)", re.IGNORECASE | re.MULTILINE)
MAX_WILDCARDS = 2_000
"""In one file: each is searched for in every url that is asked for, at some 3 microseconds."""


def is_unreachable(status: int | None) -> bool:
    """Whether an answer means that nothing may be asked for: none at all, 5xx, or 429 for now (section 2.3.1.4)."""
    return status is None or status == 429 or status >= 500


@dataclass(frozen=True)
class RobotsFile:
    """The rules of one origin."""

    parser: Protego
    named_agents: frozenset[str]
    """Agents that have a group of their own, in lower case."""

    @classmethod
    def parse(cls, text: str) -> "RobotsFile":
        """Read a file; one that is no robots.txt at all allows everything, one that is too complex nothing."""
        if text.count("*") > MAX_WILDCARDS:
            text = "User-agent: *\nDisallow: /"
        named = frozenset(name.strip().lower() for name in _AGENT_LINE.findall(text))
        return cls(Protego.parse(text.removeprefix("\ufeff")), named)

    def allows(self, url: str, agent: str) -> bool:
        """Whether the group for an agent, else the one for all, lets it ask for a url."""
        return self.parser.can_fetch(url, agent)

    def crawl_delay(self, agent: str) -> float | None:
        """Seconds between requests (Crawl-delay), which RFC 9309 does not know and many files hold."""
        return self.parser.crawl_delay(agent)

    def list_denied_agents(self, url: str, agents: Iterable[str], ours: str) -> Sequence[str]:
        """Which of some agents have a group of their own that keeps them from a url.

        None where the file has a group for us: then the owner has said what he wants of us in particular.
        """
        if not self.named_agents or ours.lower() in self.named_agents:
            return ()
        return [
            agent for agent in agents if agent.lower() in self.named_agents and not self.parser.can_fetch(url, agent)
        ]
