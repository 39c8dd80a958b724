"""The crawl's resolver, which returns only IP addresses that the address policy allows.

Twisted connects only to IP addresses that its resolver returns, for host names and literal IP addresses alike, also after
redirects. So the check here covers every connection, and it checks the IP address that is connected to.
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
            self.crawl.blocked_hosts[hostName] = "no_contact"
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
