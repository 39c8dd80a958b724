"""Checks signatures of requests as a site would, without the code and the library that make them."""

import base64
import re
import time
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

_INPUT = re.compile(
    r'sig1=(?P<params>\("@authority" "signature-agent";key="sig1"\);created=(?P<created>\d+);keyid="(?P<keyid>[^"]+)"'
    r';alg="ed25519";expires=(?P<expires>\d+);nonce="(?P<nonce>[^"]+)";tag="web-bot-auth")'
)


@dataclass
class Guard:
    """Accepts requests that are signed with one key, each once."""

    key: Ed25519PublicKey
    key_id: str
    agent: str
    accepted: int = 0
    nonces: set[str] = field(default_factory=set)

    def check(self, headers):
        """Return the status of the answer: 200, 401 without a signature, or 403 for a wrong one."""
        if "Signature" not in headers:
            return 401
        found = _INPUT.fullmatch(headers.get("Signature-Input", ""))
        signature = re.fullmatch(r"sig1=:([A-Za-z0-9+/]+=*):", headers["Signature"])
        if not found or not signature or headers.get("Signature-Agent") != f'sig1="{self.agent}"':
            return 403
        base = (
            f'"@authority": {headers["Host"].lower()}\n"signature-agent";key="sig1": "{self.agent}"\n'
            f'"@signature-params": {found["params"]}'
        )
        is_now = int(found["created"]) <= time.time() < int(found["expires"])
        if not is_now or found["keyid"] != self.key_id or found["nonce"] in self.nonces:
            return 403
        try:
            self.key.verify(base64.b64decode(signature[1]), base.encode())
        except InvalidSignature:
            return 403
        self.nonces.add(found["nonce"])
        self.accepted += 1
        return 200
