"""Sign and verify models and datasets with OpenSSF Model Signing, by a key of elliptic curves.

A folder has its signature in itself. That of a dataset is of its manifest, which has the sha256 of every part; it lies in
the store, as that of a training does. That of a registered model is an artefact of its MLflow run.
"""

import base64
import json
import os
import re
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from dataops.errors import ConfigError, CorruptPart
from dataops.plugins import require
from dataops.redaction import read_secret
from dataops.snapshot import MANIFEST, Manifest, find_manifest
from dataops.store import Store

SIGNATURE = "model.sig"
FOLDER = "signatures"
UNSIGNED = frozenset({SIGNATURE, ".cache", ".git", ".gitattributes", ".github", ".gitignore"})
"""Names at the top of a folder that a signature does not cover: itself, and what Git and a download from the Hub leave."""
_DERIVED = ("_work/",)
"""Folders of a snapshot with objects that are made from its parts, or while it is made."""
_CURVES = "on P-256, P-384 or P-521"
_LISTED = 20
"""Maximum number of files that a message names."""


PASSWORD = "PAIRMILL_KEY_PASSWORD"
"""Environment variable with the password of an encrypted key file."""


class _Differs(Exception):
    """Files differ from a signature."""


def sign_folder(folder: Path, key: str, signature: Path) -> None:
    """Write the signature of all files of a folder, or of one file.

    Raises: ConfigError if the key cannot be used, the folder has links or no files, or a file cannot be read or written.
    """
    require(["model_signing", "OpenSSL"], "publish", "pairmill sign")
    from model_signing import hashing, signing

    config = signing.Config()
    _use_private_key(config, key)
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=[SIGNATURE, ".cache"]))
    try:
        files, irregular = list_files(folder := folder.resolve())
        if irregular or not files:
            raise ConfigError(f"{folder} cannot be signed: {_join(irregular) or 'it has no files'}")
        config.sign(folder, signature)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be signed: {error.filename or signature}: {error.strerror}") from error


def _use_private_key(config: Any, key: str) -> None:
    """Let a config of model_signing sign with a PEM file or a PKCS#11 URI. Raises: ConfigError if it cannot be used."""
    with _key_errors(key, f"a PEM file of a private key {_CURVES}; {PASSWORD} has the password of an encrypted one"):
        if not key.startswith("pkcs11:"):
            password = read_secret(PASSWORD)
            secret: Any = password.get_secret_value().encode() if password else None
            config.use_elliptic_key_signer(private_key=Path(key), password=secret)
        elif re.search(r"[?&;]pin-value=", key):
            raise ConfigError("--key has a PIN, which others on this machine can read; name a file by pin-source=file:")
        else:
            config.use_pkcs11_signer(pkcs11_uri=key)


@contextmanager
def _key_errors(key: str, needed: str) -> Iterator[None]:
    """Translate errors of a key. The text of the library is left out, because it may quote the key."""
    try:
        yield
    except ConfigError:
        raise
    except FileNotFoundError:
        raise ConfigError(f"--key {key}: no such file") from None
    except Exception as error:  # each kind of key and module has its own
        kind = type(error).__name__
        raise ConfigError(f"--key {key.partition('?')[0]} cannot be used ({kind}): name {needed}") from None


def verify_folder(folder: Path, key: str, signature: Path, name: str, signed_as: str | None = None) -> int:
    """Compare all files of a folder, or one file, with a signature. Return the number of files.

    Args:
        key: PEM file of the public key.
        name: name of the folder or file in messages.
        signed_as: name under which it was signed; by default that of the folder.

    Raises: CorruptPart that names each file that differs, is missing, was added or is not regular; ConfigError if the key
        cannot be used.
    """
    config = _new_verification()
    with _key_errors(key, f"a PEM file of a public key {_CURVES}"):
        config.use_elliptic_key_verifier(public_key=Path(key))
    try:
        files, irregular = list_files(folder := folder.resolve())
        if irregular:
            raise CorruptPart(f"{name}: {_join(irregular)}")
        subject = _read_subject(signature)
        with redirect_stdout(sys.stderr):  # the library prints warnings
            config.verify(folder, signature)
        if subject != (signed_as or folder.name):
            raise CorruptPart(
                f"{name}: it was signed as {subject!r}, not as {signed_as or folder.name!r}, so it may be another model of"
                f" the same key; if {subject!r} is what you expect, add --signed-as to say so"
            )
    except CorruptPart:
        raise
    except _Differs as error:
        raise CorruptPart(f"{name}: {error}") from None
    except OSError as error:
        raise CorruptPart(f"{name}: {error.filename} cannot be read: {error.strerror}") from None
    except Exception:  # the library raises many kinds for a damaged signature
        raise CorruptPart(f"{name}: the signature {signature.name} is damaged, or of another key than {key}") from None
    return len(files)


def _new_verification() -> Any:
    """Return a verification of model_signing that raises _Differs with the names of the files, of any characters."""
    require(["model_signing", "OpenSSL"], "publish", "pairmill verify")
    from model_signing import verifying

    base: Any = verifying.Config

    class Verification(base):
        def _get_manifest_diff(self, actual: Any, expected: Any) -> list[str]:
            found = {item.identifier: item.digest for item in actual.resource_descriptors()}
            signed = {item.identifier: item.digest for item in expected.resource_descriptors()}
            lines = [f"{name} is missing" for name in signed.keys() - found.keys()]
            lines += [f"{name} was not signed" for name in found.keys() - signed.keys()]
            differing = [name for name in signed.keys() & found.keys() if signed[name] != found[name]]
            lines += [f"{'it' if name == '.' else name} differs from what was signed" for name in differing]
            raise _Differs(_join(sorted(lines)))

    return Verification()


def list_files(folder: Path) -> tuple[list[str], list[str]]:
    """Return the names of the files that a signature covers, and a line for each link and special file. Raises: OSError."""
    if folder.is_file():
        return [folder.name], []

    def fail(error: OSError) -> None:
        raise error

    files: list[str] = []
    irregular: list[str] = []
    for parent, folders, names in os.walk(folder, onerror=fail):
        for name in sorted([*folders, *names]):
            path = Path(parent, name)
            relative, mode = path.relative_to(folder), path.lstat().st_mode
            if stat.S_ISLNK(mode):
                irregular.append(f"{relative} is a symbolic link; put the file in its place, for example by cp -rL")
            elif not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
                irregular.append(f"{relative} is no regular file")
            elif stat.S_ISREG(mode) and relative.parts[0] not in UNSIGNED:
                files.append(str(relative))
    return files, irregular


def _read_subject(signature: Path) -> str | None:
    """Return the name under which something was signed: of a folder or file, its name; None if there is not one.

    Raises: ValueError if a byte of the signature was changed to one that its base64 ignores.
    """
    envelope = json.loads(signature.read_bytes())["dsseEnvelope"]
    for value in (envelope["payload"], *(one["sig"] for one in envelope["signatures"])):
        if base64.b64encode(base64.b64decode(value)).decode() != value:
            raise ValueError("its base64 is not canonical")
    subjects = json.loads(base64.b64decode(envelope["payload"]))["subject"]
    return str(subjects[0]["name"]) if len(subjects) == 1 else None


def _join(lines: Iterable[str]) -> str:
    lines = list(lines)
    more = [f"and {len(lines) - _LISTED} more"] if len(lines) > _LISTED else []
    return "; ".join([*lines[:_LISTED], *more])


def sign_snapshot(manifest: Manifest, store: Store, key: str) -> str:
    """Sign the manifest of a snapshot, and return the name of the signature in the store."""
    with tempfile.TemporaryDirectory() as name:
        path, signature = Path(name) / MANIFEST, Path(name) / SIGNATURE
        path.write_bytes(store.read(manifest.path(MANIFEST)))
        sign_folder(path, key, signature)
        target = name_signature(manifest)
        store.put(target, signature)
    return target


def verify_snapshot(manifest: Manifest, store: Store, key: str) -> int:
    """Compare the manifest with its signature and every part with the manifest; return the number of parts.

    Raises: CorruptPart that names the object that differs, is missing or was added; ConfigError if there is no signature.
    """
    target = name_signature(manifest)
    if store.size(target) is None:
        raise ConfigError(f"{manifest.stage}/{manifest.key} is not signed in {store.uri}; sign it with `pairmill sign`")
    with tempfile.TemporaryDirectory() as name:
        path, signature = Path(name) / MANIFEST, Path(name) / Path(target).name
        path.write_bytes(store.read(manifest.path(MANIFEST)))
        signature.write_bytes(store.read(target))
        verify_folder(path, key, signature, f"{store.uri}/{manifest.path(MANIFEST)}")
    find_manifest(store, manifest.stage, manifest.key, verify=True)
    folder, known = manifest.path(""), {MANIFEST, *(part.name for part in manifest.objects)}
    names = (name.removeprefix(folder) for name in store.names(folder.rstrip("/")))
    if added := [name for name in names if name not in known and not name.startswith(_DERIVED)]:
        raise CorruptPart(f"{store.uri}/{folder}: {_join(f'{name} was not signed' for name in added)}")
    return len(manifest.parts)


def name_signature(manifest: Manifest) -> str:
    """Return the name in the store of the signature of a snapshot."""
    return f"{FOLDER}/{manifest.stage}-{manifest.key}.sig"
