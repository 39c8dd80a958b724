"""Records the certificate and the network of each host that a download asks, and compares those of two nights."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Any, NamedTuple

from dataops.web.urls import HOST, find_registrable_domain
from tasks.download.hooks import FetchHook, ShardHook
from tasks.web.connection import Connection

PREFIX = {4: 16, 6: 32}
"""Bits of an IP address that are the network of a provider: registries allocate IPv6 by 32 bits (RIPE-738, 5.1)."""


class Server(NamedTuple):
    """What most answers of a domain on a night have in common: hashes; 0: nothing."""

    issuer: float
    key: float
    network: float
    others: float
    """The other domains that the certificate names."""
    since: float
    """First day of the newest certificate."""

    @classmethod
    def of(cls, values: Sequence[float]) -> "Server":
        """Return the server of a row of the state, which ends with it."""
        return cls(*values[-len(cls._fields) :])

    def is_another(self, before: "Server") -> bool:
        """Return whether issuer, key and network are others, of a newer certificate that does not name the same domains."""
        is_other = all(one and old and one != old for one, old in zip(self[:3], before[:3], strict=True))
        return is_other and self.since > before.since and not 0 < self.others == before.others

    def shares(self, before: "Server") -> bool:
        """Return whether issuer, key or network is the same."""
        return any(a == b for a, b in zip(self[:3], before[:3], strict=True))


def find_domain(url: str) -> str:
    """Return the registrable domain of a URL."""
    found = re.match(HOST, url)
    return find_registrable_domain(found[1].lower()) if found else ""


@lru_cache(maxsize=1024)
def describe_certificate(der: bytes, domain: str) -> dict[str, Any]:
    """Return the issuer, digests of the public key and of the names in other domains, and the first day of a certificate.

    The issuer is an organization: one that issues by several intermediate certificates chooses any of them.
    """
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    try:
        found = x509.load_der_x509_certificate(der)
        key = found.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        alternative = found.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = alternative.value.get_values_for_type(x509.DNSName)
    except (ValueError, UnsupportedAlgorithm, x509.ExtensionNotFound):
        return {}
    organizations = found.issuer.get_attributes_for_oid(x509.NameOID.ORGANIZATION_NAME)
    others = {find_registrable_domain(name.removeprefix("*.").lower()) for name in names} - {domain}
    return {
        "issuer": str(organizations[0].value) if organizations else found.issuer.rfc4514_string(),
        "key": hashlib.sha256(key).hexdigest()[:16],
        "others": hashlib.sha256(" ".join(sorted(others)).encode()).hexdigest()[:16] if others else "",
        "since": found.not_valid_before_utc.date().toordinal(),
    }


@dataclass(frozen=True)
class ServerRecorder(ShardHook):
    """Records the hosts of one run."""

    has_proxy: bool

    def answered(self, evidence: Any, connection: Connection) -> None:
        certificate, target = connection.read_certificate(), connection.target
        if certificate is not None and target is not None:
            address = ip_address(target[1][0])
            network = ip_network((address, PREFIX[address.version]), strict=False)
            described = describe_certificate(certificate, find_domain(evidence.final_url or ""))
            evidence.server = json.dumps({**described, "network": "" if self.has_proxy else str(network)})


class RecordServers(FetchHook):
    """Records each host that answers over TLS, in the evidence, which no digest covers."""

    order = 70

    def start(self, work: Any, context: Any, started: Sequence[ShardHook]) -> ShardHook:
        return ServerRecorder(has_proxy=work.config.proxy is not None)


RECORD_SERVERS = RecordServers()
