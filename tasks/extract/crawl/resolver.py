"""The crawl's resolver: only addresses that were checked are ever connected to.

Twisted connects to what its name resolver answers, for host names and address literals alike, on redirects as on any other
request. So one place decides, and what is checked is what is connected to.
"""

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IHostnameResolver, IHostResolution
from twisted.internet.threads import deferToThreadPool
from zope.interface import implementer

from tasks.extract.crawl.context import Crawl
from tasks.web.address_policy import AddressResolver, Resolution


@implementer(IHostResolution)
class _Resolution:
    def __init__(self, name: str):
        self.name = name

    def cancel(self) -> None:
        """Nothing to do: an answer that nobody waits for is let go."""


@implementer(IHostnameResolver)
class CheckedResolver:
    """Resolves by tasks.web.address_policy: `connect_to` first, else only addresses of the public internet.

    Without a contact no host but those of `connect_to` may be asked.
    """

    def __init__(self, reactor: Any, crawl: Crawl):
        self.reactor, self.crawl = reactor, crawl
        self.addresses = AddressResolver(crawl.connect_to)

    @classmethod
    def from_crawler(cls, crawler: Any, reactor: Any) -> "CheckedResolver":
        """As Scrapy makes it."""
        return cls(reactor, crawler.settings["CRAWL"])

    def install_on_reactor(self) -> None:
        """Take the place of the reactor's own resolver."""
        self.reactor.installNameResolver(self)

    def resolveHostName(
        self,
        resolutionReceiver: Any,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Any = None,
        transportSemantics: str = "TCP",
    ) -> Any:
        """Twisted's interface: tell the receiver each address that may be connected to."""
        resolution = _Resolution(hostName)
        resolutionReceiver.resolutionBegan(resolution)
        if self.crawl.config.contact is None and hostName not in self.crawl.connect_to:
            self.crawl.refusals[hostName] = "no_contact"
            resolutionReceiver.resolutionComplete()
            return resolution
        pool = self.reactor.getThreadPool()
        answer = deferToThreadPool(self.reactor, pool, self.addresses.resolve, hostName, portNumber)
        answer.addCallback(self._deliver, hostName, resolutionReceiver)
        answer.addErrback(lambda _: resolutionReceiver.resolutionComplete())
        return resolution

    def _deliver(self, answer: Resolution, host: str, receiver: Any) -> None:
        refusal, targets = answer
        if refusal:
            self.crawl.refusals[host] = refusal[0]
        kinds: dict[Any, Callable[..., Any]] = {socket.AF_INET: IPv4Address, socket.AF_INET6: IPv6Address}
        for family, address in targets:
            receiver.addressResolved(kinds[family]("TCP", *address))
        receiver.resolutionComplete()
