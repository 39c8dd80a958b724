"""The key file: who can read it, what is refused, and the key's id by the RFC's own vector."""

import os
import stat
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from dataops.errors import ConfigError
from plugins.identity.keys import create_key, key_id, load_key, public_jwk
from tests.python_code import run_python


def test_create_key_writes_a_file_that_only_its_owner_and_openssl_can_read(tmp_path):
    before = os.umask(0)
    try:
        key = create_key(tmp_path / "new" / "identity.pem")
    finally:
        os.umask(before)
    path = tmp_path / "new" / "identity.pem"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert key_id(load_key(path)) == key_id(key)
    openssl = subprocess.run(["openssl", "pkey", "-in", path, "-noout", "-text"], capture_output=True, text=True)
    assert openssl.stdout.startswith("ED25519 Private-Key:"), openssl.stderr


def test_create_key_overwrites_no_file_and_no_link(tmp_path):
    create_key(tmp_path / "a.pem")
    kept = (tmp_path / "a.pem").read_bytes()
    (tmp_path / "link.pem").symlink_to(tmp_path / "missing.pem")
    for name in ("a.pem", "link.pem"):
        with pytest.raises(ConfigError, match=rf"{name} exists, and is not overwritten; name another file with --out"):
            create_key(tmp_path / name)
    assert (tmp_path / "a.pem").read_bytes() == kept
    assert not (tmp_path / "missing.pem").exists()


def test_create_key_on_a_full_disk_is_retryable_and_leaves_no_file(tmp_path):
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom dataops.errors import StorageError\n"
        "from plugins.identity.keys import create_key\nresource.setrlimit(resource.RLIMIT_FSIZE, (16, 16))\n"
        "try:\n    create_key(Path(sys.argv[1]))\nexcept StorageError as error:\n    print(error)\n"
    )
    assert "a.pem: File too large; free disk space, or name another" in run_python(code, tmp_path / "a.pem").stdout
    assert list(tmp_path.iterdir()) == []


def test_key_id_is_the_thumbprint_of_rfc_8037():
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")  # appendix A.1
    jwk = public_jwk(Ed25519PrivateKey.from_private_bytes(seed))
    assert jwk["x"] == "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
    assert jwk["kid"] == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"  # appendix A.3
    assert set(jwk) == {"kty", "crv", "kid", "x", "use"}


def pem(key):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ENCRYPTED = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret words"))
OTHER = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        (pem(KEY), 0o644, "has the mode 0644, with which other users can read the private key; run `chmod 600 "),
        (pem(KEY), 0o640, "has the mode 0640, with which other users can read"),
        (pem(KEY), 0o620, "has the mode 0620, with which other users can change or run"),
        (ENCRYPTED, 0o600, "is encrypted, and no passphrase is read; `pairmill identity create --out "),
        (OTHER, 0o600, "holds a key of another algorithm than Ed25519; `pairmill identity create"),
        (pem(KEY)[:70], 0o600, "is no PEM file of a private key; `pairmill identity create"),
        (b'{"kty": "OKP", "d": "AAECAwQFBgc"}', 0o600, "is no PEM file of a private key"),
        (b"", 0o600, "is no PEM file of a private key"),
    ],
)
def test_load_key_refuses_an_unusable_file_without_repeating_it(tmp_path, content, mode, message):
    path = tmp_path / "identity.pem"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(ConfigError) as raised:
        load_key(path)
    assert str(raised.value).startswith(f"{path} on {os.uname().nodename} {message}")
    assert "AAECAwQFBgc" not in str(raised.value)
    assert raised.value.__cause__ is None
