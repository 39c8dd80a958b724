"""Reads each answer: keeps pages in the archive, and puts what they link to into the frontier."""

import hashlib
import logging
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urljoin, urlsplit

from scrapy import Request, Spider, signals
from scrapy.exceptions import StopDownload
from scrapy.http import Response
from twisted.python.failure import Failure

from dataops.archives.http_body import BadBody, decode_body, split_response
from dataops.archives.warc import HTML_TYPES
from dataops.rights.opt_outs import find_disallowed_directive
from dataops.web.charsets import convert_to_utf8
from dataops.web.links import PageLinks, extract_links
from dataops.web.markup import BadPage
from dataops.web.urls import BadUrl, canonicalise_url
from tasks.extract.crawl.archive import Capture
from tasks.extract.crawl.context import Crawl
from tasks.extract.crawl.frontier import QueuedUrl
from tasks.extract.crawl.responses import (
    TRANSIENT,
    TRANSIENT_STATUS,
    RequestRefused,
    build_capture,
    build_message,
    classify_failure,
    parse_retry_after,
)

logger = logging.getLogger(__name__)

MAX_REDIRECTS = 10


class SiteSpider(Spider):
    """The one spider: what it asks for is the scheduler's to say."""

    name = "pairmill"

    @classmethod
    def from_crawler(cls, crawler: Any, *args: Any, **kwargs: Any) -> "SiteSpider":
        """As Scrapy makes it."""
        spider = super().from_crawler(crawler, *args, **kwargs)
        spider.crawl = crawler.settings["CRAWL"]
        crawler.signals.connect(spider.headers_received, signal=signals.headers_received)
        return spider

    crawl: Crawl

    async def start(self) -> AsyncIterator[Request]:
        """Put the start addresses into the frontier, unless they are there from an earlier try."""
        for url in self.crawl.config.start:
            self._add(canonicalise_url(url, url, self.crawl.config.max_url_chars), 0, None)
        return
        yield  # pragma: no cover  (an empty generator: requests come from the scheduler)

    def headers_received(self, headers: Any, request: Request, **_: Any) -> None:
        """Do without the body of what is no page: only pages are kept; pictures are the download stage's."""
        media_type = (headers.get("Content-Type") or b"").decode("latin-1").partition(";")[0].strip().lower()
        if media_type and media_type not in HTML_TYPES and not request.meta.get("robots"):
            raise StopDownload(fail=False)

    def parse(self, response: Response, **_: Any) -> None:
        """Take in one answer."""
        address: QueuedUrl = response.meta["address"]
        status = response.status
        if status in TRANSIENT_STATUS and self._try_again(address, parse_retry_after(response.headers)):
            return
        with self.crawl.frontier.transaction():
            if 300 <= status < 400 and response.headers.get("Location"):
                self._redirected(address, response)
            elif not 200 <= status < 300:
                self._finish(address, f"http_{status}", response)
            elif "download_stopped" in response.flags:
                self._finish(address, "not_html", response)
            else:
                self._page(address, response)

    def failed(self, failure: Failure) -> None:
        """Take in a request that got no answer."""
        address: QueuedUrl = failure.request.meta["address"]  # type: ignore[attr-defined]
        error = failure.value or RuntimeError()
        reason = classify_failure(error)
        if isinstance(error, RequestRefused):
            self.crawl.frontier.finish(address, reason, asked=False)
            return
        reason = self.crawl.refusals.get(address.host, reason) if reason in ("dns", "connect") else reason
        if reason not in TRANSIENT or not self._try_again(address, None):
            self.crawl.frontier.finish(address, reason)

    def _try_again(self, address: QueuedUrl, asked_for: float | None) -> bool:
        config = self.crawl.config
        wait = asked_for if asked_for is not None else config.delay * 2 ** (address.tries + 1)
        if address.tries >= config.retries or wait > config.max_retry_after:
            return False
        self.crawler.engine.scheduler.again(address, wait)  # type: ignore[union-attr]
        return True

    def _finish(self, address: QueuedUrl, outcome: str, response: Response, **more: Any) -> None:
        known = {"http_status": response.status, "server_address": str(response.ip_address or "") or None}
        self.crawl.frontier.finish(address, outcome, **known, **more)

    def _redirected(self, address: QueuedUrl, response: Response) -> None:
        location = (response.headers.get("Location") or b"").decode("utf-8", "replace")
        try:
            target = canonicalise_url(urljoin(address.url, location), address.url, self.crawl.config.max_url_chars)
        except (BadUrl, ValueError):
            self._finish(address, "bad_redirect", response)
            return
        if address.redirects >= MAX_REDIRECTS:
            self._finish(address, "too_many_redirects", response, detail=target)
            return
        taken = self._add(target, address.depth, address.url, address.redirects + 1)
        self._finish(address, "redirect" if taken != "off_site" else "redirect_off_site", response, detail=target)

    def _page(self, address: QueuedUrl, response: Response) -> None:
        exchange = build_capture(response)
        try:
            links = self._links(exchange, address.url)
        except (BadBody, BadPage) as bad:
            self._finish(address, bad.reason, response, bytes=len(response.body))
            return
        except Exception:  # no page may end the crawl, whatever it does to a parser: it is listed as unreadable
            logger.exception("%s", address.url)
            self._finish(address, "unreadable", response, bytes=len(response.body))
            return
        told = links.directives | self._header_directives(response)
        if "noindex" in told:
            self._finish(address, "noindex", response)
        else:
            offset, length = self.crawl.archive.add(exchange)
            kept = {"offset": offset, "length": length, "bytes": len(response.body), "fetched_at": exchange.fetched_at}
            digest = hashlib.sha256(response.body).hexdigest()
            self._finish(address, "archived", response, sha256=digest, **kept)
        if "nofollow" in told:
            links.not_followed["nofollow"] = links.not_followed.get("nofollow", 0) + len(links.follow)
            links.follow.clear()
        self._follow(address, links)

    def _header_directives(self, response: Response) -> set[str]:
        headers, agent = build_message(response), self.crawl.config.user_agent
        asked = {name: find_disallowed_directive(headers, agent, frozenset({name})) for name in ("noindex", "nofollow")}
        found = {name for name, header in asked.items() if header}
        return found | ({"nofollow"} if asked["noindex"] == "none" else set())

    def _links(self, exchange: Capture, url: str) -> PageLinks:
        config = self.crawl.config
        head, body = split_response(exchange.response_bytes())
        html, _ = convert_to_utf8(decode_body(head, body, config.max_page_bytes), head.charset)
        return extract_links(html, url, config.user_agent.lower(), config.max_url_chars)

    def _follow(self, address: QueuedUrl, links: PageLinks) -> None:
        counted = Counter(links.not_followed)
        for url in links.follow:
            counted[self._add(url, address.depth + 1, address.url)] += 1
        for reason in counted.keys() - {"new", "known"}:
            self.crawl.frontier.count(reason, counted[reason])

    def _add(self, url: str, depth: int, referrer: str | None, redirects: int = 0) -> str:
        """Put an address into the frontier; returns new, known, or why not."""
        host = urlsplit(url).hostname or ""
        if not self.crawl.allows(host):
            return "off_site"
        if depth > self.crawl.config.max_depth:
            return "too_deep"
        return "new" if self.crawl.frontier.add(url, host, depth, referrer, redirects) else "known"
