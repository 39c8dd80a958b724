"""What the parts of one crawl share."""

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import tldextract

from tasks.extract.crawl.archive import Archive
from tasks.extract.crawl.frontier import Budget, Frontier
from tasks.extract.sources.site import SiteSource
from tasks.web.address_policy import ConnectTo, parse_connect_to

_suffixes = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None, include_psl_private_domains=True)


@dataclass
class Crawl:
    """One crawl: its config, its frontier, its archive, and what was learnt of hosts. Scrapy's settings carry it."""

    config: SiteSource
    frontier: Frontier
    archive: Archive
    connect_to: ConnectTo
    domains: frozenset[str]
    """Hosts at or below one of these are crawled."""
    refusals: dict[str, str] = field(default_factory=dict)
    """Why the resolver refused a host."""
    delays: dict[str, float] = field(default_factory=dict)
    """By host: seconds between requests that its robots.txt asks for."""

    @classmethod
    def open(cls, config: SiteSource, folder: Path) -> "Crawl":
        """Begin a crawl in a folder, or go on with the one that is there."""
        budget = Budget(config.max_pages, config.max_pages_per_host, 20 * config.max_pages + 10_000)
        frontier = Frontier(folder / "frontier.sqlite", budget)
        archive = Archive(folder / "crawl.warc.gz", frontier.archive_end())
        domains = config.allowed_domains or tuple(find_registrable_domain(host) for host in config.start_hosts())
        return cls(config, frontier, archive, parse_connect_to(config.connect_to), frozenset(domains))

    def close(self) -> None:
        """Let go of the files."""
        self.archive.close()
        self.frontier.close()

    def allows(self, host: str) -> bool:
        """Whether a host is one of those to crawl."""
        labels = host.split(".")
        return any(".".join(labels[i:]) in self.domains for i in range(len(labels)))

    def __deepcopy__(self, memo: Any) -> "Crawl":
        """Itself: Scrapy copies its settings, but there is one frontier and one archive."""
        return self


@lru_cache(maxsize=10_000)
def find_registrable_domain(host: str) -> str:
    """The part of a host name that one registers: www.example.co.uk gives example.co.uk. Address literals stay.

    Source: the Public Suffix List as it comes with tldextract, its private section too (user.github.io stands alone).
    """
    return _suffixes(host).top_domain_under_public_suffix or host
