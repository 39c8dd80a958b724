"""Packing on S3 gives the bytes of a folder, and reads only ranges of raw shards if few images are needed."""

from pathlib import Path

import pytest

from dataops.errors import StorageError
from dataops.storage import s3 as s3_store
from dataops.storage.folder import FolderStore
from dataops.storage.s3 import S3Store
from tests.unit.tasks.dataset_chain import chain, packed, packed_in, some_pairs

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def store(s3_server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> S3Store:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PAIRMILL_HOME", str(tmp_path / "home"))
    return S3Store("mill", f"pack/{tmp_path.name}")


@pytest.mark.parametrize("share", [s3_store.RANGE_SHARE, 0.01], ids=["whole", "by-range"])
def test_pack_gives_the_same_bytes_on_s3_as_in_a_folder(
    store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    monkeypatch.setattr(s3_store, "RANGE_SHARE", share)
    manifest = packed(store, tmp_path, chain(store, some_pairs(), 7), shard_size=5)
    _, there = packed_in(tmp_path / "folder", some_pairs(), 7, shard_size=5)
    assert manifest.content_digest == there["pack"].content_digest
    assert [p.name for p in manifest.parts] == [p.name for p in there["pack"].parts]
    cached = [path for path in (tmp_path / "home").rglob("*.tar") if manifest.key in path.parts]
    assert bool(cached) == (share > 1), "a large shard is not fetched for some pictures of its page"


def test_read_ranges_keeps_the_requested_order(store: S3Store, tmp_path: Path) -> None:
    data = bytes(range(256)) * 40
    ranges = [(9000, 30), (0, 5), (256, 0), (10_239, 1), (5, 300)]
    for each in (store, FolderStore(tmp_path / "folder")):
        each.put("a/b", data)
        assert list(each.read_ranges("a/b", ranges)) == [data[at : at + size] for at, size in ranges]
        with pytest.raises(StorageError, match="ends before byte 10,250"):
            list(each.read_ranges("a/b", [(10_230, 20)]))
        with pytest.raises(StorageError, match="no such object"):
            list(each.read_ranges("a/c", ranges))
    cached = list((tmp_path / "home").rglob("b"))
    assert cached == [], "no whole copy was fetched for a few parts"
