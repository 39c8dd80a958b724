import errno
import fcntl
import mmap
import os
import subprocess

import pytest

from dataops.errors import StorageError
from dataops.storage.base import PAGE
from dataops.store import FolderStore, check_name
from tests.concurrency import check_race
from tests.python_code import run_python


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../b", "a//b", "./a", "a\\b", "a\0b", "a/./b", ".."])
def test_store_raises_for_names_that_leave_it(name, tmp_path):
    with pytest.raises(StorageError, match="plain relative"):
        check_name(name)
    with pytest.raises(StorageError):
        FolderStore(tmp_path).put(name, b"x")


def test_create_succeeds_for_one_of_many_writers(tmp_path):
    store = FolderStore(tmp_path)
    check_race(store, "manifest.json")
    assert store.names("") == ["manifest.json"]


@pytest.fixture
def small_disk(tmp_path):
    """Mount a file system of 512 KiB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_put_names_the_remedy_and_leaves_no_file_on_a_full_disk(small_disk, tmp_path):
    store = FolderStore(small_disk / "store")
    store.put("a/kept", b"kept")
    large = tmp_path / "large"
    large.write_bytes(bytes(1 << 20))
    for data in (bytes(1 << 20), large):
        with pytest.raises(StorageError, match=r"No space left.*Free some space on the disk of .*then rerun") as caught:
            store.put("a/large", data)
        assert caught.value.exit_code == 75
    with pytest.raises(StorageError, match="Free some space"):
        store.create("a/manifest.json", bytes(1 << 20))
    with pytest.raises(StorageError, match="Free some space"):
        store.put_chunks("a/large", lambda: iter([pages(bytes(1 << 18))] * 4), direct=True)
    assert [path.name for path in (small_disk / "store" / "a").iterdir()] == ["kept"]
    store.put("a/small", bytes(1 << 18))
    assert store.names("") == ["a/kept", "a/small"]
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "rest").write_bytes(bytes(1 << 20))
    with pytest.raises(StorageError, match="Free some space"):
        store.check_writable()


def test_put_names_the_remedy_when_a_file_exceeds_its_size_limit(tmp_path):
    """Limit the size of files, which acts like a full disk for users who may not mount one."""
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom dataops.errors import StorageError\n"
        "from dataops.store import FolderStore\nresource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n    FolderStore(Path(sys.argv[1])).put('a/b', bytes(8192))\n"
        "except StorageError as error:\n    print(error)\n"
    )
    assert "Free some space" in run_python(code, tmp_path).stdout
    assert list((tmp_path / "a").iterdir()) == []


def pages(data):
    """Return the bytes in memory that begins with a page."""
    memory = mmap.mmap(-1, len(data))
    memory.write(data)
    return memoryview(memory)


@pytest.mark.parametrize("refused", [0, 1, 4, 5])
def test_put_chunks_bypasses_the_page_cache_where_possible(tmp_path, monkeypatch, refused):
    """Refuse one of six direct writes; the system itself refuses only the last, which is not a whole page."""
    real_write, past = os.write, []

    def write(descriptor, data):
        past.append(bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT))
        if past[-1] and len(past) - 1 == refused:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real_write(descriptor, data[: PAGE * 2])  # as a system may: less than it was given

    monkeypatch.setattr(os, "write", write)
    whole = os.urandom(PAGE * 9 + 700)
    parts = [whole[: PAGE * 3], whole[PAGE * 3 : PAGE * 8], whole[PAGE * 8 :]]
    FolderStore(tmp_path).put_chunks("a/b", lambda: map(pages, parts), direct=True)
    assert (tmp_path / "a" / "b").read_bytes() == whole
    assert past == ([True] * (refused + 1) + [False] * (6 - refused) if _can_be_direct(tmp_path) else [False] * 6)


def _can_be_direct(folder):
    try:
        os.close(os.open(folder / "probe", os.O_CREAT | os.O_WRONLY | os.O_DIRECT))
    except OSError:
        return False
    return True


def test_sweep_deletes_files_of_killed_writers(tmp_path):
    store = FolderStore(tmp_path)
    store.put("a/b/part", b"x")
    for left in (tmp_path / ".tmp-1", tmp_path / "a" / "b" / ".tmp-2", tmp_path / "a" / ".tmp-3" / "part"):
        left.parent.mkdir(exist_ok=True)
        left.write_bytes(b"half")
    assert store.names("") == ["a/b/part"]
    assert store.sweep("a", older_than_seconds=60) == 0
    assert store.sweep("a") == 2
    assert store.sweep("") == 1
    assert [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*"))] == ["a", "a/b", "a/b/part"]


@pytest.mark.parametrize(
    "write",
    [
        lambda store: store.put("a/_work/x", b"new"),
        lambda store: store.create("a/_work/x", b"new"),
        lambda store: store.put_chunks("a/_work/x", lambda: iter([memoryview(b"n"), memoryview(b"ew")])),
    ],
)
@pytest.mark.parametrize("clear", [lambda store: store.sweep("a"), lambda store: store.delete_tree("a/_work")])
def test_writer_succeeds_when_its_folder_is_deleted(tmp_path, monkeypatch, write, clear):
    store, cleared = FolderStore(tmp_path), []
    sync = os.fsync

    def clear_once(handle):
        sync(handle)
        if not cleared:  # the temporary file is whole and has not got its name yet
            cleared.append(True)
            clear(store)

    monkeypatch.setattr(os, "fsync", clear_once)
    write(store)
    assert cleared
    assert store.read("a/_work/x") == b"new"
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "_work", "x"]
