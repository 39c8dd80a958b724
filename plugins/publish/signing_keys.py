"""The keys that sign: a PEM file, a PKCS#11 URI, or a command that signs with the key of a KMS."""

import base64
import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from dataops.errors import ConfigError, JobFailed
from dataops.redaction import read_secret

PASSWORD = "PAIRMILL_KEY_PASSWORD"
"""Environment variable with the password of an encrypted key file."""
COMMAND_SECONDS = 600
"""Seconds that a command may take to sign."""
_PKCS11 = "pkcs11:"
_CURVES = "on P-256, P-384 or P-521"


@dataclass(frozen=True)
class SigningKey:
    """What `pairmill sign` signs with.

    Attributes:
        key: PEM file of the private key, or a PKCS#11 URI; with `command`, PEM file of the public key.
        command: program with its arguments that signs a message.
    """

    key: str
    command: str | None = None

    def use_in(self, config: Any) -> None:
        """Let a config of model_signing sign with this key. Raises: ConfigError if the key cannot be used."""
        with key_errors(self.key, is_private=self.command is None):
            if self.command is not None:
                _use_command(config, self.command, Path(self.key))
            elif self.key.startswith(_PKCS11):
                if re.search(r"[?&;]pin-value=", self.key):
                    raise ConfigError(
                        "--key has a PIN, which others on this machine can read; name a file by pin-source=file:"
                    )
                config.use_pkcs11_signer(pkcs11_uri=self.key)
            else:
                password = read_secret(PASSWORD)
                secret: Any = password.get_secret_value().encode() if password else None
                config.use_elliptic_key_signer(private_key=Path(self.key), password=secret)


@contextmanager
def key_errors(key: str, *, is_private: bool) -> Iterator[None]:
    """Translate errors of a key. The text of the library is left out, because it may quote the key."""
    try:
        yield
    except ConfigError:
        raise
    except FileNotFoundError:
        raise ConfigError(f"--key {key}: no such file") from None
    except Exception as error:  # each kind of key and module has its own
        kind = type(error).__name__
        hint = f"name a PEM file of a public key {_CURVES}"
        if is_private:
            hint = f"name a PEM file of a private key {_CURVES}; {PASSWORD} has the password of an encrypted one"
        raise ConfigError(f"--key {key.partition('?')[0]} cannot be used ({kind}): {hint}") from None


def _use_command(config: Any, command: str, public_key: Path) -> None:
    key = load_pem_public_key(public_key.read_bytes())
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise TypeError("no key of elliptic curves")
    library: Any = import_module("model_signing._signing.sign_ec_key")
    library.get_ec_key_hash(key)  # refuses other curves
    # The library has no interface for third-party keys. Its signer only calls `public_key` and `sign` of its key.
    signer = object.__new__(library.Signer)
    signer._private_key = _CommandKey(command, key)
    config._signer = signer


@dataclass(frozen=True)
class _CommandKey:
    """A private key that only a command can use."""

    command: str
    key: ec.EllipticCurvePublicKey

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self.key

    def sign(self, data: bytes, algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """Return the signature of a message in DER.

        Raises: ConfigError if the command cannot be started, or its output is no signature by the key; JobFailed.
        """
        output = _run(self.command, data)
        for signature in _read_signatures(output, (self.key.curve.key_size + 7) // 8):
            with suppress(InvalidSignature):
                self.key.verify(signature, data, algorithm)
                return signature
        digest = getattr(algorithm.algorithm, "name", "").upper().replace("SHA", "SHA-")
        raise ConfigError(
            f"--command wrote {len(output)} bytes that are no signature of its standard input by the key of --key; it must "
            f"sign with ECDSA and {digest}, and write DER, r and s, or their base64"
        )


def _run(command: str, data: bytes) -> bytes:
    try:
        arguments = shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"--command cannot be split into a program and its arguments: {error}") from None
    if not arguments:
        raise ConfigError("--command is empty; name a program that signs")
    try:
        done = subprocess.run(arguments, input=data, capture_output=True, timeout=COMMAND_SECONDS, check=False)
    except OSError as error:
        raise ConfigError(f"--command: {arguments[0]} cannot be started: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise JobFailed(f"--command: {arguments[0]} has not signed within {COMMAND_SECONDS} s", exit_code=75) from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()[-1_000:] or "no message on standard error"
        raise JobFailed(f"--command: {arguments[0]} ended with exit code {done.returncode}: {said}")
    return done.stdout


def _read_signatures(output: bytes, size: int) -> Iterator[bytes]:
    """Yield what an output may be as a signature in DER: DER, or r and s of `size` bytes each, or the base64 of these."""
    readings = [output]
    with suppress(ValueError):
        text = b"".join(output.split()).translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
        readings.append(base64.b64decode(text + b"=" * (-len(text) % 4), validate=True))
    for reading in readings:
        yield reading
        if len(reading) == 2 * size:
            yield encode_dss_signature(int.from_bytes(reading[:size]), int.from_bytes(reading[size:]))
