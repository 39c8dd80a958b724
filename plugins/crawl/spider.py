"""Reads each response: writes pages to the archive, and adds their links to the frontier."""

import hashlib
import logging
import sys
import time
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
from dataops.reasons import Reason
from dataops.rights.refusals import (
    BOT_MANAGER,
    MAX_OFFER_BYTES,
    describe_price,
    offers_in_body,
)
from dataops.rights.rsl import RSL
from dataops.rights.signals import X_ROBOTS_TAG
from dataops.web.charsets import convert_to_utf8
from dataops.web.markup import BadPage
from dataops.web.urls import BadUrl, canonicalise_url
from plugins.crawl.archive import Capture
from plugins.crawl.context import Crawl
from plugins.crawl.frontier import QueuedUrl
from plugins.crawl.links import PageLinks, extract_links, find_directives
from plugins.crawl.responses import (
    TRANSIENT,
    TRANSIENT_STATUS,
    RequestRefused,
    build_capture,
    build_message,
    classify_failure,
    find_refusals,
    parse_retry_after,
)
from plugins.crawl.source import PROGRESS

logger = logging.getLogger(__name__)

MAX_REDIRECTS = 10
PROGRESS_SECONDS = 2.0
"""Minimum time between two lines about the progress, in seconds."""


class SiteSpider(Spider):
    """The only spider; the scheduler decides what it requests."""

    name = "pairmill"

    @classmethod
    def from_crawler(cls, crawler: Any, *args: Any, **kwargs: Any) -> "SiteSpider":
        """Create the spider, as Scrapy requires."""
        spider = super().from_crawler(crawler, *args, **kwargs)
        spider.crawl = crawler.settings["CRAWL"]
        crawler.signals.connect(spider.headers_received, signal=signals.headers_received)
        crawler.signals.connect(spider.bytes_received, signal=signals.bytes_received)
        return spider

    crawl: Crawl
    _printed = 0.0

    async def start(self) -> AsyncIterator[Request]:
        """Add the start URLs to the frontier; a resumed crawl already has them."""
        with self.crawl.ending_at_errors(self.crawler):
            for url in self.crawl.config.start:
                self._add(canonicalise_url(url, url, self.crawl.config.max_url_chars), 0, None)
        return
        yield  # pragma: no cover  (makes this an empty generator: requests come from the scheduler)

    def headers_received(self, headers: Any, request: Request, **_: Any) -> None:
        """Skip the body of a response that is not HTML: only pages are archived, and the download stage fetches images.

        Of JSON the start is read, because it may be the offer of a 402 response, whose status is not known here.
        """
        if _is_page(headers) or request.meta.get("robots"):
            return
        if b"json" not in (headers.get("Content-Type") or b"").lower():
            raise StopDownload(fail=False)
        request.meta["left"] = MAX_OFFER_BYTES

    def bytes_received(self, data: bytes, request: Request, **_: Any) -> None:
        """Skip the rest of a body of which only the start is read."""
        if "left" in request.meta:
            request.meta["left"] -= len(data)
            if request.meta["left"] <= 0:
                raise StopDownload(fail=False)

    def parse(self, response: Response, **_: Any) -> None:
        """Process a response. If the crawl ends at an error, the URL is requested again when it resumes."""
        if self.crawl.failure is None:
            with self.crawl.ending_at_errors(self.crawler):
                self._process(response)

    def _process(self, response: Response) -> None:
        self._print_progress()
        address: QueuedUrl = response.meta["address"]
        status = response.status
        is_refused = any(name == BOT_MANAGER.name for name, _ in find_refusals(response))
        if status in TRANSIENT_STATUS and not is_refused and self._retry(address, parse_retry_after(response.headers)):
            return
        with self.crawl.frontier.transaction():
            if 300 <= status < 400 and response.headers.get("Location"):
                self._redirected(address, response)
            elif status == 402:
                headers = build_message(response)
                price = describe_price(headers, response.body if offers_in_body(headers) else b"")
                detail = "; ".join([price, *_describe_licenses(response)])
                self._finish(address, Reason.PAYMENT_REQUIRED, response, detail=detail)
            elif not 200 <= status < 300:
                self._refused(address, response)
            elif not _is_page(response.headers):
                self._finish(address, "not_html", response)
            else:
                self._page(address, response)

    def failed(self, failure: Failure) -> None:
        """Process a request without a response; see `parse`."""
        if self.crawl.failure is None:
            with self.crawl.ending_at_errors(self.crawler):
                self._process_failure(failure)

    def _process_failure(self, failure: Failure) -> None:
        self._print_progress()
        address: QueuedUrl = failure.request.meta["address"]  # type: ignore[attr-defined]
        error = failure.value or RuntimeError()
        reason = classify_failure(error)
        if isinstance(error, RequestRefused):
            self.crawl.frontier.record_outcome(address, reason, requested=False, detail=error.detail)
            return
        reason = (
            self.crawl.blocked_hosts.get(address.host, reason) if reason in (Reason.DNS, Reason.CONNECT) else reason
        )
        if reason not in TRANSIENT or not self._retry(address, None):
            self.crawl.frontier.record_outcome(address, reason)

    def _print_progress(self) -> None:
        """Print a line for the stage's progress, at most every PROGRESS_SECONDS."""
        now = time.monotonic()
        if now - self._printed >= PROGRESS_SECONDS:
            self._printed = now
            sys.stdout.write(f"{PROGRESS}{self.crawl.frontier.describe()}\n")

    def _retry(self, address: QueuedUrl, retry_after: float | None) -> bool:
        """Requeue a URL for a retry. Return False if no retry is allowed."""
        config = self.crawl.config
        wait = retry_after if retry_after is not None else config.delay * 2 ** (address.tries + 1)
        if address.tries >= config.retries or wait > config.max_retry_after:
            return False
        self.crawler.engine.scheduler.retry_later(address, wait)  # type: ignore[union-attr]
        return True

    def _finish(self, address: QueuedUrl, outcome: str, response: Response, **more: Any) -> None:
        evidence = {"http_status": response.status, "server_address": str(response.ip_address or "") or None}
        self.crawl.frontier.record_outcome(address, outcome, **evidence, **more)

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
        added = self._add(target, address.depth, address.url, address.redirects + 1)
        self._finish(address, "redirect" if added != "off_site" else "redirect_off_site", response, detail=target)

    def _refused(self, address: QueuedUrl, response: Response) -> None:
        """Record a response without a page: an opt-out if it requires an RSL licence, or a bot manager refuses us."""
        found = find_refusals(response)
        outcome = (
            Reason.OPT_OUT if self.crawl.config.opt_out & {name for name, _ in found} else f"http_{response.status}"
        )
        self._finish(address, outcome, response, detail="; ".join(map(" ".join, found)) or None)

    def _page(self, address: QueuedUrl, response: Response) -> None:
        capture = build_capture(response)
        try:
            links = self._links(capture, address.url)
        except (BadBody, BadPage) as bad:
            self._finish(address, bad.reason, response, bytes=len(response.body))
            return
        except Exception:  # no page may end the crawl, whatever error it causes in a parser
            logger.exception("%s cannot be parsed; its outcome is `unreadable`", address.url)
            self._finish(address, "unreadable", response, bytes=len(response.body))
            return
        directives = links.directives | self._header_directives(response)
        if "noindex" in directives:
            self._finish(address, "noindex", response)
        else:
            offset, length = self.crawl.archive.add(capture)
            stored = {"offset": offset, "length": length, "bytes": len(response.body), "fetched_at": capture.fetched_at}
            digest = hashlib.sha256(response.body).hexdigest()
            self._finish(address, "archived", response, sha256=digest, **stored)
        if "nofollow" in directives:
            links.not_followed["nofollow"] = links.not_followed.get("nofollow", 0) + len(links.follow)
            links.follow.clear()
        self._follow(address, links)

    def _header_directives(self, response: Response) -> set[str]:
        values = build_message(response).get_all(X_ROBOTS_TAG, [])
        return find_directives(map(str, values), self.crawl.config.user_agent.lower())

    def _links(self, capture: Capture, url: str) -> PageLinks:
        config = self.crawl.config
        head, body = split_response(capture.response_bytes())
        html, _ = convert_to_utf8(decode_body(head, body, config.max_page_bytes), head.charset)
        return extract_links(html, url, config.user_agent.lower(), config.max_url_chars)

    def _follow(self, address: QueuedUrl, links: PageLinks) -> None:
        counted = Counter(links.not_followed)
        for url in links.follow:
            counted[self._add(url, address.depth + 1, address.url)] += 1
        for reason in counted.keys() - {"new", "known"}:
            self.crawl.frontier.count(reason, counted[reason])

    def _add(self, url: str, depth: int, referrer: str | None, redirects: int = 0) -> str:
        """Add a URL to the frontier. Return `new`, `known`, or the reason why it was not added."""
        host = urlsplit(url).hostname or ""
        if not self.crawl.allows(host):
            return "off_site"
        if depth > self.crawl.config.max_depth:
            return "too_deep"
        return "new" if self.crawl.frontier.add(url, host, depth, referrer, redirects) else "known"


def _describe_licenses(response: Response) -> list[str]:
    return [f"{name} {detail}" for name, detail in find_refusals(response) if name == RSL.name]


def _is_page(headers: Any) -> bool:
    """Return whether a response is HTML by its media type, or has none."""
    media_type = (headers.get("Content-Type") or b"").decode("latin-1").partition(";")[0].strip().lower()
    return not media_type or media_type in HTML_TYPES
