"""`kind = "site"`: a polite crawl of sites, stored as WARC files that are then read like any archive.

The crawl runs in its own process (plugins.crawl.job), and in its own folder below the home, where a killed crawl
resumes. The WARC files become evidence parts of the snapshot, which no digest covers: only the pairs are its content.
"""

import ipaddress
import logging
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, NonNegativeFloat, PositiveInt, field_validator, model_validator

from dataops import plugins
from dataops.archives.warc import Damage, read_pages
from dataops.config import SCHEDULED
from dataops.digest import canonical_json, text_sha256
from dataops.errors import JobFailed, SourceError, StorageError, UnusableSource
from dataops.facts import CrawlFacts, SourceFacts
from dataops.formatting import format_counts
from dataops.reasons import Reason
from dataops.snapshot import EVIDENCE, Draft, Input, Manifest, Record
from dataops.stages import SOURCE
from dataops.store import open_store
from dataops.web.urls import BadUrl, canonicalise_host, canonicalise_url
from tasks.engine.context import Context
from tasks.engine.subprocess_job import run_job
from tasks.extract.sources.base import EarlierSource, FetchedFiles, Provenance, SourceEstimate, Template
from tasks.extract.sources.pairs_writer import PairsWriter
from tasks.extract.sources.warc import PagesSource
from tasks.files.base import OpenFile, SourceFile
from tasks.web.address_policy import is_public, parse_connect_to
from tasks.web.fetch_error import is_transient
from tasks.web.request import format_user_agent
from tasks.web.signing import KIND, find_signer_problems, open_signer

logger = logging.getLogger(__name__)

SUMMARY_NAME = "crawl.json"
PAGES, ROBOTS, INDEX = "pages-", "robots.warc.gz", "crawl.parquet"
"""What the evidence parts hold; see `SiteSource.part_name`."""
FREE_SPACE = "free disk space"
"""Remedy in the last lines of a crawl whose disk is full: only a rerun may succeed, no retry."""
PROGRESS = "progress: "
"""Prefix of the lines in which the crawl's process reports how far it is."""


_SignedSource = plugins.extend(PagesSource, KIND)


class SiteSource(_SignedSource):
    """`[source]` of `kind = "site"`."""

    kind: Literal["site"] = "site"
    """A crawl by Scrapy. It obeys robots.txt (RFC 9309), and the directives of pages and headers on following and
    indexing."""
    start: tuple[str, ...] = Field(min_length=1)
    """URLs at which the crawl begins."""
    edition: str = Field(default="", max_length=100)
    """A label of your own: change it to crawl again. A config is crawled once for each edition. `%Y-%m-%d` stands for the
    day for which a run is scheduled, else that on which it begins, in UTC, so that a nightly schedule crawls every night;
    a late run and a rerun keep the edition."""
    allowed_domains: tuple[str, ...] = ()
    """Domains whose hosts are crawled. By default, the registered domains of the start URLs."""
    max_depth: int = Field(default=8, ge=0, le=1000)
    """Maximum number of links between a start URL and a page."""
    max_pages: int = Field(default=10_000, ge=1, le=10_000_000)
    """Maximum number of URLs that are requested, whatever the response."""
    max_pages_per_host: int = Field(default=10_000, ge=1, le=10_000_000)
    """Maximum number of URLs that are requested from one host."""
    pages_per_part: PositiveInt = 5_000
    """Number of pages in one WARC file, which becomes one part."""
    user_agent: str = Field(default="pairmill", pattern=r"^[A-Za-z0-9_-]+$")
    """Name in the User-Agent header, by which robots.txt and pages may address the crawler."""
    contact: str | None = Field(default=None, pattern=r"^[\x21-\x7e]+$")
    """A page or mailto: address in the User-Agent header, so that owners of sites can reach you. Without it, only the hosts
    in `connect_to` are crawled."""
    delay: float = Field(default=1.0, ge=0, le=3600)
    """Minimum seconds between two requests to a host; longer if the host is slow (Scrapy's auto-throttle) or if its
    robots.txt has a longer Crawl-delay."""
    max_crawl_delay: NonNegativeFloat = 60.0
    """Maximum Crawl-delay, in seconds. A host whose robots.txt has a longer one is not crawled."""
    concurrency_per_host: int = Field(default=1, ge=1, le=64)
    """Maximum number of concurrent requests to one host."""
    concurrency: int = Field(default=32, ge=1, le=1024)
    """Maximum number of concurrent requests."""
    timeout: float = Field(default=30.0, gt=0, le=600)
    """Seconds for one request."""
    retries: int = Field(default=2, ge=0, le=10)
    """Number of retries after 429, 5xx or a broken connection, each after the time in Retry-After."""
    max_retry_after: NonNegativeFloat = 600.0
    """Maximum wait before a retry, in seconds. A URL with a longer Retry-After is not retried."""
    connect_to: dict[str, str] = Field(default_factory=dict)
    """{"host" = "127.0.0.1:8123"}: IP address and port to connect to instead of resolving the host. Private IP addresses
    are reachable only by this table."""

    selection_fields: ClassVar[frozenset[str]] = _SignedSource.selection_fields | {"edition"}
    execution_fields: ClassVar[frozenset[str]] = _SignedSource.execution_fields | frozenset(
        {
            "contact",
            "delay",
            "concurrency_per_host",
            "concurrency",
            "timeout",
            "retries",
            "max_retry_after",
            "connect_to",
        }
    )
    order: ClassVar[int] = 5
    extracted_with: ClassVar[str] = "pairmill-site/2"
    offset_unit: ClassVar[str] = "page"
    provenance: ClassVar[Provenance | None] = "crawl"
    template: ClassVar[Template | None] = Template(
        summary="A site that you may crawl becomes a dataset of image-caption pairs and a CLIP model.",
        table="""start = {data}
contact = {contact}   # yours: where the site's owner learns who asks
edition = "1"                  # change it to crawl again
max_pages = 1000
delay = 1.0                    # minimum seconds between two requests to a host
# allowed_domains = ["example.org"]   # without it: the registered domains of the start URLs
{connect_to}   # your own server; also in [download]
""",
        data="https://example.org/",
        question="At which URL does the crawl start?",
    )

    @field_validator("edition")
    @classmethod
    def _with_date(cls, edition: str) -> str:
        time = SCHEDULED.get() or datetime.now(UTC)  # a late run keeps its day
        return time.astimezone(UTC).strftime(edition) if "%" in edition else edition

    @field_validator("start")
    @classmethod
    def _canonicalise_start(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return tuple(canonicalise_url(url, "", 65_536) for url in value)
        except BadUrl as bad:
            raise ValueError(f"must be absolute http or https URLs ({bad.reason})") from None

    @field_validator("allowed_domains")
    @classmethod
    def _canonicalise_domains(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(canonicalise_host(host.strip("[]")).strip("[]") for host in value)  # as in urlsplit().hostname

    @field_validator("connect_to")
    @classmethod
    def _check_connect_to(cls, value: dict[str, str]) -> dict[str, str]:
        parse_connect_to(value)
        return value

    @model_validator(mode="after")
    def _check_start_hosts(self) -> Self:
        connected = {host.lower() for host in self.connect_to}
        if unreachable := {url: entry for url in self.start if (entry := _suggest_connect_to(url, connected))}:
            table = f"{{ {', '.join(dict.fromkeys(unreachable.values()))} }}"
            raise ValueError(
                f"{', '.join(unreachable)}: not a public host; if it is yours, set connect_to = {table} in [source] and, "
                "for its images, in [download]"
            )
        hosts = sorted(set(self.start_hosts()) - connected)
        if self.contact is None and hosts:
            raise ValueError(
                f"contact is required to crawl {', '.join(hosts)}; set it to a page or a mailto: address by which the "
                "owners of the sites can reach you"
            )
        return self

    def problems(self) -> list[str]:
        return find_signer_problems(self)

    def describe_earlier(self, facts: SourceFacts, manifest: Manifest) -> EarlierSource | None:
        """Return what an earlier crawl from one of the same hosts found."""
        hosts = {urlsplit(one.key).hostname for one in manifest.inputs if one.stage == SOURCE}
        return None if hosts.isdisjoint(self.start_hosts()) else EarlierSource(facts.counts.input, 1)

    def estimate(self, context: Context, earlier: EarlierSource | None) -> SourceEstimate:
        """Return the rows of the crawl before."""
        rows = earlier.rows if earlier else None
        return SourceEstimate(rows, rows, 1)

    def start_hosts(self) -> list[str]:
        """Return the host names of the start URLs."""
        return [urlsplit(url).hostname or "" for url in self.start]

    @property
    def user_agent_header(self) -> str:
        """Value of the User-Agent header."""
        return format_user_agent(self.user_agent, self.contact)

    def inputs(self) -> list[Input]:
        """Return the start URLs; the edition is their digest, because their content is unknown before the crawl."""
        return [
            Input(stage=SOURCE, key=url, digest=text_sha256(canonical_json([url, self.edition]))) for url in self.start
        ]

    def files(self, context: Context) -> Sequence[SourceFile]:
        """Return no files, because there are none before the crawl: see `fetch`."""
        return []

    def fetch(self, draft: Draft, context: Context) -> FetchedFiles:
        """Run or resume the crawl, and put its archive into the draft as evidence."""
        folder = context.home / "jobs" / f"{self._task}-{draft.key}"
        record = draft.done(self._task) or draft.finish(self._crawl(draft, folder, context))
        shutil.rmtree(folder, ignore_errors=True)  # the draft has everything
        files = [
            ArchivedPages(part.name, draft.store.uri, draft.path(part.name), part.sha256)
            for part in record.parts
            if part.name.startswith(self.part_name(PAGES))
        ]
        return FetchedFiles(files, record.parts, record.facts)

    @property
    def _task(self) -> str:
        """Id of the task that crawls."""
        return f"crawl-{self.name}" if self.name else "crawl"

    def part_name(self, content: str) -> str:
        """Return the name of an evidence part; a snapshot may have the crawls of several sources."""
        return f"{EVIDENCE}{self.name}-{content}" if self.name else f"{EVIDENCE}{content}"

    def _crawl(self, draft: Draft, folder: Path, context: Context) -> Record:
        def follow(line: str) -> None:
            if line.startswith(PROGRESS):
                context.progress(0, 0, f"crawl: {line.removeprefix(PROGRESS)}")
            else:
                logger.info("crawl: %s", line)

        if not (folder / "out" / SUMMARY_NAME).exists():
            plugins.require(("scrapy", "warcio"), "crawl", 'source.kind = "site"')
            open_signer(self)  # an unusable key file ends the stage here, with its remedy
            job = {"site": self.model_dump(mode="json"), "folder": str(folder.resolve())}
            try:
                run_job("plugins.crawl.job", job, folder, on_line=follow)
            except JobFailed as error:
                if FREE_SPACE not in str(error):
                    raise
                raise StorageError(str(error), retryable=False) from error
        facts = CrawlFacts.model_validate_json((folder / "out" / SUMMARY_NAME).read_text("utf-8"))
        outcomes = format_counts(facts.outcomes.items())
        if not facts.outcomes.get("archived"):
            shutil.rmtree(folder)  # so that the next attempt requests the pages again
            raise _explain_empty_crawl(f"the crawl from {', '.join(self.start)} found no page ({outcomes})", facts)
        logger.info("crawl: %s", outcomes)
        written = sorted((folder / "out").glob(f"{EVIDENCE}*"))
        parts = [draft.put_file(path.name, path) for path in written]
        return Record(task=self._task, parts=parts, facts={"crawl": facts.as_json()})

    def read(self, file: SourceFile, rows: PairsWriter) -> None:
        """Read an archived file. `source_offset` is the number of the page: byte offsets vary with the servers' clocks."""
        with file.local() as path:
            for number, found in enumerate(read_pages(path, self.max_page_bytes, rows.count)):
                if isinstance(found, Damage):
                    rows.add_damage(number, found.reason)
                else:
                    self.add_page(replace(found, offset=number), rows)


_REMEDIES = {
    Reason.PRIVATE_ADDRESS: 'for a host of your own, set source.connect_to = { "HOST" = "IP_ADDRESS:PORT" }',
    Reason.NO_CONTACT: "set source.contact",
    "robots_denied": "robots.txt disallows the pages; set source.start to other pages",
    Reason.OPT_OUT: "the site declares that its pages are not for training; set source.start to other sites",
    Reason.PAYMENT_REQUIRED: "the site asks for payment; set source.start to other sites",
    "crawl_delay_too_long": "raise source.max_crawl_delay",
}
"""What to do if a crawl found no page, by the outcome of most URLs."""


def _explain_empty_crawl(what: str, facts: CrawlFacts) -> SourceError:
    """Return the error of a crawl without a page; a retry may help only if a request failed for a temporary reason."""
    outcomes = Counter(facts.outcomes)
    if any(is_transient(outcome) or outcome == "robots_unreachable" for outcome in outcomes):
        return SourceError(f"{what}; check source.start and the network")
    most = outcomes.most_common(1)[0][0] if outcomes else ""
    return UnusableSource(f"{what}; {_REMEDIES.get(most, 'check source.start')}")


@dataclass(frozen=True)
class ArchivedPages(SourceFile):
    """A WARC file of the crawl, in the store."""

    name: str
    store_uri: str
    object_name: str
    sha256: str

    def digest(self) -> str:
        return self.sha256

    def open(self) -> OpenFile:
        with self.local() as path:
            return path.open("rb")

    @contextmanager
    def local(self) -> Iterator[Path]:
        try:
            path = open_store(self.store_uri).local(self.object_name)
        except StorageError as error:
            raise SourceError(str(error)) from error
        yield path


def _suggest_connect_to(url: str, connected: Collection[str] = ()) -> str | None:
    """Return the entry of `connect_to` for a URL whose host is this machine or an IP address that is not public.

    Args:
        connected: hosts that have an entry; None is returned for them, and for all hosts that must be resolved first.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if host in connected:
        return None
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761: always this machine
        return f'"{host}" = "127.0.0.1:{port}"'
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return None
    address = f"[{ip}]" if ip.version == 6 else str(ip)
    return None if is_public(host) else f'"{host}" = "{address}:{port}"'
