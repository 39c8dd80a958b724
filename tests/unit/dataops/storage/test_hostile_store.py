"""What a store that someone else wrote can do to its reader: nothing beyond being refused, by name."""

import io
import json
import pickle
import tarfile

import pytest
from pydantic import ValidationError

from dataops.errors import ConfigError, CorruptPart, StorageError
from dataops.shards.tar import read_samples
from dataops.snapshot import Counts, Manifest, Part, Record, find_manifest, read_table
from dataops.storage.s3 import S3Store
from dataops.store import FolderStore, open_store
from tests.bombs import Bomb

KEY = "0123456789abcdef"


@pytest.fixture
def outside(tmp_path):
    """Return a folder of the reader, beside the store."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "id_rsa").write_text("private")
    return tmp_path / "own"


@pytest.fixture
def store(tmp_path):
    return FolderStore(tmp_path / "store")


# Links ----------------------------------------------------------------------------------------------------------------


def test_store_ignores_a_planted_link_to_a_file(store, outside):
    store.put("pack/a", b"x")
    (store.root / "pack" / "b").symlink_to(outside / "id_rsa")
    assert store.names("") == ["pack/a"]
    for call in (
        store.read,
        store.size,
        store.local,
        lambda name: store.locals(["pack/a", name]),
        lambda name: store.put(name, b"x"),
        lambda n: store.create(n, b"x"),
    ):
        with pytest.raises(StorageError, match="pack/b is a link out of the store; remove it"):
            call("pack/b")
    with pytest.raises(StorageError):
        store.copy("pack/b", "pack/c")
    assert (outside / "id_rsa").read_text() == "private"


def test_store_does_not_write_or_delete_through_a_planted_link_to_a_folder(store, outside):
    (store.root / "extract").mkdir(parents=True)
    (store.root / "extract" / KEY).symlink_to(outside)
    for call in (
        lambda: store.put(f"extract/{KEY}/part", b"x"),
        lambda: store.locals([f"extract/{KEY}/id_rsa"]),
        lambda: store.delete_tree(f"extract/{KEY}/id_rsa"),
    ):
        with pytest.raises(StorageError, match="is a link out of the store"):
            call()
    with pytest.raises(StorageError):
        store.delete_tree(f"extract/{KEY}")
    assert store.names("") == []
    assert [path.name for path in outside.iterdir()] == ["id_rsa"]


@pytest.mark.parametrize(
    "uri",
    ["s3://../x", "s3://bucket/../x", "s3://bucket/a/../../x", "s3://b", "s3://user:pw@bucket/x", "s3://bucket/x?y#z"],
)
def test_s3_store_raises_for_buckets_and_prefixes_that_leave_the_cache(uri):
    with pytest.raises(ConfigError, match="s3://bucket/prefix"):
        open_store(uri)


def test_cached_copies_stay_in_the_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("PAIRMILL_HOME", str(tmp_path / "home"))
    for name in ("../x", "/etc/x", "a/../../x", "a\0b", "a\\..\\b"):
        with pytest.raises(StorageError, match="plain relative"):
            S3Store("bucket", "p").local(name)
    assert list(tmp_path.iterdir()) == []


# Manifests ------------------------------------------------------------------------------------------------------------


def manifest(**changes):
    part = {"name": "part-00000.parquet", "rows": 0, "bytes": 1, "sha256": "0"}
    known = {"stage": "pack", "stage_version": 1, "key": KEY, "inputs": [], "config": {}, "seed": 0, "code": {}}
    more = {
        "parts": [part],
        "counts": Counts().model_dump(),
        "content_digest": "0",
        "created_at": "2026-01-01T00:00:00",
    }
    return known | more | changes


@pytest.mark.parametrize(
    "name",
    ["../../own/id_rsa", "/etc/passwd", "a/../b", "a/b/c", ".hidden", "", "a\0b", "a\nb", "a\\b", "\x1b[2J", "x" * 300],
)
def test_part_raises_for_names_that_leave_the_folder(store, name):
    with pytest.raises(ValidationError, match="name"):
        Part(name=name, rows=0, bytes=0, sha256="")
    bad = [{"name": name, "rows": 0, "bytes": 7, "sha256": "0"}]
    store.put(f"pack/{KEY}/manifest.json", json.dumps(manifest(parts=bad)).encode())
    with pytest.raises(CorruptPart, match="a run of its config remakes it"):
        find_manifest(store, "pack", KEY)
    with pytest.raises(ValidationError):
        Record(task="t", parts=[{"name": name, "rows": 0, "bytes": 0, "sha256": ""}])


@pytest.mark.parametrize(
    "changes",
    [{"stage": "extract"}, {"key": "f" * 16}, {"stage": ".."}, {"key": "../../own"}, {"parts": 5}, {"more": 1}],
)
def test_find_manifest_rejects_an_invalid_manifest_or_one_of_another_snapshot(store, changes):
    store.put(f"pack/{KEY}/part-00000.parquet", b"x")
    store.put(f"pack/{KEY}/manifest.json", json.dumps(manifest()).encode())
    assert isinstance(find_manifest(store, "pack", KEY), Manifest)
    store.put(f"pack/{KEY}/manifest.json", json.dumps(manifest(**changes)).encode())
    with pytest.raises(CorruptPart, match=f"pack/{KEY}/manifest.json"):
        find_manifest(store, "pack", KEY)


# Pickle ---------------------------------------------------------------------------------------------------------------


def test_readers_reject_a_pickle_without_running_it(store, tmp_path):
    bomb = pickle.dumps(Bomb(tmp_path / "ran"))
    pickle.loads(bomb)
    assert (tmp_path / "ran").exists()
    (tmp_path / "ran").unlink()
    store.put("pack/x/part-00000.parquet", bomb)
    with pytest.raises(CorruptPart, match=r"pack/x/part-00000.parquet"):
        read_table(store, "pack/x/part-00000.parquet")
    with pytest.raises(CorruptPart, match=r"pack/x/00000.tar"):
        list(read_samples(io.BytesIO(bomb), "pack/x/00000.tar"))
    store.put(f"pack/{KEY}/manifest.json", bomb)
    with pytest.raises(CorruptPart, match=f"pack/{KEY}/manifest.json"):
        find_manifest(store, "pack", KEY)
    assert not (tmp_path / "ran").exists()


# Shards ---------------------------------------------------------------------------------------------------------------


def sized(size):
    """Return a shard with one member whose header has `size` (12 bytes) as its size."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("a.jpg"))
    data = bytearray(out.getvalue())
    data[124:136] = size
    data[148:156] = b"        "
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return io.BytesIO(bytes(data))


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(b"77777777777\0", id="8 GiB"),
        pytest.param(b"\x80" + b"\xff" * 11, id="2^88"),
        pytest.param(b"\xff" * 11 + b"\x00", id="negative"),
        pytest.param(b"\xff" + b"\x80" + b"\0" * 10, id="very negative"),
        pytest.param(b"%011o\0" % ((256 << 20) + 1), id="over 256 MiB"),
    ],
)
def test_read_samples_raises_before_it_reads_a_member_of_an_invalid_size(size):
    with pytest.raises(CorruptPart, match=r"s\.tar.*more than 256 MiB" if size[:2] == b"02" else r"s\.tar"):
        list(read_samples(sized(size), "s.tar"))
