"""Packing on S3 gives the bytes of a folder, in requests of many images."""

import hashlib
import os
import tempfile

import pytest
from boto3.s3.transfer import TransferConfig

from dataops.errors import StorageError
from dataops.storage.folder import FolderStore
from dataops.storage.s3 import S3Store, Transfers
from tasks.pack import sorted_runs as sort_layout
from tasks.pack import stage
from tests.unit.tasks.dataset_chain import chain, packed, packed_in, some_pairs


@pytest.fixture
def store(s3_environment, tmp_path):
    return S3Store("mill", f"pack/{tmp_path.name}")


@pytest.mark.parametrize(("share", "passes"), [(4, 1), (0.01, 2)], ids=["one-pass", "two-passes"])
def test_pack_gives_the_same_bytes_on_s3_as_in_a_folder(store, tmp_path, monkeypatch, share, passes):
    store = S3Store(store.bucket, store.prefix, Transfers(range_share=share))
    with monkeypatch.context() as patch:
        if passes == 2:
            layout = sort_layout.SortLayout(True, 12_000, 2, 16, 34_000)
            patch.setattr(stage, "choose_layout", lambda *_, **__: layout)
        manifest = packed(store, tmp_path, chain(store, some_pairs(), 7), shard_size=5)
    _, there = packed_in(tmp_path / "folder", some_pairs(), 7, shard_size=5)
    assert manifest.content_digest == there["pack"].content_digest
    assert [p.name for p in manifest.parts] == [p.name for p in there["pack"].parts]
    cached = [path for path in (tmp_path / "home").rglob("*.tar") if manifest.key in path.parts]
    assert bool(cached) == (share > 1), "a large shard is not fetched for some pictures of its page"
    assert [name for name in store.names("pack") if "_work" in name] == [], "no run is left"


@pytest.mark.parametrize("size", [0, 100, (1 << 20) + 5, 17 << 20])
def test_put_chunks_sends_large_objects_in_parts(store, tmp_path, monkeypatch, size):
    parts = TransferConfig(multipart_threshold=1 << 20, multipart_chunksize=6 << 20, max_concurrency=2)
    store = S3Store(store.bucket, store.prefix, Transfers(stream_parts=parts))
    data, memory = os.urandom(size), bytearray(300_000)

    def chunks():
        for start in range(0, size, len(memory)):
            chunk = data[start : start + len(memory)]
            memory[: len(chunk)] = chunk  # the next chunk overwrites this one
            yield memoryview(memory)[: len(chunk)]
            yield memoryview(b"")  # which is not the end

    store.put_chunks("a/b", chunks, sha256=hashlib.sha256(data).hexdigest())
    assert store.read("a/b") == data
    head = store._s3.head_object(Bucket=store.bucket, Key=store._key("a/b"))
    assert head["Metadata"] == {"sha256": hashlib.sha256(data).hexdigest()}
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with store.open_once("a/b") as file:
        assert file.read() == data
        assert os.pread(file.fileno(), 10, 50) == data[50:60]
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == [], "the copy has no name"
    with pytest.raises(StorageError, match="no such object: a/c"), store.open_once("a/c"):
        pass


def test_read_ranges_keeps_the_requested_order(store, tmp_path):
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
