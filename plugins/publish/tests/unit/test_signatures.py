"""A signed folder or dataset is verified by every byte; the key is in no file that is written."""

import os
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from dataops.errors import ConfigError, CorruptPart
from plugins.publish.sign import sign, verify
from plugins.publish.signatures import PASSWORD, SIGNATURE
from plugins.publish.tests.keys import PEM, write_keys
from tests.unit.tasks.dataset_chain import packed_in, pair


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "model"
    (made / "code").mkdir(parents=True)
    for name in ("model.safetensors", "README.md", "code/a.py"):
        (made / name).write_bytes(name.encode() * 50)
    return made


def test_any_flipped_byte_added_or_missing_file_is_named(folder, tmp_path):
    private, public = write_keys(tmp_path)
    assert sign(str(folder), key=private, json=True) == 0
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    with pytest.raises(CorruptPart, match="it was signed as 'model', not as 'moved'"):
        verify(str(moved), key=public, json=True)
    assert verify(str(moved), key=public, signed_as="model", json=True) == 0
    (tmp_path / "again").mkdir()
    moved = moved.rename(tmp_path / "again" / "model")
    for path in [path for path in sorted(moved.rglob("*")) if path.is_file()]:
        data = path.read_bytes()
        for place in (0, len(data) // 2, len(data) - 2):
            changed = bytearray(data)
            changed[place] ^= 1
            path.write_bytes(changed)
            with pytest.raises(CorruptPart, match=path.name) as refused:
                verify(str(moved), key=public, json=True)
            assert refused.value.exit_code == 3
        path.unlink()
        with pytest.raises((CorruptPart, ConfigError), match=path.name):
            verify(str(moved), key=public, json=True)
        path.write_bytes(data)
    (moved / "evil.py").write_bytes(b"x")
    with pytest.raises(CorruptPart, match=r"evil\.py"):
        verify(str(moved), key=public, json=True)


def put_link(path):
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to("../elsewhere")


def put_pipe(path):
    path.unlink()
    os.mkfifo(path)


def put_folder(path):
    path.unlink()
    path.mkdir()


ODD = 'a, b\'s ["x"]: (1)\n.bin'


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: put_link(folder / "README.md"), "README.md is a symbolic link; put the file in its place"),
        (lambda folder: (folder / "etc").symlink_to("/etc"), "etc is a symbolic link"),
        (lambda folder: (folder / "code" / "gone").symlink_to("none"), "code/gone is a symbolic link"),
        (lambda folder: put_link(folder / SIGNATURE), "model.sig is a symbolic link"),
        (lambda folder: put_pipe(folder / "README.md"), "README.md is no regular file"),
        (lambda folder: put_folder(folder / "README.md"), "README.md is missing"),
        (lambda folder: put_folder(folder / SIGNATURE), "model.sig cannot be read: Is a directory"),
        (lambda folder: (folder / "README.md").rename(folder / ODD), f"README.md is missing; {ODD} was not signed"),
        (lambda folder: (folder / "code").rename(folder / "c"), "c/a.py was not signed; code/a.py is missing"),
        (lambda folder: (folder / ".gitmodules").touch(), ".gitmodules was not signed"),
        (lambda folder: (folder / SIGNATURE).write_bytes(b""), "the signature model.sig is damaged"),
        (lambda folder: (folder / SIGNATURE).write_bytes(b"[1]"), "the signature model.sig is damaged"),
        (lambda folder: [(folder / f"{n:03}").touch() for n in range(30)], "019 was not signed; and 10 more"),
    ],
)
def test_what_is_not_as_it_was_signed_is_named(folder, tmp_path, change, message):
    private, public = write_keys(tmp_path)
    assert sign(str(folder), key=private, json=True) == 0
    change(folder)
    with pytest.raises(CorruptPart) as refused:
        verify(str(folder), key=public, json=True)
    assert message in str(refused.value)


def test_folder_with_links_or_without_files_is_not_signed(folder, tmp_path):
    private, _ = write_keys(tmp_path)
    (folder / "link").symlink_to("README.md")
    (tmp_path / "empty" / ".git").mkdir(parents=True)
    (tmp_path / "empty" / ".git" / "HEAD").touch()
    for path, message in (
        (folder, "cannot be signed: link is a symbolic link"),
        (tmp_path / "empty", "cannot be signed: it has no files"),
        (folder / "README.md", "is a file, and folders are signed; name its folder"),
    ):
        with pytest.raises(ConfigError, match=message):
            sign(str(path), key=private, json=True)
    assert not list(tmp_path.rglob(SIGNATURE))


def test_dataset_is_verified_from_its_manifest_to_each_part(tmp_path, capsys):
    store, manifests = packed_in(tmp_path / "store", [pair(n) for n in range(4)], shard_size=2)
    pack = manifests["pack"]
    private, public = write_keys(tmp_path)
    with pytest.raises(ConfigError, match="is not signed in"):
        verify(pack.key, key=public, store=store.uri, json=True)
    assert sign(pack.key, key=private, store=store.uri, json=True) == 0
    assert verify(pack.key, key=public, store=store.uri, json=True) == 0
    objects = {name: pack.path(name) for name in ["manifest.json", *(part.name for part in pack.parts)]}
    objects[f"pack-{pack.key}.sig"] = f"signatures/pack-{pack.key}.sig"
    for name, object_name in objects.items():
        path = tmp_path / "store" / object_name
        data = path.read_bytes()
        for place in (0, len(data) // 3, len(data) // 2, len(data) - 1):
            path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            with pytest.raises(CorruptPart, match=name.replace(".", r"\.")):
                verify(pack.key, key=public, store=store.uri, json=True)
        path.unlink()
        missing = (CorruptPart, ConfigError)
        with pytest.raises(missing, match=name.replace(".", r"\.") if name in [p.name for p in pack.parts] else None):
            verify(pack.key, key=public, store=store.uri, json=True)
        path.write_bytes(data)
    for added in ("99999.tar", "more/00000.tar"):
        store.put(pack.path(added), b"x")
        with pytest.raises(CorruptPart, match=f"{added} was not signed"):
            verify(pack.key, key=public, store=store.uri, json=True)
        store.delete([pack.path(added)])
    secret = Path(private).read_text().splitlines()[1]
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "key.pem"]
    assert not [path for path in written if secret.encode() in path.read_bytes()]
    assert secret not in "".join(capsys.readouterr())


def test_other_keys_are_refused_without_their_text(folder, tmp_path, monkeypatch):
    private, _ = write_keys(tmp_path, b"correct horse")
    with pytest.raises(ConfigError, match=f"cannot be used .*{PASSWORD} has the password"):
        sign(str(folder), key=private, json=True)
    monkeypatch.setenv(PASSWORD, "correct horse")
    assert sign(str(folder), key=private, json=True) == 0
    monkeypatch.delenv(PASSWORD)
    (tmp_path / "other").mkdir()
    _, public = write_keys(tmp_path / "other")
    with pytest.raises(CorruptPart, match=SIGNATURE):
        verify(str(folder), key=public, json=True)
    key = rsa.generate_private_key(65537, 2048)
    path = tmp_path / "rsa.pem"
    path.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    with pytest.raises(ConfigError, match=r"rsa\.pem cannot be used"):
        sign(str(folder), key=str(path), json=True)
    with pytest.raises(ConfigError, match="no such file"):
        sign(str(folder), key=str(tmp_path / "none.pem"), json=True)
    with pytest.raises(ConfigError, match="has a PIN") as refused:
        sign(str(folder), key="pkcs11:token=t;object=o?pin-value=123456", json=True)
    assert "123456" not in str(refused.value)
