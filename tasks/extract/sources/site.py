"""`kind = "site"`: a polite crawl of sites that one may crawl, kept as WARC files, which are then read like any archive.

The crawl runs in a process of its own (tasks.extract.crawl.job), in a folder of its own below the home, where a killed one goes on.
Its archive becomes parts of the snapshot that no digest covers: the pairs are the content, the archive is the evidence.
"""

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from dataops.archives.warc import Damage, read_pages
from dataops.digest import canonical_json, text_sha256
from dataops.errors import SourceError, StorageError
from dataops.formatting import format_counts
from dataops.snapshot import Draft, Input, Part, Record
from dataops.store import open_store
from dataops.web.urls import BadUrl, canonicalise_host, canonicalise_url
from tasks.engine.context import Context
from tasks.engine.subprocess_job import run_job
from tasks.extract.sources.base import FetchedFiles
from tasks.extract.sources.pairs_writer import PairsWriter
from tasks.extract.sources.warc import PagesSource
from tasks.files.base import OpenFile, SourceFile
from tasks.web.address_policy import parse_connect_to

logger = logging.getLogger(__name__)

VERSION = "0.1"
SUMMARY_NAME = "crawl.json"
PAGES_PREFIX = "evidence-pages-"
ROBOTS_NAME = "evidence-robots.warc.gz"
INDEX_NAME = "evidence-crawl.parquet"
_TASK = "crawl"


class SiteSource(PagesSource):
    """`[source]` of `kind = "site"`."""

    kind: Literal["site"] = "site"
    """A crawl, by Scrapy; robots.txt is obeyed (RFC 9309), and what pages and headers say of following and indexing."""
    start: tuple[str, ...] = Field(min_length=1)
    """Addresses at which the crawl begins."""
    edition: str = Field(default="", max_length=100)
    """A label of your own, such as a date: change it to crawl again. A config is crawled once for each edition."""
    allowed_domains: tuple[str, ...] = ()
    """Hosts at or below these are crawled. Without any: the registered domains of the start addresses."""
    max_depth: int = Field(default=8, ge=0, le=1000)
    """Links between a start address and a page."""
    max_pages: int = Field(default=10_000, ge=1, le=10_000_000)
    """Addresses that are asked for, whatever they answer."""
    max_pages_per_host: int = Field(default=10_000, ge=1, le=10_000_000)
    """Likewise, of one host."""
    pages_per_part: int = Field(default=5_000, ge=1)
    """Pages in one WARC file, which makes one part."""
    user_agent: str = Field(default="pairmill", pattern=r"^[A-Za-z0-9_-]+$")
    """The name in the User-Agent header, and the one that robots.txt and pages may address."""
    contact: str | None = Field(default=None, pattern=r"^[\x21-\x7e]+$")
    """An address in the User-Agent header, where a site's owner learns who asks (a page or mailto:). Without it only hosts
    in `connect_to` are asked."""
    delay: float = Field(default=1.0, ge=0, le=3600)
    """Seconds between two requests to a host, at least; more where it is slow (Scrapy's auto-throttle) or its robots.txt
    asks for more (Crawl-delay)."""
    max_crawl_delay: float = Field(default=60.0, ge=0)
    """A host whose robots.txt asks for a longer one is left alone."""
    concurrency_per_host: int = Field(default=1, ge=1, le=64)
    """Requests to one host at a time."""
    concurrency: int = Field(default=32, ge=1, le=1024)
    """Requests at a time."""
    timeout: float = Field(default=30.0, gt=0, le=600)
    """Seconds for one request."""
    retries: int = Field(default=2, ge=0, le=10)
    """More tries after 429, 5xx or a broken connection; not before Retry-After says."""
    max_retry_after: float = Field(default=600.0, ge=0)
    """A host that asks for a longer rest loses the page."""
    connect_to: dict[str, str] = Field(default_factory=dict)
    """{"host" = "127.0.0.1:8123"}: connect there instead of resolving the host. The only way to a private address."""

    execution_fields: ClassVar[frozenset[str]] = frozenset(
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
    extracted_with: ClassVar[str] = "pairmill-site/1"

    @field_validator("start")
    @classmethod
    def _addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return tuple(canonicalise_url(url, "", 65_536) for url in value)
        except BadUrl as bad:
            raise ValueError(f"must hold absolute http or https addresses ({bad.reason})") from None

    @field_validator("allowed_domains")
    @classmethod
    def _hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(canonicalise_host(host) for host in value)

    @field_validator("connect_to")
    @classmethod
    def _plain_addresses(cls, value: dict[str, str]) -> dict[str, str]:
        parse_connect_to(value)
        return value

    @model_validator(mode="after")
    def _says_who_asks(self) -> Self:
        unknown = sorted(set(self.start_hosts()) - {host.lower() for host in self.connect_to})
        if self.contact is None and unknown:
            hosts = ", ".join(unknown)
            raise ValueError(
                f"contact is required to crawl {hosts}: a page or a mailto: address where its owner learns who asks"
            )
        return self

    def start_hosts(self) -> list[str]:
        """Host names of the start addresses."""
        return [urlsplit(url).hostname or "" for url in self.start]

    @property
    def user_agent_header(self) -> str:
        """For example `pairmill/0.1 (+https://example.org/bot)`."""
        return f"{self.user_agent}/{VERSION}" + (f" (+{self.contact})" if self.contact else "")

    def inputs(self) -> list[Input]:
        """The start addresses: what they answered is not known before, so the edition stands for it."""
        return [
            Input(stage="source", key=url, digest=text_sha256(canonical_json([url, self.edition])))
            for url in self.start
        ]

    def files(self, context: Context) -> Sequence[SourceFile]:
        """None before the crawl: see `fetch`."""
        return []

    def fetch(self, draft: Draft, context: Context) -> FetchedFiles:
        """Crawl, or go on with a crawl that was ended; its archive becomes evidence of the draft."""
        record = draft.done(_TASK) or draft.finish(self._crawl(draft, context.home / "jobs" / f"crawl-{draft.key}"))
        shutil.rmtree(context.home / "jobs" / f"crawl-{draft.key}", ignore_errors=True)  # the draft has all of it
        files = [
            ArchivedPages(part.name, draft.store.uri, draft.path(part.name), part.sha256)
            for part in record.parts
            if part.name.startswith(PAGES_PREFIX)
        ]
        return FetchedFiles(files, record.parts, record.facts)

    def _crawl(self, draft: Draft, folder: Path) -> Record:
        if not (folder / "out" / SUMMARY_NAME).exists():
            job = {"site": self.model_dump(mode="json"), "folder": str(folder.resolve())}
            run_job("tasks.extract.crawl.job", job, folder, on_line=lambda line: logger.info("crawl: %s", line))
        facts: dict[str, Any] = json.loads((folder / "out" / SUMMARY_NAME).read_text("utf-8"))
        if not facts["outcomes"].get("archived"):
            shutil.rmtree(folder)  # the next try asks again
            reasons = format_counts(facts["outcomes"].items())
            raise SourceError(
                f"the crawl from {', '.join(self.start)} brought no page ({reasons}); check the addresses and the network"
            )
        logger.info("crawl: %s", format_counts(facts["outcomes"].items()))
        return Record(task=_TASK, parts=list(self._kept(draft, folder / "out")), facts={"crawl": facts})

    @staticmethod
    def _kept(draft: Draft, out: Path) -> Iterator[Part]:
        for path in sorted(out.glob("evidence-*")):
            yield draft.put_file(path.name, path)

    def read(self, file: SourceFile, rows: PairsWriter) -> None:
        """As any archive; the offset of a row is the number of its page, which does not change with the servers' clocks."""
        with file.local() as path:
            for number, found in enumerate(read_pages(path, self.max_page_bytes, rows.count)):
                if isinstance(found, Damage):
                    rows.damage(number, found.reason)
                else:
                    self.add_page(replace(found, offset=number), rows)


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
