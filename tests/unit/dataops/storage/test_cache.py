"""Local copies: fetched once, dropped oldest first, never under a reader of the last hour, by several processes."""

import os
import subprocess
import sys
import time

import pytest

from dataops.home import CHECKOUT
from dataops.storage.cache import KEEP_SECONDS, Cache, Version


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PAIRMILL_HOME", str(tmp_path))
    monkeypatch.setenv("PAIRMILL_CACHE_BYTES", "1000")
    return Cache("127.0.0.1:9000")


def version(size, etag="one"):
    return Version(size, 1_700_000_000, etag)


def writes(data, fetched=None):
    def fetch(path):
        path.write_bytes(data)
        if fetched is not None:
            fetched.append(data)

    return fetch


def age(path, seconds):
    used = time.time() - seconds
    os.utime(path, ns=(int(used * 1e9), path.stat().st_mtime_ns))


def test_cache_fetches_a_copy_once_until_the_object_changes(cache):
    fetched = []
    for data, etag in ((b"one", "1"), (b"one", "1"), (b"two", "2"), (b"two", "2")):
        path = cache.get("mill/a/part", version(3, etag), writes(data, fetched), None)
        assert path.read_bytes() == data
    assert fetched == [b"one", b"two"]


def test_cache_evicts_the_least_recently_used_copies(cache):
    paths = [cache.get(f"mill/{n}", version(300), writes(bytes(300)), None) for n in range(3)]
    for number, path in enumerate(paths):
        age(path, KEEP_SECONDS * (3 - number))
    cache.get("mill/0", version(300), writes(b"not fetched again"), None)  # asked for: now the newest
    cache.get("mill/3", version(300), writes(bytes(300)), None)
    assert [path.exists() for path in paths] == [True, False, True]


def test_cache_deletes_files_of_killed_fetches_after_an_hour(cache):
    cache.get("mill/a", version(1), writes(b"x"), None)
    left = [cache.root / "127.0.0.1_9000" / "mill" / name for name in (".tmp-old", ".tmp-new")]
    for path in left:
        path.write_bytes(b"half")
    long_ago = time.time() - KEEP_SECONDS - 1
    os.utime(left[0], (long_ago, long_ago))
    cache.trim()
    assert [path.exists() for path in left] == [False, True]


def test_failed_fetch_leaves_no_file(cache):
    def fail(path):
        path.write_bytes(b"half")
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        cache.get("mill/a", version(4), fail, None)
    assert [p for p in (cache.root / "127.0.0.1_9000").rglob("*") if p.is_file()] == []


def test_cache_raises_when_the_file_system_has_no_nanoseconds(cache, monkeypatch):
    utime = os.utime
    monkeypatch.setattr(os, "utime", lambda path, ns: utime(path, ns=(ns[0], ns[1] // 10**9 * 10**9)))
    with pytest.raises(Exception, match="set PAIRMILL_HOME to a local disk"):
        cache.get("mill/a", version(1), writes(b"x"), None)


def test_processes_read_whole_copies_when_their_shared_cache_is_too_small(tmp_path):
    code = (
        "import os, sys\nimport dataops.storage.cache\nfrom dataops.storage.cache import Cache, Version\n"
        "dataops.storage.cache.KEEP_SECONDS = 0.5\ncache = Cache('host')\n"
        "for n in range(60):\n"
        "    name = n % 7\n"
        "    data = bytes([name]) * 400\n"
        "    path = cache.get(f'mill/{name}', Version(400, 1, str(name)), lambda p: p.write_bytes(data), None)\n"
        "    assert path.read_bytes() == data\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(CHECKOUT),
        "PAIRMILL_HOME": str(tmp_path),
        "PAIRMILL_CACHE_BYTES": "900",
    }
    racers = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True)
        for _ in "1234"
    ]
    assert [racer.communicate()[1] for racer in racers] == [""] * 4


def test_many_small_copies_do_not_list_the_cache_each_time(cache, monkeypatch):
    listed = []
    monkeypatch.setattr(Cache, "trim", lambda self: listed.append("all copies"))
    for number in range(100):
        cache.get(f"mill/{number}", version(1), writes(b"x"), None)
    assert 1 < len(listed) <= 11, "at the first one, and then every 1% of the limit"
