"""Decides which URL of a crawl is requested when, and at which IP address.

The scheduler and the auto-throttle are Scrapy's, based on the frontier and on robots.txt. robots.txt is obeyed by RFC 9309,
with its declarations against training; it is requested once for each origin, before any other URL. This replaces Scrapy's
own middleware, which allows everything if robots.txt cannot be read (the standard forbids everything), and which ignores
Crawl-delay. The resolver returns only IP addresses that the address policy allows: Twisted connects only to these, for host
names and literal IP addresses alike, also after redirects. So the check covers every connection.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

from scrapy import Request, signals
from scrapy.core.scheduler import BaseScheduler
from scrapy.extensions.throttle import AutoThrottle
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IHostnameResolver, IHostResolution
from twisted.internet.threads import deferToThreadPool
from zope.interface import implementer

from dataops.plugins import find
from dataops.reasons import Reason
from dataops.rights.refusals import BOT_MANAGER
from dataops.rights.robots_txt import RobotsFile, decode_file, is_unreachable
from dataops.rights.signals import Agents, Finding, Statement
from dataops.web.urls import BadUrl, canonicalise_url
from plugins.crawl.context import Crawl
from plugins.crawl.frontier import QueuedUrl
from plugins.crawl.responses import RequestRefused, build_capture, classify_failure, find_refusals, parse_retry_after
from tasks.web.address_policy import AddressResolver, Resolution
from tasks.web.host_state import MAX_BYTES
from tasks.web.request import MAX_REDIRECTS


@implementer(IHostResolution)
class _Resolution:
    def __init__(self, name: str):
        self.name = name

    def cancel(self) -> None:
        """Do nothing: Twisted ignores a result that it no longer needs."""


@implementer(IHostnameResolver)
class CheckedResolver:
    """Resolves hosts by tasks.web.address_policy: by `connect_to`, else to public IP addresses only.

    Without a contact only the hosts in `connect_to` are resolved.
    """

    def __init__(self, reactor: Any, crawl: Crawl):
        self.reactor, self.crawl = reactor, crawl
        self.addresses = AddressResolver(crawl.connect_to)

    @classmethod
    def from_crawler(cls, crawler: Any, reactor: Any) -> "CheckedResolver":
        """Create the resolver, as Scrapy requires."""
        return cls(reactor, crawler.settings["CRAWL"])

    def install_on_reactor(self) -> None:
        """Replace the reactor's resolver."""
        self.reactor.installNameResolver(self)

    def resolveHostName(
        self,
        resolutionReceiver: Any,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Any = None,
        transportSemantics: str = "TCP",
    ) -> Any:
        """Send each allowed IP address to the receiver, as Twisted requires."""
        resolution = _Resolution(hostName)
        resolutionReceiver.resolutionBegan(resolution)
        if self.crawl.config.contact is None and hostName not in self.crawl.connect_to:
            self.crawl.blocked_hosts[hostName] = Reason.NO_CONTACT
            resolutionReceiver.resolutionComplete()
            return resolution
        pool = self.reactor.getThreadPool()
        result = deferToThreadPool(self.reactor, pool, self.addresses.resolve, hostName, portNumber)
        result.addCallback(self._deliver, hostName, resolutionReceiver)
        result.addErrback(lambda _: resolutionReceiver.resolutionComplete())
        return resolution

    def _deliver(self, answer: Resolution, host: str, receiver: Any) -> None:
        refusal, targets = answer
        if refusal:
            self.crawl.blocked_hosts[host] = refusal[0]
        kinds: dict[Any, Callable[..., Any]] = {socket.AF_INET: IPv4Address, socket.AF_INET6: IPv6Address}
        for family, address in targets:
            receiver.addressResolved(kinds[family]("TCP", *address))
        receiver.resolutionComplete()


logger = logging.getLogger(__name__)

MAX_ROBOTS_BYTES = 4 * MAX_BYTES
"""Maximum size of a robots.txt, in bytes; of a longer one nothing is read."""


@dataclass(frozen=True)
class OriginRules:
    """The rules of an origin. With neither a file nor a refusal, everything is allowed."""

    file: RobotsFile | None = None
    refusal: str | None = None
    """The reason why nothing is allowed."""
    detail: str | None = None


Answer = tuple[int | None, bytes, float | None, str]


class RobotsMiddleware:
    """A downloader middleware that refuses forbidden requests."""

    def __init__(self, crawler: Any):
        self.crawler = crawler
        self.crawl: Crawl = crawler.settings["CRAWL"]
        self._rules: dict[str, asyncio.Task[OriginRules]] = {}
        self._terms: dict[str, asyncio.Task[Answer]] = {}

    @classmethod
    def from_crawler(cls, crawler: Any) -> "RobotsMiddleware":
        """Create the middleware, as Scrapy requires."""
        return cls(crawler)

    async def process_request(self, request: Request) -> None:
        """Allow a request. Raises: RequestRefused."""
        if request.meta.get("robots"):
            return
        file = await self._allow(request.url)
        found = file.find_declarations(request.url, Agents(self.crawl.config.user_agent)) if file else ()
        for name, finding in found:
            if name in self.crawl.config.opt_out and not finding.permits:
                detail = await self._read_terms(name, finding, request.url) if finding.terms else finding.detail
                if detail is not None:
                    raise RequestRefused(Reason.OPT_OUT, f"{name} {detail}")

    async def _allow(self, url: str) -> RobotsFile | None:
        """Return the robots.txt of a URL that it allows. Raises: RequestRefused."""
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        if origin not in self._rules:
            self._rules[origin] = asyncio.ensure_future(self._fetch(origin, parts.hostname or ""))
        rules = await asyncio.shield(self._rules[origin])
        if rules.refusal:
            raise RequestRefused(rules.refusal, rules.detail)
        if rules.file and not rules.file.allows(url, self.crawl.config.user_agent):
            raise RequestRefused("robots_denied")
        return rules.file

    async def _read_terms(self, name: str, finding: Finding, url: str) -> str | None:
        """Return why the terms of a declaration reserve a URL; None if they permit training. They are requested once."""
        parts = urlsplit(url)
        try:
            terms = canonicalise_url(
                finding.terms, f"{parts.scheme}://{parts.netloc}/", self.crawl.config.max_url_chars
            )
            await self._allow(terms)
        except (BadUrl, RequestRefused) as error:
            return f"{finding.detail}, which cannot be read ({getattr(error, 'reason', error)})"
        if terms not in self._terms:
            self._terms[terms] = asyncio.ensure_future(self._request(terms))
        status, body, *_ = await asyncio.shield(self._terms[terms])
        if status is None or not 200 <= status < 300:
            return f"{finding.detail}, which {f'answers {status}' if status else 'cannot be read'}"
        signal, agents = find("signals", name), Agents(self.crawl.config.user_agent)
        content = signal.parse(decode_file(body[:MAX_BYTES]), agents, terms)
        judged = list(signal.find(Statement("terms", terms, content, agents, url)))
        return next((one.detail for one in judged if not one.permits), None)

    async def _fetch(self, origin: str, host: str) -> OriginRules:
        config = self.crawl.config
        for attempt in range(config.retries + 1):
            status, body, wait, refusal = await self._request(f"{origin}/robots.txt")
            if refusal and BOT_MANAGER.name in config.opt_out:
                return OriginRules(refusal=Reason.OPT_OUT, detail=f"{BOT_MANAGER.name} {refusal}")
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
        file = RobotsFile.parse(decode_file(body[:MAX_BYTES]), [config.user_agent], host)
        delay = file.crawl_delay(config.user_agent)
        if delay is not None and delay > config.max_crawl_delay:
            return OriginRules(refusal="crawl_delay_too_long")
        if delay:
            self.crawl.delays[host] = max(float(delay), self.crawl.delays.get(host, 0.0))
        return OriginRules(file)

    async def _request(self, url: str) -> Answer:
        """Request a robots.txt, and follow redirects.

        Returns: status (None without a response), body, the seconds of Retry-After, and the refusal of a bot manager.
        """
        for _ in range(MAX_REDIRECTS + 1):
            headers = {"User-Agent": self.crawl.config.user_agent_header, "Accept": "text/plain,*/*;q=0.5"}
            meta = {
                "robots": True,
                "download_maxsize": MAX_ROBOTS_BYTES,
                "download_timeout": self.crawl.config.timeout,
            }
            try:
                response = await self.crawler.engine.download_async(Request(url, headers=headers, meta=meta))
            except Exception as error:  # Twisted and TLS raise many unrelated classes
                logger.info("%s was not fetched: %s", url, classify_failure(error))
                return None, b"", None, ""
            location = response.headers.get("Location")
            if not 300 <= response.status < 400 or location is None:
                with self.crawl.ending_at_errors(self.crawler):
                    self.crawl.frontier.add_robots(url, *self.crawl.archive.add(build_capture(response)))
                refusal = next((text for name, text in find_refusals(response) if name == BOT_MANAGER.name), "")
                return response.status, response.body, parse_retry_after(response.headers), refusal
            try:
                url = canonicalise_url(urljoin(url, location.decode("latin-1")), url, self.crawl.config.max_url_chars)
            except (BadUrl, ValueError):
                break
        return 404, b"", None, ""  # RFC 9309, 2.3.1.2: after five redirects, robots.txt counts as missing


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
        address = None
        with self.crawl.ending_at_errors(self.crawler):
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
