"""The part of `[download]` that says how hosts are treated: who asks, how often, and whose refusals count."""

from typing import ClassVar

from pydantic import Field, field_validator

from dataops.config import StageConfig
from dataops.rights.opt_outs import SIGNALS, Signal
from tasks.web.address_policy import parse_connect_to

VERSION = "0.1"
AI_AGENTS = (
    "AI2Bot",
    "Ai2Bot-Dolma",
    "Amazonbot",
    "anthropic-ai",
    "Applebot-Extended",
    "Bytespider",
    "CCBot",
    "Claude-Web",
    "ClaudeBot",
    "cohere-ai",
    "cohere-training-data-crawler",
    "Diffbot",
    "FacebookBot",
    "Google-Extended",
    "GPTBot",
    "ImagesiftBot",
    "img2dataset",
    "laion-huggingface-processor",
    "LAIONDownloader",
    "meta-externalagent",
    "omgili",
    "PanguBot",
    "Timpibot",
    "Webzio-Extended",
)
"""Agents that gather data to train models with, as their makers say.

Source: github.com/ai-robots-txt/ai.robots.txt, of which those are left out that fetch for a search or for one who asks."""


class PoliteConfig(StageConfig):
    """How hosts are treated."""

    execution_fields: ClassVar[frozenset[str]] = frozenset(
        {"contact", "connect_to", "host_concurrency", "host_rate", "originals", "originals_bytes"}
    )

    user_agent: str = Field(default="pairmill", pattern=r"^[A-Za-z0-9_-]+$")
    """The name in the User-Agent header, and the one that robots.txt, ai.txt and X-Robots-Tag may address."""
    contact: str | None = Field(default=None, pattern=r"^[\x21-\x7e]+$")
    """An address in the User-Agent header, where a site's owner learns who asks (a page or mailto:). Without it a run does
    not start, unless `connect_to` names the hosts; then no other host is asked."""
    connect_to: dict[str, str] = Field(default_factory=dict)
    """{"host" = "127.0.0.1:8123"}: connect there instead of resolving the host. The only way to a private address."""
    host_concurrency: int = Field(default=4, ge=1, le=64)
    """Requests to one host at a time. With more worker processes than that, one of each."""
    host_rate: float = Field(default=20.0, ge=0, le=10_000)
    """Requests to one host a second, of all worker processes together; 0: no limit. A slower Crawl-delay counts instead."""
    host_patience: float = Field(default=30.0, gt=0, le=3600)
    """Seconds that a host may cost a shard in vain (timeouts, pauses that it asks for) before its other rows fail; and that
    a row waits for its turn."""
    max_crawl_delay: float = Field(default=10.0, ge=0, le=3600)
    """A host whose robots.txt asks for a longer Crawl-delay is left alone."""
    opt_out: tuple[Signal, ...] = SIGNALS
    """Signals that drop a picture. Where one is left out, it is recorded all the same if it stands in headers or bytes;
    tdmrep.json and ai.txt are then not asked for. What robots.txt disallows is never fetched."""
    disallowed_header_directives: tuple[str, ...] = ("noai", "noimageai", "noindex", "noimageindex")
    """X-Robots-Tag directives that are such a signal."""
    ai_agents: tuple[str, ...] = AI_AGENTS
    """Agents whose exclusion by a robots.txt is such a signal, unless it has a group for `user_agent`."""
    originals: str | None = None
    """A folder in which pictures are kept as they were fetched. A later run that names it asks for what changed since, by
    ETag and Last-Modified, and takes the rest from there, for whatever `image_size`."""
    originals_bytes: int = Field(default=50 << 30, ge=0)
    """What may be in it at the end of a run; what nobody asked for the longest goes first."""

    @field_validator("connect_to")
    @classmethod
    def _plain_addresses(cls, value: dict[str, str]) -> dict[str, str]:
        parse_connect_to(value)
        return value

    @property
    def user_agent_header(self) -> str:
        """For example `pairmill/0.1 (+https://example.org/bot)`."""
        return f"{self.user_agent}/{VERSION}" + (f" (+{self.contact})" if self.contact else "")

    def concurrency(self, workers: int) -> int:
        """Requests to one host at a time of each of so many processes."""
        return max(1, self.host_concurrency // workers)

    def problems(self) -> list[str]:
        """What keeps a run that downloads from starting."""
        if self.contact is not None or self.connect_to:
            return []
        return [
            "contact: is required to ask hosts for pictures: a page or a mailto: address where their owners learn who asks "
            "(not where connect_to names the hosts)"
        ]
