"""Make and read the file of the private key with which requests are signed.

It is an unencrypted PEM file (PKCS#8) of an Ed25519 key, as `openssl genpkey -algorithm ed25519` writes it. Every process
that sends requests reads it by its path, so the key is in no config, argument, environment variable or pickled task.
"""

import base64
import os
import stat
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from dataops.digest import canonical_json
from dataops.errors import ConfigError
from dataops.regular_files import open_regular

MAX_BYTES = 65_536
"""Maximum size of a key file; a PEM file of an Ed25519 key has 119 bytes."""


def create_key(path: Path) -> Ed25519PrivateKey:
    """Make a key and write it to a new file that only this user can read.

    Raises: ConfigError if the file exists or cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(text)
        except OSError:
            path.unlink(missing_ok=True)
            raise
    except FileExistsError:
        raise ConfigError(f"{path} exists, and is not overwritten; name another file with --out") from None
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror or error}; name another file with --out"
        ) from error
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
