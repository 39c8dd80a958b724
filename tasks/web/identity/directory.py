"""Make the directory of public keys that a site fetches from the host in the header Signature-Agent.

It is a JSON Web Key Set. Its host sends it with headers that this module makes: the media type, and for each key a
signature that binds the directory to the host (draft-ietf-webbotauth-httpsig-protocol, "Validating the Domain Binding").
"""

import base64
import json
from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from types import SimpleNamespace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tasks.web.identity.key_file import public_jwk
from tasks.web.identity.signer import sign_message

PATH = "/.well-known/http-message-signatures-directory"
MEDIA_TYPE = "application/http-message-signatures-directory+json"
TAG = "http-message-signatures-directory"
MAX_AGE = 86_400
"""Seconds for which sites may keep the directory; so long a removed key may be accepted."""
_COMPONENTS = ('"@authority";req', "content-digest")


def make_document(keys: Sequence[Ed25519PrivateKey]) -> bytes:
    """Return the directory of the public keys."""
    return json.dumps({"keys": [public_jwk(key) for key in keys]}, separators=(",", ":")).encode()


def make_headers(
    keys: Sequence[Ed25519PrivateKey], document: bytes, agent: str, created: datetime, expires: datetime
) -> dict[str, str]:
    """Return the headers with which the directory must be sent.

    Args:
        agent: URL of the directory's host, such as `https://crawler.example.org`.
    """
    request = SimpleNamespace(method="GET", url=agent + PATH, headers={"Accept": MEDIA_TYPE})
    digest = base64.b64encode(sha256(document).digest()).decode()
    headers = {
        "Content-Type": MEDIA_TYPE,
        "Cache-Control": f"max-age={MAX_AGE}",
        "Content-Digest": f"sha-256=:{digest}:",
    }
    response = SimpleNamespace(status_code=200, request=request, headers=headers)
    signed = [
        sign_message(
            key,
            public_jwk(key)["kid"],
            response,
            _COMPONENTS,
            f"binding{number}",
            tag=TAG,
            created=created,
            expires=expires,
            use_existing_digest=True,
        )
        for number, key in enumerate(keys)
    ]
    return headers | {name: ", ".join(one[name] for one in signed) for name in ("Signature-Input", "Signature")}
