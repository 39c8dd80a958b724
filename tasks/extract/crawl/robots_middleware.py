"""Obeys robots.txt by RFC 9309, and its declarations against training; it is requested once for each origin, before any
other URL.

It replaces Scrapy's own middleware, which allows everything if robots.txt cannot be read (the standard forbids everything),
and which ignores Crawl-delay.
"""

import asyncio
import logging
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

from scrapy import Request

from dataops.rights.robots_txt import RobotsFile, decode_file, is_unreachable
from dataops.rights.signals import Agents
from dataops.web.urls import BadUrl, canonicalise_url
from tasks.extract.crawl.context import Crawl
from tasks.extract.crawl.responses import RequestRefused, build_capture, classify_failure, parse_retry_after
from tasks.web.host_state import MAX_BYTES
from tasks.web.request import MAX_REDIRECTS

logger = logging.getLogger(__name__)

MAX_ROBOTS_BYTES = 4 * MAX_BYTES
"""Maximum size of a robots.txt, in bytes; of a longer one nothing is read."""


@dataclass(frozen=True)
class OriginRules:
    """The rules of an origin. With neither a file nor a refusal, everything is allowed."""

    file: RobotsFile | None = None
    refusal: str | None = None
    """The reason why nothing is allowed."""


class RobotsMiddleware:
    """A downloader middleware that refuses forbidden requests."""

    def __init__(self, crawler: Any):
        self.crawler = crawler
        self.crawl: Crawl = crawler.settings["CRAWL"]
        self._rules: dict[str, asyncio.Task[OriginRules]] = {}

    @classmethod
    def from_crawler(cls, crawler: Any) -> "RobotsMiddleware":
        """Create the middleware, as Scrapy requires."""
        return cls(crawler)

    async def process_request(self, request: Request) -> None:
        """Allow a request. Raises: RequestRefused."""
        if request.meta.get("robots"):
            return
        parts = urlsplit(request.url)
        origin = f"{parts.scheme}://{parts.netloc}"
        if origin not in self._rules:
            self._rules[origin] = asyncio.ensure_future(self._fetch(origin, parts.hostname or ""))
        rules = await asyncio.shield(self._rules[origin])
        if rules.refusal:
            raise RequestRefused(rules.refusal)
        if rules.file and not rules.file.allows(request.url, self.crawl.config.user_agent):
            raise RequestRefused("robots_denied")
        found = rules.file.find_opt_outs(request.url, Agents(self.crawl.config.user_agent)) if rules.file else ()
        for signal, detail in found:
            if signal in self.crawl.config.opt_out:
                raise RequestRefused("opt_out", f"{signal} {detail}")

    async def _fetch(self, origin: str, host: str) -> OriginRules:
        config = self.crawl.config
        for attempt in range(config.retries + 1):
            status, body, wait = await self._request(f"{origin}/robots.txt")
            if status is not None and not is_unreachable(status):
                break
            if host in self.crawl.blocked_hosts:
                return OriginRules(refusal=self.crawl.blocked_hosts[host])
            if attempt < config.retries:
                await asyncio.sleep(min(wait or config.delay * 2**attempt, config.max_retry_after))
        else:
            return OriginRules(refusal="robots_unreachable")
        if not 200 <= status < 300:
            return OriginRules()  # there is no robots.txt
        file = RobotsFile.parse(decode_file(body[:MAX_BYTES]), [config.user_agent])
        delay = file.crawl_delay(config.user_agent)
        if delay is not None and delay > config.max_crawl_delay:
            return OriginRules(refusal="crawl_delay_too_long")
        if delay:
            self.crawl.delays[host] = max(float(delay), self.crawl.delays.get(host, 0.0))
        return OriginRules(file)

    async def _request(self, url: str) -> tuple[int | None, bytes, float | None]:
        """Request a robots.txt, and follow redirects.

        Returns: status (None without a response), body, and the seconds of Retry-After.
        """
        for _ in range(MAX_REDIRECTS + 1):
            headers = {"User-Agent": self.crawl.config.user_agent_header, "Accept": "text/plain,*/*;q=0.5"}
            meta = {"robots": True, "download_maxsize": MAX_ROBOTS_BYTES, "download_timeout": self.crawl.config.timeout}
            try:
                response = await self.crawler.engine.download_async(Request(url, headers=headers, meta=meta))
            except Exception as error:  # Twisted and TLS raise many unrelated classes
                logger.info("%s was not fetched: %s", url, classify_failure(error))
                return None, b"", None
            location = response.headers.get("Location")
            if not 300 <= response.status < 400 or location is None:
                offset, length = self.crawl.archive.add(build_capture(response))
                self.crawl.frontier.add_robots(url, offset, length)
                return response.status, response.body, parse_retry_after(response.headers)
            try:
                url = canonicalise_url(urljoin(url, location.decode("latin-1")), url, self.crawl.config.max_url_chars)
            except (BadUrl, ValueError):
                break
        return 404, b"", None  # RFC 9309, 2.3.1.2: after five redirects, robots.txt counts as missing
