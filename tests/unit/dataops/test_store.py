import threading

import pytest

from dataops.errors import ConfigError, StorageError
from dataops.store import FolderStore, check_name, open_store


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../b", "a//b", "./a", "a\\b", "a\0b", "a/./b", ".."])
def test_names_that_could_leave_the_store_are_refused(name, tmp_path):
    with pytest.raises(StorageError, match="plain relative"):
        check_name(name)
    with pytest.raises(StorageError):
        FolderStore(tmp_path).put(name, b"x")


def test_put_reads_back_and_replaces(tmp_path):
    store = FolderStore(tmp_path / "store")
    assert store.size("a/b") is None
    store.put("a/b", b"one")
    store.put("a/b", b"other")
    assert (store.read("a/b"), store.size("a/b"), store.names("")) == (b"other", 5, ["a/b"])
    source = tmp_path / "file"
    source.write_bytes(b"from a file")
    store.put("a/c", source)
    store.copy("a/c", "d/e")
    store.put("a/c", b"changed")
    assert store.read("d/e") == b"from a file"


def test_of_many_creators_one_wins(tmp_path):
    store, won = FolderStore(tmp_path), []
    barrier = threading.Barrier(8)

    def race(number: int) -> None:
        barrier.wait()
        if store.create("manifest.json", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=race, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.read("manifest.json") == str(won[0]).encode()
    assert store.names("") == ["manifest.json"]


def test_delete_tree_takes_only_what_is_below(tmp_path):
    store = FolderStore(tmp_path)
    for name in ("a/1", "a/b/2", "ab/3"):
        store.put(name, b"x")
    store.delete_tree("a")
    store.delete_tree("nothing")
    assert store.names("") == ["ab/3"]


def test_missing_object_is_a_storage_error_that_names_it(tmp_path):
    store = FolderStore(tmp_path)
    with pytest.raises(StorageError, match="no/such"):
        store.read("no/such")
    with pytest.raises(StorageError, match="no/such"), store.open("no/such"):
        pass


def test_a_folder_that_is_a_file_is_not_writable(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="file"):
        FolderStore(tmp_path / "file").check_writable()


@pytest.mark.parametrize("uri", ["gs://bucket/x", "s3:///x", "http://host/x", " "])
def test_addresses_that_are_no_store(uri):
    with pytest.raises(ConfigError):
        open_store(uri)


def test_half_written_files_are_no_objects_and_can_be_deleted(tmp_path):
    store = FolderStore(tmp_path)
    store.put("a/whole", b"12345")
    half = tmp_path / "a" / ".tmp-x"
    half.write_bytes(b"123")
    assert [(e.name, e.bytes, e.modified) for e in store.entries("")] == [
        ("a/whole", 5, (tmp_path / "a" / "whole").stat().st_mtime)
    ]
    (entry,) = store.unfinished()
    assert (entry.name, entry.bytes) == ("a/.tmp-x", 3)
    store.delete_unfinished(entry)
    store.delete_unfinished(entry)
    assert not half.exists()
