"""Sign requests by Web Bot Auth (draft-ietf-webbotauth-httpsig-protocol): HTTP message signatures of RFC 9421 in Ed25519.

A signature covers the authority of the URL and the URL of the key directory. It is made for one request to one host,
and is valid for seconds, so a copied signature is of little use.
"""

import base64
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from http_message_signatures.algorithms import (
    ED25519,  # pyright: ignore[reportPrivateImportUsage]  # public, but the module lists no names
)
from http_message_signatures.exceptions import HTTPMessageSignaturesException
from http_message_signatures.signatures import HTTPMessageSigner

from tasks.web.fetch_error import FetchError
from tasks.web.identity.agent import AgentForm
from tasks.web.identity.key_file import key_id

LABEL = "sig1"
TAG = "web-bot-auth"
NONCE_BYTES = 64


class RequestSigner:
    """Makes the headers that sign a request. Safe to use from many threads.

    Args:
        agent: URL of the host of the key directory, such as `https://crawler.example.org`.
        seconds: time for which a signature is valid.
        agent_form: form of the Signature-Agent header: a dictionary, or the string of the drafts before the fourth.
    """

    def __init__(self, key: Ed25519PrivateKey, agent: str, seconds: int = 60, agent_form: AgentForm = "dictionary"):
        self._key, self._id, self._seconds = key, key_id(key), seconds
        is_string = agent_form == "string"
        self._agent = f'"{agent}"' if is_string else f'{LABEL}="{agent}"'
        self._components = ("@authority", '"signature-agent"' if is_string else f'"signature-agent";key="{LABEL}"')

    def sign(self, scheme: str, authority: str) -> dict[str, str]:
        """Return the headers for one GET request.

        Args:
            authority: host and port as in the URL.

        Raises: FetchError if the host has characters that no signature can cover.
        """
        headers = {"Signature-Agent": self._agent}
        request = SimpleNamespace(method="GET", url=f"{scheme}://{authority}/", headers=headers)
        created = datetime.now(UTC)
        nonce = base64.b64encode(secrets.token_bytes(NONCE_BYTES)).decode()
        times = {"created": created, "expires": created + timedelta(seconds=self._seconds)}
        try:
            return headers | sign_message(
                self._key, self._id, request, self._components, LABEL, tag=TAG, nonce=nonce, **times
            )
        except HTTPMessageSignaturesException as error:
            raise FetchError("bad_url", f"a host that cannot be signed ({error})") from None


def sign_message(
    key: Ed25519PrivateKey, key_id: str, message: Any, components: Sequence[str], label: str, **parameters: Any
) -> dict[str, str]:
    """Return the headers Signature-Input and Signature of a request or response.

    Args:
        message: has `headers`, and `method` and `url` or, for a response, `status_code` and `request`.
        components: names or serialized identifiers of what is signed.
        parameters: `created`, `expires`, `nonce`, `tag` and others of HTTPMessageSigner.prepare.

    Raises: HTTPMessageSignaturesException.
    """
    # `sign` of the library parses again what `prepare` made, which takes as long as all the rest.
    prepared = HTTPMessageSigner(signature_algorithm=ED25519).prepare(
        message, key_id=key_id, covered_component_ids=components, label=label, **parameters
    )
    signature = base64.b64encode(key.sign(prepared.signature_base)).decode()
    return {"Signature-Input": f"{label}={prepared.signature_params}", "Signature": f"{label}=:{signature}:"}
