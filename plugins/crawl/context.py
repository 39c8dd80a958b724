"""Holds the state that the parts of one crawl share."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataops.web.urls import find_registrable_domain
from plugins.crawl.archive import Archive
from plugins.crawl.frontier import Budget, Frontier
from plugins.crawl.source import SiteSource
from tasks.web.address_policy import ConnectTo, parse_connect_to
from tasks.web.signing import Sign, open_signer


@dataclass
class Crawl:
    """The config, frontier and archive of one crawl, and what it learnt about hosts; Scrapy's settings contain it."""

    config: SiteSource
    frontier: Frontier
    archive: Archive
    connect_to: ConnectTo
    domains: frozenset[str]
    """Domains whose hosts are crawled."""
    sign: Sign | None = None
    """Signs each request; None: requests are not signed."""
    blocked_hosts: dict[str, str] = field(default_factory=dict)
    """By host: the reason why the resolver refused it."""
    delays: dict[str, float] = field(default_factory=dict)
    """By host: seconds between requests that its robots.txt requires."""
    failure: Exception | None = None
    """The error that ends the crawl, such as of a full disk."""

    @classmethod
    def open(cls, config: SiteSource, folder: Path) -> "Crawl":
        """Start a crawl in a folder, or resume the one that is there."""
        budget = Budget(config.max_pages, config.max_pages_per_host, 20 * config.max_pages + 10_000)
        frontier = Frontier(folder / "frontier.sqlite", budget)
        archive = Archive(folder / "crawl.warc.gz", frontier.archive_end())
        domains = config.allowed_domains or tuple(find_registrable_domain(host) for host in config.start_hosts())
        return cls(
            config, frontier, archive, parse_connect_to(config.connect_to), frozenset(domains), open_signer(config)
        )

    @contextmanager
    def ending_at_errors(self, crawler: Any) -> Iterator[None]:
        """End the crawl if the body raises: Scrapy only logs it, and would wait for the URL in flight without end."""
        try:
            yield
        except Exception as error:
            if self.failure is None:
                self.failure = error
                self._end = asyncio.ensure_future(crawler.engine.close_spider_async(reason="failed"))

    def close(self) -> None:
        """Close the files."""
        self.archive.close()
        self.frontier.close()

    def allows(self, host: str) -> bool:
        """Return whether the host is in one of the domains."""
        labels = host.split(".")
        return any(".".join(labels[i:]) in self.domains for i in range(len(labels)))

    def __deepcopy__(self, memo: Any) -> "Crawl":
        """Return the same object: Scrapy copies its settings, but there is only one frontier and one archive."""
        return self
