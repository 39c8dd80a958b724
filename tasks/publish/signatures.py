"""Sign and verify models and datasets with OpenSSF Model Signing, by a key of elliptic curves.

A folder has its signature in itself. That of a dataset is of its manifest, which has the sha256 of every part; it lies in
the store, as that of a training does. That of a registered model is an artefact of its MLflow run.
"""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dataops.errors import ConfigError, CorruptPart
from dataops.redaction import read_secret
from dataops.snapshot import MANIFEST, Manifest, find_manifest
from dataops.store import Store

SIGNATURE = "model.sig"
FOLDER = "signatures"
PASSWORD = "PAIRMILL_KEY_PASSWORD"
"""Environment variable with the password of an encrypted key file."""
_PKCS11 = "pkcs11:"
_UNSIGNED = (SIGNATURE, ".cache")
"""Names in a folder that the signature does not cover: itself, and what a download from the Hub leaves there."""


def sign_folder(folder: Path, key: str, signature: Path) -> None:
    """Write the signature of all files of a folder, or of one file.

    Args:
        key: a PEM file, or a PKCS#11 URI.

    Raises: ConfigError if the key cannot be used.
    """
    signing, hashing = _import("signing"), _import("hashing")
    config = signing.Config()
    with _key_errors(key):
        if key.startswith(_PKCS11):
            if re.search(r"[?&;]pin-value=", key):
                raise ConfigError(
                    "--key has a PIN, which others on this machine can read; name a file by pin-source=file:"
                )
            config.use_pkcs11_signer(pkcs11_uri=key)
        else:
            password = read_secret(PASSWORD)
            secret: Any = password.get_secret_value().encode() if password else None
            config.use_elliptic_key_signer(private_key=Path(key), password=secret)
    if folder.is_dir():
        config.set_hashing_config(hashing.Config().set_ignored_paths(paths=[folder / name for name in _UNSIGNED]))
    config.sign(folder, signature)


def verify_folder(folder: Path, key: str, signature: Path) -> None:
    """Compare all files of a folder, or one file, with a signature.

    Args:
        key: PEM file of the public key.

    Raises: CorruptPart that names each file that differs, is missing or was added; ConfigError if the key cannot be used.
    """
    verifying = _import("verifying")
    config = verifying.Config()
    with _key_errors(key):
        config.use_elliptic_key_verifier(public_key=Path(key))
    try:
        config.verify(folder, signature)
    except Exception as error:  # the library raises many kinds for a damaged signature
        found = _describe_difference(str(error))
        raise CorruptPart(
            f"{folder}: {found or f'the signature {signature.name} is damaged, or of another key'}"
        ) from None


def _describe_difference(message: str) -> str:
    """Return the names of the files in a message of the library; "" if it names none."""
    message = message.replace("\\'", "'")
    parts = [part.partition("': Exp") for part in message.split("Hash mismatch for '")[1:]]
    found = [f"{name} differs from what was signed" for name, end, _ in parts if end]
    for kind, what in (("Extra", "was not signed"), ("Missing", "is missing")):
        for names in re.findall(rf"{kind} files[^:]*: ([^'\"\]]*)", message):
            found += [f"{name.strip()} {what}" for name in names.split(",") if name.strip()]
    return "; ".join(found)


def sign_snapshot(manifest: Manifest, store: Store, key: str) -> str:
    """Sign the manifest of a snapshot, and return the name of the signature in the store."""
    with tempfile.TemporaryDirectory() as name:
        path, signature = Path(name) / MANIFEST, Path(name) / SIGNATURE
        path.write_bytes(store.read(manifest.path(MANIFEST)))
        sign_folder(path, key, signature)
        target = _name_signature(manifest)
        store.put(target, signature)
    return target


def verify_snapshot(manifest: Manifest, store: Store, key: str) -> int:
    """Compare the manifest with its signature and every part with the manifest; return the number of parts.

    Raises: CorruptPart that names the object; ConfigError if there is no signature.
    """
    target = _name_signature(manifest)
    if store.size(target) is None:
        raise ConfigError(f"{manifest.stage}/{manifest.key} is not signed in {store.uri}; sign it with `pairmill sign`")
    with tempfile.TemporaryDirectory() as name:
        path, signature = Path(name) / MANIFEST, Path(name) / SIGNATURE
        path.write_bytes(store.read(manifest.path(MANIFEST)))
        signature.write_bytes(store.read(target))
        try:
            verify_folder(path, key, signature)
        except CorruptPart as error:
            why = str(error).partition(": ")[2]
            raise CorruptPart(f"{store.uri}/{manifest.path(MANIFEST)}: {why}") from None
    find_manifest(store, manifest.stage, manifest.key, verify=True)
    return len(manifest.parts)


def _name_signature(manifest: Manifest) -> str:
    return f"{FOLDER}/{manifest.stage}-{manifest.key}.sig"


def _import(module: str) -> Any:
    """Return a module of model_signing. Raises: ConfigError if it is not installed."""
    import importlib

    try:
        return importlib.import_module(f"model_signing.{module}")
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed: pip install -e '.[sign]'") from error


@contextmanager
def _key_errors(key: str) -> Iterator[None]:
    """Translate errors of a key. The text of the library is left out, because it may quote the key."""
    try:
        yield
    except ConfigError:
        raise
    except FileNotFoundError:
        raise ConfigError(f"--key {key}: no such file") from None
    except Exception as error:  # each kind of key and module has its own
        kind = type(error).__name__
        hint = f"name a PEM file of a key on P-256, P-384 or P-521; {PASSWORD} has the password of an encrypted one"
        raise ConfigError(f"--key {key.partition('?')[0]} cannot be used ({kind}): {hint}") from None
