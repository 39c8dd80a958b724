"""A later run fetches only images that have changed, and a takedown deletes what is kept."""

import hashlib
import os
from email.message import Message

import pytest

from dataops.errors import ConfigError
from dataops.snapshot import read_table
from dataops.store import FolderStore, open_store
from dataops.trace.targets import Target
from plugins.archives.hook import ORIGINALS
from plugins.archives.originals import Originals, StoredOriginals
from tests.downloads import fetched
from tests.servers.hostile_web import served

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def web():
    with served() as web:
        yield web


@pytest.mark.parametrize("is_remote", [False, True], ids=["folder", "S3"])
def test_a_later_run_fetches_only_changed_images(tmp_path, web, is_remote, request):
    if is_remote:
        request.getfixturevalue("s3_environment")
    urls = [f"http://versioned.test/{name}" for name in ("1.png", "2.png", "gone.png", "says-no.png")]
    place = f"s3://mill/{tmp_path.name}/originals" if is_remote else str(tmp_path / "originals")
    options = {"connect_to": web.connect_to(), "originals": place}
    first, before = fetched(tmp_path / "a", urls, **options)
    assert set(first.values()) == {None}
    (tmp_path / "b").mkdir()
    again, after = fetched(tmp_path / "b", urls, **options, image_size=32)
    assert [again[url] for url in urls] == [None, None, "http_410", "opt_out"]
    assert [after[url]["http_status"] for url in urls] == [304, 200, 410, 304]
    assert [after[url]["etag"] for url in urls[:2]] == ['"old"', '"new"']
    assert [after[url]["bytes"] is None for url in urls] == [True, False, True, True]

    def sha256s(folder):
        rows = read_table(FolderStore(tmp_path / folder / "store"), "download/polite/part-00000.parquet").to_pylist()
        return {row["url"]: row["sha256"] for row in rows}

    assert sha256s("a")[urls[0]] == sha256s("b")[urls[0]]
    assert sha256s("a")[urls[1]] != sha256s("b")[urls[1]]
    kept = [name for name in open_store(place).names("") if "/" in name]
    assert len(kept) == 2, "those that are gone or forbidden are not kept"
    assert before[urls[0]]["bytes"] > 0
    assert ORIGINALS.list_copies({"originals": place}) == [place]
    assert ORIGINALS.erase(place, urls[:1], []) == 1
    assert len([name for name in open_store(place).names("") if "/" in name]) == 1


def test_originals_in_a_store_are_as_those_in_a_folder(tmp_path):
    store = FolderStore(tmp_path)
    kept, headers = StoredOriginals(store), Message()
    kept.claim()
    headers["ETag"] = '"1"'
    for number in range(6):
        kept.put(f"http://a.test/{number}", bytes(1_000), headers)
        if number < 4:
            for path in tmp_path.glob("??/*"):
                os.utime(path, (1_000, 1_000))
    kept.put("http://a.test/none", b"", Message())
    kept.confirm("http://a.test/0")
    assert kept.shrink(2_600) == 4
    assert [number for number in range(6) if kept.get(f"http://a.test/{number}")] == [4, 5]
    assert kept.drop("http://a.test/4")
    assert not kept.drop("http://a.test/4")
    store.put(next(name for name in store.names("") if "/" in name), b"{}\ndamaged")
    assert kept.get("http://a.test/5") is None
    assert kept.drop_matching(lambda one: False) == 1
    kept.claim()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "photo.jpg").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"holds photo\.jpg, which is not an original"):
        StoredOriginals(FolderStore(tmp_path / "other")).claim()


def test_a_takedown_deletes_the_kept_images_of_urls_and_digests(tmp_path):
    kept, bodies = Originals(tmp_path), {f"http://a.test/{name}": name.encode() for name in "abc"}
    kept.claim()
    message = Message()
    message["ETag"] = '"1"'
    for url, body in bodies.items():
        kept.put(url, body, message)
    assert ORIGINALS.list_copies({"originals": str(tmp_path)}) == [str(tmp_path)]
    assert ORIGINALS.list_copies({}) == ORIGINALS.list_copies({"originals": str(tmp_path / "none")}) == []
    by_digest = Target("sha256", hashlib.sha256(b"b").hexdigest())
    assert ORIGINALS.erase(str(tmp_path), ["http://a.test/a"], [by_digest]) == 2
    assert [kept.get(url) is not None for url in bodies] == [False, False, True]
