"""Make and read the file of the private key, sign requests with it, and make the directory of public keys.

Requests are signed by Web Bot Auth (draft-ietf-webbotauth-httpsig-protocol): HTTP message signatures of RFC 9421 in
Ed25519. A signature covers the authority of the URL and the URL of the key directory. It is made for one request to one
host, and is valid for seconds, so a copied signature is of little use.

The key file is an unencrypted PEM file (PKCS#8) of an Ed25519 key, as `openssl genpkey -algorithm ed25519` writes it.
Every process that sends requests reads it by its path, so the key is in no config, argument, environment variable or
pickled task.
"""

import base64
import json
import os
import secrets
import stat
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from http_message_signatures.algorithms import (
    ED25519,  # pyright: ignore[reportPrivateImportUsage]  # public, but the module lists no names
)
from http_message_signatures.exceptions import HTTPMessageSignaturesException
from http_message_signatures.signatures import HTTPMessageSigner

from dataops.digest import canonical_json
from dataops.errors import ConfigError, writing
from dataops.regular_files import open_regular
from tasks.web.fetch_error import FetchError

MAX_BYTES = 65_536
"""Maximum size of a key file; a PEM file of an Ed25519 key has 119 bytes."""
_LABEL, _TAG = "sig1", "web-bot-auth"
_NONCE_BYTES = 64
PATH = "/.well-known/http-message-signatures-directory"
MEDIA_TYPE = "application/http-message-signatures-directory+json"
MAX_AGE = 86_400
"""Seconds for which sites may keep the directory; so long a removed key may be accepted."""
_COMPONENTS = ('"@authority";req', "content-digest")


def create_key(path: Path) -> Ed25519PrivateKey:
    """Make a key and write it to a new file that only this user can read.

    Raises: ConfigError if the file exists or cannot be written; StorageError if the disk is full.
    """
    key = Ed25519PrivateKey.generate()
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with writing(path, "name another file with --out"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            raise ConfigError(f"{path} exists, and is not overwritten; name another file with --out") from None
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(text)
        except OSError:
            path.unlink(missing_ok=True)
            raise
    return key


def load_key(path: Path, *, is_copy: bool = False) -> Ed25519PrivateKey:
    """Return the key in a file. Messages name the file and this machine, and nothing that is in the file.

    Args:
        is_copy: whether the run checked the file before, on its machine: then no remedy is to make another key.

    Raises: ConfigError if the file is missing or unreadable, other users can read it, or it is no such key.
    """
    remedy = f"`pairmill identity create --out {path}` makes one"
    if is_copy:
        remedy = "each machine that downloads needs the key file of the run at this path: copy it there, with mode 0600"
    machine = os.uname().nodename
    where = f"{path} on {machine}"
    try:
        with open_regular(path) as file:
            state = os.fstat(file.fileno())
            text = file.read(MAX_BYTES)
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist on {machine}; {remedy}") from None
    except OSError as error:
        raise ConfigError(f"{where} cannot be read: {error.strerror}; make it readable for this user") from None
    # The rule of ssh for a file of this user; PostgreSQL's for one of root, as a Kubernetes secret with fsGroup is.
    forbidden = 0o037 if state.st_uid == 0 and os.geteuid() != 0 else 0o077
    if excess := stat.S_IMODE(state.st_mode) & forbidden:
        mode = f"{stat.S_IMODE(state.st_mode):04o}"
        access = "read" if excess & 0o044 else "change or run"
        raise ConfigError(
            f"{where} has the mode {mode}, with which other users can {access} the private key; run `chmod 600 {path}`"
        )
    try:
        key = load_pem_private_key(text, None)
    except TypeError:
        raise ConfigError(f"{where} is encrypted, and no passphrase is read; {remedy}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"{where} is no PEM file of a private key; {remedy}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{where} holds a key of another algorithm than Ed25519; {remedy}")
    return key


def public_jwk(key: Ed25519PrivateKey) -> dict[str, str]:
    """Return the public key as a JSON Web Key, with its thumbprint as `kid` (RFC 8037, section 2 and appendix A)."""
    x = _encode(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
    required = {"crv": "Ed25519", "kty": "OKP", "x": x}
    thumbprint = _encode(sha256(canonical_json(required).encode()).digest())  # RFC 7638, section 3.2
    return {"kty": "OKP", "crv": "Ed25519", "kid": thumbprint, "x": x, "use": "sig"}


def key_id(key: Ed25519PrivateKey) -> str:
    """Return the `keyid` of signatures: the thumbprint of the key."""
    return public_jwk(key)["kid"]


def _encode(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


class RequestSigner:
    """Makes the headers that sign a request. Safe to use from many threads.

    Args:
        agent: URL of the host of the key directory, such as `https://crawler.example.org`.
        seconds: time for which a signature is valid.
        agent_form: form of the Signature-Agent header: a dictionary, or the string of the drafts before the fourth.
    """

    def __init__(self, key: Ed25519PrivateKey, agent: str, seconds: int = 60, agent_form: str = "dictionary"):
        self._key, self._id, self._seconds = key, key_id(key), seconds
        is_string = agent_form == "string"
        self._agent = f'"{agent}"' if is_string else f'{_LABEL}="{agent}"'
        self._components = ("@authority", '"signature-agent"' if is_string else f'"signature-agent";key="{_LABEL}"')

    def sign(self, scheme: str, authority: str) -> dict[str, str]:
        """Return the headers for one GET request.

        Args:
            authority: host and port as in the URL.

        Raises: FetchError if the host has characters that no signature can cover.
        """
        headers = {"Signature-Agent": self._agent}
        request = SimpleNamespace(method="GET", url=f"{scheme}://{authority}/", headers=headers)
        created = datetime.now(UTC)
        nonce = base64.b64encode(secrets.token_bytes(_NONCE_BYTES)).decode()
        times = {"created": created, "expires": created + timedelta(seconds=self._seconds)}
        try:
            return headers | sign_message(
                self._key, self._id, request, self._components, _LABEL, tag=_TAG, nonce=nonce, **times
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


def make_document(keys: Sequence[Ed25519PrivateKey]) -> bytes:
    """Return the directory of the public keys, a JSON Web Key Set."""
    return json.dumps({"keys": [public_jwk(key) for key in keys]}, separators=(",", ":")).encode()


def make_headers(
    keys: Sequence[Ed25519PrivateKey], document: bytes, agent: str, created: datetime, expires: datetime
) -> dict[str, str]:
    """Return the headers with which the directory must be sent: its media type, and a signature of each key.

    They bind the directory to its host (draft-ietf-webbotauth-httpsig-protocol, "Validating the Domain Binding").

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
            tag=PATH.rpartition("/")[2],
            created=created,
            expires=expires,
            use_existing_digest=True,
        )
        for number, key in enumerate(keys)
    ]
    return headers | {name: ", ".join(one[name] for one in signed) for name in ("Signature-Input", "Signature")}
