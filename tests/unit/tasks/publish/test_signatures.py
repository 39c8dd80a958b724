"""A signed folder or dataset is verified by every byte; the key is in no file that is written."""

import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from dataops.errors import ConfigError, CorruptPart
from flows.commands.sign import sign, verify
from tasks.publish.signatures import PASSWORD, SIGNATURE
from tests.unit.tasks.dataset_chain import packed_in, pair

pytest.importorskip("model_signing")
PEM = serialization.Encoding.PEM


def write_keys(folder: Path, password: bytes | None = None) -> tuple[str, str]:
    """Return the paths of a private and a public key."""
    key, private, public = ec.generate_private_key(ec.SECP256R1()), folder / "key.pem", folder / "key.pub"
    protection = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    private.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, protection))
    public.write_bytes(key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return str(private), str(public)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    (made / "code").mkdir(parents=True)
    for name in ("model.safetensors", "README.md", "code/a.py"):
        (made / name).write_bytes(name.encode() * 50)
    return made


def test_any_flipped_byte_added_or_missing_file_is_named(folder: Path, tmp_path: Path) -> None:
    private, public = write_keys(tmp_path)
    assert sign(str(folder), private, tmp_path, None, as_json=True) == 0
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    assert verify(str(moved), public, tmp_path, None, as_json=True) == 0
    for path in [path for path in sorted(moved.rglob("*")) if path.is_file()]:
        data = path.read_bytes()
        for place in (0, len(data) // 2, len(data) - 2):
            changed = bytearray(data)
            changed[place] ^= 1
            path.write_bytes(changed)
            with pytest.raises(CorruptPart, match=path.name) as refused:
                verify(str(moved), public, tmp_path, None, as_json=True)
            assert refused.value.exit_code == 3
        path.unlink()
        with pytest.raises((CorruptPart, ConfigError), match=path.name):
            verify(str(moved), public, tmp_path, None, as_json=True)
        path.write_bytes(data)
    (moved / "evil.py").write_bytes(b"x")
    with pytest.raises(CorruptPart, match=r"evil\.py"):
        verify(str(moved), public, tmp_path, None, as_json=True)


def test_dataset_is_verified_from_its_manifest_to_each_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, manifests = packed_in(tmp_path / "store", [pair(n) for n in range(4)], shard_size=2)
    pack, home = manifests["pack"], tmp_path / "home"
    private, public = write_keys(tmp_path)
    with pytest.raises(ConfigError, match="is not signed in"):
        verify(pack.key, public, home, store.uri, as_json=True)
    assert sign(pack.key, private, home, store.uri, as_json=True) == 0
    assert verify(pack.key, public, home, store.uri, as_json=True) == 0
    for name in ["manifest.json", *(part.name for part in pack.parts)]:
        path = tmp_path / "store" / pack.path(name)
        data = bytearray(path.read_bytes())
        place = data.index(b"created_at") + 16 if name == "manifest.json" else len(data) // 2
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(CorruptPart, match=name.replace(".", r"\.")):
            verify(pack.key, public, home, store.uri, as_json=True)
        path.write_bytes(data)
    secret = Path(private).read_text().splitlines()[1]
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "key.pem"]
    assert not [path for path in written if secret.encode() in path.read_bytes()]
    assert secret not in "".join(capsys.readouterr())


def test_other_keys_are_refused_without_their_text(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, _ = write_keys(tmp_path, b"correct horse")
    with pytest.raises(ConfigError, match=f"cannot be used .*{PASSWORD} has the password"):
        sign(str(folder), private, tmp_path, None, as_json=True)
    monkeypatch.setenv(PASSWORD, "correct horse")
    assert sign(str(folder), private, tmp_path, None, as_json=True) == 0
    monkeypatch.delenv(PASSWORD)
    (tmp_path / "other").mkdir()
    _, public = write_keys(tmp_path / "other")
    with pytest.raises(CorruptPart, match=SIGNATURE):
        verify(str(folder), public, tmp_path, None, as_json=True)
    key = rsa.generate_private_key(65537, 2048)
    path = tmp_path / "rsa.pem"
    path.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    with pytest.raises(ConfigError, match=r"rsa\.pem cannot be used"):
        sign(str(folder), str(path), tmp_path, None, as_json=True)
    with pytest.raises(ConfigError, match="no such file"):
        sign(str(folder), str(tmp_path / "none.pem"), tmp_path, None, as_json=True)
    with pytest.raises(ConfigError, match="has a PIN") as refused:
        sign(str(folder), "pkcs11:token=t;object=o?pin-value=123456", tmp_path, None, as_json=True)
    assert "123456" not in str(refused.value)
