"""The `[download]` table of the config, and the patterns of failure classes (`http_5xx`, `too_*`) in it."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, NonNegativeInt, PositiveInt, PrivateAttr, field_validator, model_validator

from dataops import plugins
from dataops.config import FrozenModel, Share, StageConfig
from dataops.reasons import Reason
from dataops.rights.signals import Agents, list_defaults, list_names
from dataops.snapshot import Input
from tasks.download import hooks
from tasks.download.hooks import erased_reasons, load_hooks
from tasks.web import signing
from tasks.web.address_policy import parse_connect_to, parse_resolver
from tasks.web.fetch_error import TRANSIENT, is_transient
from tasks.web.request import format_user_agent

_UNCLEAR = frozenset({Reason.LOST, Reason.OTHER, Reason.WORKER_DIED, Reason.OUT_OF_MEMORY})
"""Failures of this machine or of the program, not of the image or its host."""
RATE_PER_PROCESS = 80.0
"""Requests a second that one worker process makes, about; a higher `host_rate` is divided among several."""
PATTERN = re.compile(r"[a-z0-9_*?]+")
_DIGITS = re.compile(r"(?<=\d)x+$")


def matches_class(name: str | None, patterns: Sequence[str]) -> bool:
    """Return whether a class matches a pattern: a name, one with `*` or `?`, or one such as `http_5xx`.

    Reasons that erase a row match none: it has no URL that could be requested again.
    """
    return (
        name is not None
        and name not in erased_reasons()
        and any(fnmatchcase(name, _to_glob(pattern)) for pattern in patterns)
    )


def may_succeed_later(name: str, patterns: Sequence[str]) -> bool:
    """Return whether a row that failed in this way may be fetched later.

    Args:
        patterns: `download.retry.classes`, which may name further classes than the temporary ones.
    """
    return is_transient(name) or name in _UNCLEAR or matches_class(name, patterns)


def check_patterns(patterns: Iterable[str]) -> tuple[str, ...]:
    """Return the patterns. Raises: ValueError that names the first pattern that matches no class."""
    found = tuple(patterns)
    for pattern in found:
        if not PATTERN.fullmatch(pattern):
            raise ValueError(
                f"{pattern!r} is no failure class; write names such as timeout, http_429, http_5xx or too_*"
            )
    return found


def _to_glob(pattern: str) -> str:
    return _DIGITS.sub(lambda found: "[0-9]" * len(found[0]), pattern)


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


class RetryConfig(FrozenModel):
    """`[download.retry]`: which failed rows are retried after all others, and when."""

    model_config = ConfigDict(validate_default=True)

    classes: tuple[str, ...] = (*TRANSIENT, "http_5xx")
    """Failure classes; `*` and `?` match as in file names, and `http_5xx` matches all of 500 to 599."""
    rounds: int = Field(default=1, ge=0, le=10)
    """Number of rounds of retries."""
    delay: float = Field(default=30.0, ge=0, le=3600)
    """Seconds before the first round; each further round waits twice as long."""

    _known_form = field_validator("classes")(check_patterns)


class _DownloadTable(StageConfig):
    """The keys of the core."""

    execution_fields: ClassVar[frozenset[str]] = frozenset(
        {"contact", "connect_to", "host_concurrency", "host_rate", "proxy", "resolvers", "threads"}
    )

    image_size: int = Field(default=224, ge=1, le=8192)
    """Size in pixels of the side that `resize_mode` names."""
    resize_mode: Literal["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"] = "keep_ratio"
    """Mode of img2dataset: keep_ratio makes the smaller side `image_size`, keep_ratio_largest the larger one, border
    pads to a square with white, center_crop cuts to a square."""
    resize_quality: Literal["exact", "fast"] = "exact"
    """exact gives img2dataset's pixels of the upright image. fast decodes large JPEGs at a half, quarter or eighth of
    their size, which gives slightly different pixels (docs/data/download-rows.md has the speed and the differences)."""
    resize_only_if_bigger: bool = False
    """Do not enlarge smaller images."""
    encode_format: Literal["jpg", "png", "webp"] = "jpg"
    """Format of the images in the shards."""
    encode_quality: int = Field(default=95, ge=0, le=100)
    """Quality of JPEG and WebP, 0 to 100; for PNG, the compression, 0 to 9."""
    min_image_size: NonNegativeInt = 0
    """Minimum smaller side of an original, in pixels."""
    max_image_area: PositiveInt = 64_000_000
    """Maximum pixels of an original, checked before it is decoded (decompression bombs). Each worker decodes one image
    at a time, in a process that may allocate 20 bytes a pixel, 4 times `max_bytes` and 256 MiB: 1.6 GB by default."""
    max_aspect_ratio: float = Field(default=20.0, ge=1)
    """Maximum ratio of an original's larger side to its smaller side."""
    timeout: float = Field(default=10.0, gt=0, le=600)
    """Maximum seconds of one request, redirects included."""
    retries: int = Field(default=1, ge=0, le=10)
    """Number of immediate retries after a temporary failure; a timeout is only retried in a round."""
    retry: RetryConfig = RetryConfig()
    max_bytes: PositiveInt = 20_000_000
    """Maximum bytes of one response body, as transferred."""
    threads: int = Field(default=64, ge=1, le=1024)
    """Number of parallel fetches in each worker process."""
    shard_size: int = Field(default=10_000, ge=1, le=100_000)
    """Rows of a shard, including the failed ones."""
    min_success: Share = 0.05
    """Minimum share of fetched rows. Below it the stage fails: with exit code 75 if a rerun may fetch enough rows (the own
    network was down), else with 2, the most frequent failure class and what to change. 0 turns this off."""

    user_agent: str = Field(default="pairmill", pattern=r"^[A-Za-z0-9_-]+$")
    """Name in the User-Agent header, which robots.txt, ai.txt and X-Robots-Tag may address."""
    contact: str | None = Field(default=None, pattern=r"^[\x21-\x7e]+$")
    """Contact in the User-Agent header (a page or mailto:), by which the owner of a site reaches you. Without it a run
    does not start, unless `connect_to` names hosts; then it sends requests to these hosts only."""
    connect_to: dict[str, str] = Field(default_factory=dict)
    """{"host" = "127.0.0.1:8123"}: connect there instead of resolving the host. The only way to a private IP
    address."""
    proxy: str | None = None
    """Proxy to all hosts but those of `connect_to`: `http://HOST:PORT` (by CONNECT) or `socks5://HOST:PORT`, with `USER@`
    if it needs a login, whose password is in PAIRMILL_PROXY_PASSWORD. The proxy must refuse private IP addresses."""
    resolvers: tuple[str, ...] = ()
    """DNS servers (`10.0.0.2`, `10.0.0.2:5353`) that are asked instead of the system's."""
    host_concurrency: int = Field(default=4, ge=1, le=64)
    """Parallel requests to one host, of all worker processes together."""
    host_rate: float = Field(default=20.0, ge=0, le=10_000)
    """Requests to one host per second, of all worker processes together; 0 is no limit. A slower Crawl-delay wins."""
    host_patience: float = Field(default=30.0, gt=0, le=3600)
    """Maximum seconds that a host may waste in a shard (timeouts, requested pauses) before its other rows fail."""
    max_host_rows: PositiveInt | None = None
    """Maximum number of images that are requested from one host, chosen by the uids of their rows, which are hashes. The
    rows of its further images are dropped as `host_limit`."""
    max_crawl_delay: float = Field(default=10.0, ge=0, le=3600)
    """Maximum Crawl-delay of a robots.txt, in seconds; a host with a longer one gets no requests."""
    opt_out: tuple[DownloadSignal, ...] = list_defaults("download")
    """Signals that drop an image. Other signals are recorded if they are in robots.txt, headers or the image; tdmrep.json
    and ai.txt are not fetched without their signal. A URL that robots.txt disallows is never fetched."""
    ai_agents: tuple[str, ...] = AI_AGENTS
    """Agents whose exclusion by robots.txt gives the signal `robots-ai-agents`, unless it has a group for
    `user_agent`."""

    _adapted: Mapping[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def adapted(self) -> Mapping[str, Any]:
        """What hooks took from the tables of `[source]`, by name."""
        return self._adapted

    @property
    def page_opt_out(self) -> Sequence[str]:
        """Signals by whose terms a page forbids the use of its images: those of `filter.opt_out` and of the sources."""
        return self._adapted.get("page_opt_out", list_defaults("filter"))

    def with_adapted(self, adapted: Mapping[str, object], **changes: object) -> Self:
        """Return a changed config with what a hook took from `[source]`."""
        changed = self.model_copy(update=changes)
        changed._adapted = {**self._adapted, **adapted}
        return changed

    @field_validator("connect_to")
    @classmethod
    def _plain_addresses(cls, value: dict[str, str]) -> dict[str, str]:
        parse_connect_to(value)
        return value

    @field_validator("proxy")
    @classmethod
    def _known_proxy(cls, value: str | None) -> str | None:
        if value is not None:
            from tasks.web.connection import parse_proxy  # loads TLS

            parse_proxy(value)
        return value

    @field_validator("resolvers")
    @classmethod
    def _known_resolvers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if value:
            plugins.require(("dns",), "resolvers", "download.resolvers")
        for one in value:
            parse_resolver(one)
        return value

    @property
    def agents(self) -> Agents:
        """Robots whose exclusion counts."""
        return Agents(self.user_agent, self.ai_agents)

    @property
    def user_agent_header(self) -> str:
        """The User-Agent header, for example `pairmill/0.1 (+https://example.org/bot)`."""
        return format_user_agent(self.user_agent, self.contact)

    def processes_per_host(self, workers: int) -> int:
        """Return how many worker processes may request images from one host: more than one only for a high rate."""
        needed = math.ceil(self.host_rate / RATE_PER_PROCESS) if self.host_rate else workers
        return max(1, min(needed, workers, self.host_concurrency))

    def concurrency(self, processes: int) -> int:
        """Return the number of parallel requests to one host for each of some worker processes."""
        return max(1, self.host_concurrency // processes)

    @model_validator(mode="after")
    def _png_compression(self) -> Self:
        if self.encode_format == "png" and self.encode_quality > 9:
            raise ValueError(f"encode_quality is {self.encode_quality}; for png it is the compression, 0 to 9")
        return self

    def within(self, run: Any) -> Self:
        sources = [getattr(source, "opt_out_directives", ()) for source in run.source.tables]
        signals = tuple(sorted({*run.filter.opt_out, *chain.from_iterable(sources)}))
        return self.with_adapted({"page_opt_out": signals}).adapt(run.source.tables)

    def adapt(self, sources: Sequence[object]) -> Self:
        """Return the config with what the hooks take from the tables of `[source]`."""
        adapted = self
        if not any(getattr(source, "requests_images", True) for source in sources):
            retry = self.retry.model_copy(update={"classes": (), "rounds": 0})
            adapted = self.with_adapted({"asks_no_host": True}, retry=retry, retries=0)
        for hook in load_hooks().values():
            adapted = hook.adapt(adapted, sources)
        return adapted

    def inputs(self) -> list[Input]:
        """Return what the hooks read from outside the store, as inputs of the snapshot."""
        return [found for hook in load_hooks().values() for found in hook.inputs(self)]

    def problems(self) -> list[str]:
        """Return the problems that prevent a download."""
        found = signing.find_signer_problems(self)
        found += [line for hook in load_hooks().values() for line in hook.problems(self)]
        if self.contact is not None or self.connect_to or "asks_no_host" in self.adapted:
            return found
        return [
            *found,
            "contact: is required for requests to hosts; set it to a page or a mailto: address by which their owners "
            "reach you, or set connect_to to send requests to its hosts only",
        ]

    def key_config(self) -> dict[str, Any]:
        """Return the fields of the key, without the delay between rounds, which does not change the output."""
        fields = super().key_config()
        del fields["retry"]["delay"]
        if self.max_host_rows is None:
            del fields["max_host_rows"]
        for hook in load_hooks().values():
            fields |= hook.key(self)
        return fields


class DownloadConfig(plugins.extend(plugins.extend(_DownloadTable, hooks.KIND), signing.KIND)):
    """`[download]`: how images are fetched, resized and stored."""
