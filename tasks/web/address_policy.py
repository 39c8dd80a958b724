"""Decide which IP addresses a download may connect to, and resolve each host name once, with a deadline for each caller.

The system's getaddrinfo takes no deadline and may hang for as long as the system's settings allow.
It therefore runs in a bounded pool of threads, and each caller waits only until its own deadline.
All callers of one DnsCache share its results.
"""

import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from functools import lru_cache
from queue import SimpleQueue
from typing import Any, Protocol

from dataops.reasons import Reason

ConnectTo = Mapping[str, tuple[str, int]]
"""IP address and port to connect to instead of resolving a host, by host name."""
Target = tuple[socket.AddressFamily, Any]
Resolution = tuple[tuple[str, str] | None, list[Target]]
"""The reason and detail for which a host is refused, or None; and the socket addresses to try in turn."""

_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")  # all else in IPv6 is reserved, mapped, local or multicast
_REFUSED = [
    ipaddress.ip_network(network)
    for network in (
        "168.63.129.16/32",  # Azure's host agent: a public number that each virtual machine reaches its host by
        "192.0.0.0/24",  # IETF protocol assignments; Oracle Cloud's metadata
        "192.88.99.0/24",  # 6to4 relays
        "2002::/16",  # 6to4: an IPv4 address written as IPv6
        "2001::/23",  # Teredo and other protocol assignments
        "3fff::/20",  # documentation, like 2001:db8::/32
    )
]


def is_public(address: str) -> bool:
    """Return whether an IP address belongs to the public internet.

    It does not if it is private, loopback, link-local (cloud metadata among them), shared,
    multicast, reserved or for documentation, or an IPv6 address that embeds an IPv4 one.

    Source: IANA special-purpose address registries (RFC 6890), RFC 6052, RFC 3056, RFC 4380.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:  # an IPv6 address with a zone (fe80::1%eth0) is link-local
        return False
    if isinstance(ip, ipaddress.IPv6Address) and (ip.scope_id is not None or ip not in _GLOBAL_UNICAST):
        return False
    listed = any(ip in network for network in _REFUSED if network.version == ip.version)
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and not listed


def parse_connect_to(table: Mapping[str, str]) -> dict[str, tuple[str, int]]:
    """Parse a table such as {"host": "127.0.0.1:8123"}.

    Raises: ValueError that names the entry whose value is not an IP address (IPv6 in brackets) and a port.
    """
    result = {}
    for host, value in table.items():
        address, colon, port = value.rpartition(":")
        address = address[1:-1] if address.startswith("[") and address.endswith("]") else address
        try:
            if not colon or not 0 < int(port) < 65536:
                raise ValueError
            result[host.lower()] = (str(ipaddress.ip_address(address)), int(port))
        except ValueError:
            raise ValueError(
                f"connect_to {host!r}: {value!r} is not an IP address and a port, such as 127.0.0.1:8123"
            ) from None
    return result


SocketAddresses = list[tuple[socket.AddressFamily, Any]]
"""Socket addresses with port 0; empty if the host has none."""
Lookup = Callable[[str], tuple[SocketAddresses, float | None]]
"""Returns the addresses of a host, and the seconds for which they hold, if the answer says it."""


class SharedAddresses(Protocol):
    """Keeps results for all processes of a machine."""

    def find_addresses(self, host: str) -> tuple[SocketAddresses, float] | None:
        """Return the kept result of a host and the seconds for which it holds, or None."""
        ...

    def put_addresses(self, host: str, found: SocketAddresses, seconds: float) -> None:
        """Keep a result."""
        ...


_MAX_WAIT = 5.0
"""Seconds that a caller waits for a host at most, whatever its deadline."""


class DnsCache:
    """A cache in front of getaddrinfo. Safe to use from many threads.

    Args:
        seconds: time for which a result is kept whose TTL is not known, as that of getaddrinfo; a longer TTL is cut.
        failed_seconds: time for which the absence of an address is kept, and the shortest TTL that counts.
        most: maximum number of names.
        lookup: asks for a name; by default getaddrinfo.
        shared: results of the other processes of this machine.
    """

    def __init__(
        self,
        threads: int = 32,
        seconds: float = 3600.0,
        failed_seconds: float = 30.0,
        most: int = 100_000,
        lookup: Lookup | None = None,
        shared: SharedAddresses | None = None,
    ):
        self._lookup, self._shared = lookup or _addresses, shared
        self._threads, self._seconds, self._failed_seconds, self._most = threads, seconds, failed_seconds, most
        self._lock = threading.Lock()
        self._cached: dict[str, tuple[float, SocketAddresses]] = {}
        self._pending: dict[str, Future[SocketAddresses]] = {}
        self._queue: SimpleQueue[str] = SimpleQueue()
        self._running = 0

    def resolve(self, host: str, deadline: float = float("inf")) -> SocketAddresses | None:
        """Return the addresses of a host, or None if they were not resolved in time.

        Args:
            deadline: time of time.monotonic().
        """
        with self._lock:
            cached = self._cached.get(host)
            if cached and cached[0] > time.monotonic():
                return cached[1]
            pending = self._pending.get(host) or self._start(host)
        try:
            return pending.result(max(0.0, min(_MAX_WAIT, deadline - time.monotonic())))
        except FutureTimeout:
            return None

    def _start(self, host: str) -> "Future[SocketAddresses]":
        pending = self._pending[host] = Future()
        self._queue.put(host)
        if self._running < min(self._threads, len(self._pending)):
            self._running += 1
            # A daemon, so that a host that hangs does not delay the end of the process.
            threading.Thread(target=self._work, name="dns", daemon=True).start()
        return pending

    def _work(self) -> None:
        while True:
            host = self._queue.get()
            found, seconds = self._find(host)
            with self._lock:
                if len(self._cached) >= self._most:
                    self._forget()
                self._cached[host] = (time.monotonic() + seconds, found)
                pending = self._pending.pop(host)
            pending.set_result(found)

    def _find(self, host: str) -> tuple[SocketAddresses, float]:
        if self._shared and (kept := self._shared.find_addresses(host)):
            return kept
        found, ttl = self._lookup(host)
        longest = self._seconds if ttl is None else min(ttl, self._seconds)
        seconds = max(longest, min(self._failed_seconds, self._seconds)) if found else self._failed_seconds
        if self._shared:
            self._shared.put_addresses(host, found, seconds)
        return found, seconds

    def _forget(self) -> None:
        """Drop the expired results, and the older half of the others if that is not enough."""
        now = time.monotonic()
        fresh = {host: result for host, result in self._cached.items() if result[0] > now}
        half = len(fresh) // 2 if len(fresh) > self._most // 2 else 0
        self._cached = dict(list(fresh.items())[half:])


@lru_cache(maxsize=1)
def shared_dns() -> DnsCache:
    """Return the cache of this process: its shards, made one after the other, resolve no host twice."""
    return DnsCache()


def _addresses(host: str) -> tuple[SocketAddresses, float | None]:
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)  # noqa: TID251  resolves for the safe fetch
    except (OSError, UnicodeError):
        return [], None
    return [(family, address) for family, _, _, _, address in found], None


def parse_resolver(value: str) -> tuple[str, int]:
    """Return the IP address and port of a DNS server such as `10.0.0.2` or `[::1]:5353`. Raises: ValueError."""
    try:
        return str(ipaddress.ip_address(value)), 53
    except ValueError:
        return parse_connect_to({"resolver": value})["resolver"]


def ask_resolvers(servers: Sequence[tuple[str, int]]) -> Lookup:
    """Return a lookup that asks DNS servers (IP address, port), one after the other."""
    from dns import exception, inet
    from dns.nameserver import Do53Nameserver
    from dns.resolver import Resolver

    resolver = Resolver(configure=False)
    resolver.nameservers = [Do53Nameserver(address, port) for address, port in servers]
    resolver.lifetime = _MAX_WAIT

    def lookup(host: str) -> tuple[SocketAddresses, float | None]:
        if inet.is_address(host):
            return _addresses(host)
        found, ttls = list[tuple[socket.AddressFamily, Any]](), list[float]()
        for kind, family in (("A", socket.AF_INET), ("AAAA", socket.AF_INET6)):
            try:
                answer = resolver.resolve(host, kind, search=False)
            except (exception.DNSException, UnicodeError, ValueError):
                continue
            more = (0, 0) if family == socket.AF_INET6 else ()
            found += [(family, (str(one), 0, *more)) for one in answer]
            ttls += [float(answer.rrset.ttl)] if answer.rrset is not None else []
        return found, min(ttls, default=None)

    return lookup


def _is_private_name(host: str) -> bool:
    """Return whether a host is this machine by its name, or an IP address in any notation that is not public."""
    try:
        address = host if ":" in host else socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return host == "localhost" or host.endswith(".localhost")
    return not is_public(address)


class AddressResolver:
    """Resolves hosts, and refuses those without a public IP address. Safe to use from many threads.

    Args:
        dns: the cache to resolve through; by default a new one.
        proxy: host and port to connect to for all hosts but those of `connect_to`. It resolves their names, and only
            what is written as a private IP address is refused here.
    """

    def __init__(self, connect_to: ConnectTo, dns: DnsCache | None = None, proxy: tuple[str, int] | None = None):
        self.connect_to, self._proxy = connect_to, proxy
        self._dns = dns or DnsCache()

    def resolve(self, host: str, port: int, deadline: float = float("inf")) -> Resolution:
        """Return the checked socket addresses of a host: the caller connects to them and resolves nothing again.

        Args:
            deadline: time of time.monotonic() after which the host counts as not resolved.
        """
        if host in self.connect_to:
            address, port = self.connect_to[host]
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            return None, [(family, (address, port))]
        if self._proxy:
            if _is_private_name(host):
                return (Reason.PRIVATE_ADDRESS, "the host is not on the public internet"), []
            found = self._dns.resolve(self._proxy[0], deadline) or []
            targets = [(family, (at[0], self._proxy[1], *at[2:])) for family, at in found]
            return (None, targets) if targets else ((Reason.CONNECT, "the proxy has no address"), [])
        found = self._dns.resolve(host, deadline)
        if not found:
            return (Reason.DNS, "the host has no address" if found is not None else "no answer in time"), []
        public = [(family, (address[0], port, *address[2:])) for family, address in found if is_public(str(address[0]))]
        if not public:
            return (Reason.PRIVATE_ADDRESS, "the host is not on the public internet"), []
        return None, public
