"""Which address is asked for, and when: Scrapy's scheduler and auto-throttle, bound to the frontier and to robots.txt."""

import asyncio
import time
from typing import Any

from scrapy import Request, signals
from scrapy.core.scheduler import BaseScheduler
from scrapy.extensions.throttle import AutoThrottle

from tasks.extract.crawl.context import Crawl
from tasks.extract.crawl.frontier import QueuedUrl


class PoliteScheduler(BaseScheduler):
    """Takes addresses from the frontier, a few of a host at a time, none of a host that asked to be left alone."""

    def __init__(self, crawler: Any):
        self.crawler = crawler
        self.crawl: Crawl = crawler.settings["CRAWL"]
        self.paused_until: dict[str, float] = {}

    @classmethod
    def from_crawler(cls, crawler: Any) -> "PoliteScheduler":
        """As Scrapy makes it."""
        return cls(crawler)

    def has_pending_requests(self) -> bool:
        """Whether the crawl goes on, perhaps later."""
        return self.crawl.frontier.has_waiting()

    def next_request(self) -> Request | None:
        """The next request that may be made now."""
        config = self.crawl.config
        address = self.crawl.frontier.take(self._may_ask, config.concurrency_per_host)
        if address is None:
            return None
        headers = {"User-Agent": config.user_agent_header, "Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.1"}
        headers["Accept-Encoding"] = "gzip"
        meta = {"address": address, "download_timeout": config.timeout}
        return Request(address.url, headers=headers, meta=meta, errback=self.crawler.spider.failed, dont_filter=True)

    def enqueue_request(self, request: Request) -> bool:
        """Only a call to look again: all addresses come from the frontier."""
        return True

    def pause(self, host: str, seconds: float) -> None:
        """Leave a host alone for a while."""
        self.paused_until[host] = max(self.paused_until.get(host, 0), time.monotonic() + seconds)
        wake = Request("https://wake.invalid/", dont_filter=True)
        asyncio.get_running_loop().call_later(seconds + 0.05, self.crawler.engine.crawl, wake)

    def _may_ask(self, host: str) -> bool:
        return self.paused_until.get(host, 0) <= time.monotonic()

    def again(self, address: QueuedUrl, seconds: float) -> None:
        """Give a failed address back, and its host a rest."""
        self.crawl.frontier.give_back(address)
        self.pause(address.host, seconds)


class CrawlDelayThrottle(AutoThrottle):
    """Scrapy's auto-throttle, which never goes below what a host's robots.txt asks for."""

    def __init__(self, crawler: Any):
        super().__init__(crawler)
        self.crawl: Crawl = crawler.settings["CRAWL"]
        crawler.signals.connect(self._reached, signal=signals.request_reached_downloader)

    def _reached(self, request: Request, spider: Any) -> None:
        _, slot = self._get_slot(request, spider)
        if slot is not None:
            self._keep_delay(slot, request.meta["download_slot"])

    def _response_downloaded(self, response: Any, request: Request, spider: Any) -> None:
        super()._response_downloaded(response, request, spider)
        self._reached(request, spider)

    def _keep_delay(self, slot: Any, host: str) -> None:
        asked = self.crawl.delays.get(host)
        if asked is not None:
            slot.delay = max(slot.delay, asked)
            slot.concurrency = 1
