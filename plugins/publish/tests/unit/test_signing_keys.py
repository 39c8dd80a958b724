"""A key of a KMS signs by a command, and what its command does wrong is named."""

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from dataops.errors import ConfigError, JobFailed
from plugins.publish import signing_keys
from plugins.publish.sign import sign, verify
from plugins.publish.signatures import SIGNATURE
from plugins.publish.signing_keys import SigningKey
from plugins.publish.tests.unit.test_signatures import write_keys

pytest.importorskip("model_signing")
DIGESTED = "openssl dgst -sha256 -binary | openssl pkeyutl -sign -inkey {} | openssl base64"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.json").write_bytes(b"{}")
    return tmp_path / "model"


def write_command(folder: Path, line: str) -> str:
    path = folder / "my kms.sh"
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
    return f"'{path}' --key alias/models"


@pytest.mark.parametrize("line", ["openssl dgst -sha256 -sign {}", DIGESTED], ids=["message", "digest"])
def test_command_signs_the_message_or_its_digest(folder: Path, tmp_path: Path, line: str) -> None:
    private, public = write_keys(tmp_path)
    key = SigningKey(public, write_command(tmp_path, line.format(private)))
    assert sign(str(folder), key, tmp_path, None, as_json=True) == 0
    assert verify(str(folder), public, tmp_path, None, as_json=True) == 0


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
@pytest.mark.parametrize("form", ["der", "base64", "pair", "base64url"])
def test_command_may_write_each_form_of_a_signature(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, curve: ec.EllipticCurve, form: str
) -> None:
    key, path = ec.generate_private_key(curve), tmp_path / "key.pub"
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    path.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, spki))
    digest = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[curve.key_size]

    def run(command: str, data: bytes) -> bytes:
        signature = key.sign(data, ec.ECDSA(digest))
        if form in ("pair", "base64url"):  # as Azure Key Vault has it
            signature = b"".join(part.to_bytes((curve.key_size + 7) // 8) for part in decode_dss_signature(signature))
        coded = {"base64": base64.encodebytes(signature), "base64url": base64.urlsafe_b64encode(signature).rstrip(b"=")}
        return coded.get(form, signature)

    monkeypatch.setattr(signing_keys, "_run", run)
    assert sign(str(folder), SigningKey(str(path), "kms"), tmp_path, None, as_json=True) == 0
    assert verify(str(folder), str(path), tmp_path, None, as_json=True) == 0


def test_command_that_does_not_sign_is_refused_and_nothing_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, public = write_keys(tmp_path)
    (tmp_path / "other").mkdir()
    other, _ = write_keys(tmp_path / "other")
    monkeypatch.setenv("KMS_TOKEN", "hush-hush-hush")
    for command, kind, message in (
        (
            "echo access denied for hush-hush-hush >&2; exit 4",
            JobFailed,
            "ended with exit code 4: access denied for ***",
        ),
        ("exit 1", JobFailed, "ended with exit code 1: no message on standard error"),
        ("cat", ConfigError, "bytes that are no signature of its standard input by the key of --key; it must"),
        ("true", ConfigError, "--command wrote 0 bytes that are no signature"),
        (f"openssl dgst -sha256 -sign {other}", ConfigError, "no signature of its standard input by the key"),
        (f"openssl dgst -sha512 -sign {private}", ConfigError, "it must sign with ECDSA and SHA-256"),
    ):
        with pytest.raises(kind) as refused:
            sign(str(folder), SigningKey(public, write_command(tmp_path, command)), tmp_path, None, as_json=True)
        assert message in str(refused.value)
    for command, message in (
        (str(tmp_path / "none.sh"), r"none\.sh cannot be started: No such file"),
        ("'", "cannot be split into a program"),
        ("", "--command is empty"),
    ):
        with pytest.raises(ConfigError, match=message):
            sign(str(folder), SigningKey(public, command), tmp_path, None, as_json=True)
    with pytest.raises(ConfigError, match=r"--key .*key\.pem cannot be used .* of a public key"):
        sign(str(folder), SigningKey(private, "true"), tmp_path, None, as_json=True)
    monkeypatch.setattr(signing_keys, "COMMAND_SECONDS", 0.05)
    with pytest.raises(JobFailed, match=r"sleep has not signed within 0\.05 s") as late:
        sign(str(folder), SigningKey(public, "sleep 60"), tmp_path, None, as_json=True)
    assert late.value.exit_code == 75
    assert not (folder / SIGNATURE).exists()
