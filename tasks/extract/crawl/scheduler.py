"""Decides which URL is requested when: Scrapy's scheduler and auto-throttle, based on the frontier and robots.txt."""

import asyncio
import time
from typing import Any

from scrapy import Request, signals
from scrapy.core.scheduler import BaseScheduler
from scrapy.extensions.throttle import AutoThrottle

from tasks.extract.crawl.context import Crawl
from tasks.extract.crawl.frontier import QueuedUrl


class PoliteScheduler(BaseScheduler):
    """Takes URLs from the frontier, with a limit for each host, and none of a paused host."""

    def __init__(self, crawler: Any):
        self.crawler = crawler
        self.crawl: Crawl = crawler.settings["CRAWL"]
        self.paused_until: dict[str, float] = {}

    @classmethod
    def from_crawler(cls, crawler: Any) -> "PoliteScheduler":
        """Create the scheduler, as Scrapy requires."""
        return cls(crawler)

    def has_pending_requests(self) -> bool:
        """Return whether there are URLs to request, now or later."""
        return self.crawl.frontier.has_next()

    def next_request(self) -> Request | None:
        """Return the next request that may be sent now, or None."""
        config = self.crawl.config
        address = self.crawl.frontier.take_next(self._may_request, config.concurrency_per_host)
        if address is None:
            return None
        headers = {"User-Agent": config.user_agent_header, "Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.1"}
        headers["Accept-Encoding"] = "gzip"
        meta = {"address": address, "download_timeout": config.timeout}
        return Request(address.url, headers=headers, meta=meta, errback=self.crawler.spider.failed, dont_filter=True)

    def enqueue_request(self, request: Request) -> bool:
        """Accept the request without storing it: it only wakes the engine, and all URLs come from the frontier."""
        return True

    def pause(self, host: str, seconds: float) -> None:
        """Send no request to a host for some seconds."""
        self.paused_until[host] = max(self.paused_until.get(host, 0), time.monotonic() + seconds)
        wake = Request("https://wake.invalid/", dont_filter=True)
        asyncio.get_running_loop().call_later(seconds + 0.05, self.crawler.engine.crawl, wake)

    def _may_request(self, host: str) -> bool:
        return self.paused_until.get(host, 0) <= time.monotonic()

    def retry_later(self, address: QueuedUrl, seconds: float) -> None:
        """Put a failed URL back, and pause its host."""
        self.crawl.frontier.requeue(address)
        self.pause(address.host, seconds)


class CrawlDelayThrottle(AutoThrottle):
    """Scrapy's auto-throttle, with the Crawl-delay of robots.txt as the minimum."""

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
        crawl_delay = self.crawl.delays.get(host)
        if crawl_delay is not None:
            slot.delay = max(slot.delay, crawl_delay)
            slot.concurrency = 1
