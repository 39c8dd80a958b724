"""Defines the fields of `[download]` that concern hosts: the user agent, the request rate, and the opt-outs."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, field_validator

from dataops.config import StageConfig
from dataops.rights.signals import Agents, list_defaults, list_names
from tasks.web.address_policy import parse_connect_to
from tasks.web.identity.config import IdentityConfig
from tasks.web.request import format_user_agent

if TYPE_CHECKING:
    DownloadSignal = str
else:
    DownloadSignal = Literal[list_names("download")]
"""Name of a signal of hosts, responses and images."""
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
"""User agents that collect training data, by the statements of their operators.

Source: github.com/ai-robots-txt/ai.robots.txt, without the agents that fetch for a search engine or on request of a
    user."""


class PoliteConfig(StageConfig):
    """The fields of `[download]` that concern hosts."""

    execution_fields: ClassVar[frozenset[str]] = frozenset(
        {"contact", "connect_to", "host_concurrency", "host_rate", "identity", "originals", "originals_bytes"}
    )

    user_agent: str = Field(default="pairmill", pattern=r"^[A-Za-z0-9_-]+$")
    """Name in the User-Agent header, which robots.txt, ai.txt and X-Robots-Tag may address."""
    contact: str | None = Field(default=None, pattern=r"^[\x21-\x7e]+$")
    """Contact in the User-Agent header (a page or mailto:), by which the owner of a site reaches you. Without it a run
    does not start, unless `connect_to` names hosts; then it sends requests to these hosts only."""
    connect_to: dict[str, str] = Field(default_factory=dict)
    """{"host" = "127.0.0.1:8123"}: connect there instead of resolving the host. The only way to a private IP
    address."""
    identity: IdentityConfig | None = None
    """Signs each request, those for robots.txt and similar files too. Without it, requests are not signed."""
    host_concurrency: int = Field(default=4, ge=1, le=64)
    """Parallel requests to one host, of all worker processes together, but at least one for each process."""
    host_rate: float = Field(default=20.0, ge=0, le=10_000)
    """Requests to one host per second, of all worker processes together; 0 is no limit. A slower Crawl-delay wins."""
    host_patience: float = Field(default=30.0, gt=0, le=3600)
    """Maximum seconds that a host may waste in a shard (timeouts, requested pauses) before its other rows fail; and
    that a row waits for its turn."""
    max_crawl_delay: float = Field(default=10.0, ge=0, le=3600)
    """Maximum Crawl-delay of a robots.txt, in seconds; a host with a longer one gets no requests."""
    opt_out: tuple[DownloadSignal, ...] = list_defaults("download")
    """Signals that drop an image. Other signals are recorded if they are in robots.txt, headers or the image; tdmrep.json
    and ai.txt are not fetched without their signal. A URL that robots.txt disallows is never fetched."""
    ai_agents: tuple[str, ...] = AI_AGENTS
    """Agents whose exclusion by robots.txt gives the signal `robots-ai-agents`, unless it has a group for
    `user_agent`."""
    originals: str | None = None
    """Folder of the images as fetched. A later run with the same folder fetches only images that have changed, by ETag
    and Last-Modified, and takes the others from the folder, with any `image_size`. The folder must be new, empty, or made
    by an earlier run, since files in it are deleted."""
    originals_bytes: int = Field(default=50 << 30, ge=0)
    """Maximum bytes of that folder at the end of a run; the images that were not requested for the longest are
    deleted."""

    @field_validator("connect_to")
    @classmethod
    def _plain_addresses(cls, value: dict[str, str]) -> dict[str, str]:
        parse_connect_to(value)
        return value

    @property
    def agents(self) -> Agents:
        """Robots whose exclusion counts."""
        return Agents(self.user_agent, self.ai_agents)

    @property
    def user_agent_header(self) -> str:
        """The User-Agent header, for example `pairmill/0.1 (+https://example.org/bot)`."""
        return format_user_agent(self.user_agent, self.contact)

    def concurrency(self, workers: int) -> int:
        """Return the number of parallel requests to one host for each of some worker processes."""
        return max(1, self.host_concurrency // workers)

    def problems(self) -> list[str]:
        """Return the problems that prevent a download."""
        found = [f"identity.{line}" for line in self.identity.problems()] if self.identity else []
        if self.contact is not None or self.connect_to:
            return found
        return [
            *found,
            "contact: is required for requests to hosts; set it to a page or a mailto: address by which their owners "
            "reach you, or set connect_to to send requests to its hosts only",
        ]
