"""Which network addresses a download may connect to."""

import ipaddress
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

ConnectTo = Mapping[str, tuple[str, int]]
"""By host name: the address and port to connect to instead of resolving it."""
Target = tuple[socket.AddressFamily, Any]
Answer = tuple[tuple[str, str] | None, list[Target]]
"""Why the host is refused (reason, detail), or None and the targets to try in turn."""

_TTL = 60.0
_REFUSED = [
    ipaddress.ip_network(network)
    for network in (
        "168.63.129.16/32",  # Azure's host agent: a public number that each virtual machine reaches its host by
        "192.0.0.0/24",  # IETF protocol assignments; Oracle Cloud's metadata
        "192.88.99.0/24",  # 6to4 relays
        "64:ff9b::/96",  # NAT64: an IPv4 address in other clothes, like the next ones
        "64:ff9b:1::/48",
        "::/96",
        "::ffff:0:0/96",
        "::ffff:0:0:0/96",
        "2002::/16",  # 6to4
        "2001::/23",  # Teredo and other protocol assignments
        "fec0::/10",  # site-local, before unique local addresses
    )
]


def is_public(address: str) -> bool:
    """Whether an IP address is a plain one of the public internet.

    Not so are private, loopback, link-local (cloud metadata among them), shared, multicast, reserved and documentation
    addresses, and IPv6 addresses that stand for an IPv4 one.

    Source: IANA special-purpose address registries (RFC 6890), RFC 6052, RFC 3056, RFC 4380.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:  # an IPv6 address with a zone (fe80::1%eth0) is link-local
        return False
    if isinstance(ip, ipaddress.IPv6Address) and ip.scope_id is not None:
        return False
    listed = any(ip in network for network in _REFUSED if network.version == ip.version)
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and not listed


def parse_connect_to(table: Mapping[str, str]) -> dict[str, tuple[str, int]]:
    """{"host": "127.0.0.1:8123"} as ConnectTo.

    Raises: ValueError that names the entry unless each value is an IP address (IPv6 in brackets) and a port.
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
            msg = f"connect_to {host!r}: {value!r} is not an IP address and a port, such as 127.0.0.1:8123"
            raise ValueError(msg) from None
    return result


class Addresses:
    """Resolves hosts, once each while an answer is fresh, and refuses what is not public. For use from many threads."""

    def __init__(self, connect_to: ConnectTo):
        self._connect_to = connect_to
        self._known: dict[tuple[str, int], tuple[float, Answer]] = {}
        self._lock = threading.Lock()

    def of(self, host: str, port: int) -> Answer:
        """Where to connect for a host: addresses that were checked, to be used as they are."""
        if host in self._connect_to:
            address, port = self._connect_to[host]
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            return None, [(family, (address, port))]
        with self._lock:
            known = self._known.get((host, port))
        if known and known[0] > time.monotonic():
            return known[1]
        answer = _resolve(host, port)
        with self._lock:
            self._known[host, port] = (time.monotonic() + _TTL, answer)
        return answer


def _resolve(host: str, port: int) -> Answer:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ("dns", "the host has no address"), []
    public = [(family, address) for family, _, _, _, address in found if is_public(str(address[0]))]
    if not public:
        return ("refused_address", "the host is not on the public internet"), []
    return None, public
