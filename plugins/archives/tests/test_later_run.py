"""A later run fetches only images that have changed, and a takedown deletes what is kept."""

import hashlib
from email.message import Message

import pytest

from dataops.snapshot import read_table
from dataops.store import FolderStore, open_store
from dataops.trace.targets import Target
from plugins.archives.hook import ORIGINALS
from plugins.archives.originals import Originals
from tests.downloads import fetched
from tests.servers.hostile_web import served


@pytest.fixture
def web():
    with served() as web:
        yield web


def test_a_later_run_fetches_only_changed_images(tmp_path, web, s3_environment):
    urls = [f"http://versioned.test/{name}" for name in ("1.png", "2.png", "gone.png", "says-no.png")]
    place = f"s3://mill/{tmp_path.name}/originals"
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


def test_originals_that_are_damaged_or_unknown(tmp_path):
    store = FolderStore(tmp_path)
    kept, headers = Originals(store), Message()
    headers["ETag"] = '"1"'
    for url in ("http://a.test/1", "http://a.test/2"):
        kept.put(url, b"body", headers)
    kept.confirm("http://a.test/unknown")
    assert kept.drop("http://a.test/1")
    assert not kept.drop("http://a.test/1")
    store.put(next(name for name in store.names("") if "/" in name), b"{}\ndamaged")
    assert kept.get("http://a.test/2") is None
    assert kept.drop_matching(lambda one: False) == 1


def test_a_takedown_deletes_the_kept_images_of_urls_and_digests(tmp_path):
    kept, bodies = Originals(FolderStore(tmp_path)), {f"http://a.test/{name}": name.encode() for name in "abc"}
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
