"""A later run fetches only images that have changed, and a takedown deletes what is kept."""

import hashlib
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

import pytest

from dataops.snapshot import read_table
from dataops.store import FolderStore
from dataops.trace.targets import Target
from plugins.archives.hook import ORIGINALS
from plugins.archives.originals import Originals
from tests.downloads import fetched
from tests.servers.hostile_web import Web, served

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def web() -> Iterator[Web]:
    with served() as web:
        yield web


def test_a_later_run_fetches_only_changed_images(tmp_path: Path, web: Web) -> None:
    urls = [f"http://versioned.test/{name}" for name in ("1.png", "2.png", "gone.png", "says-no.png")]
    options = {"connect_to": web.connect_to(), "originals": str(tmp_path / "originals")}
    first, before = fetched(tmp_path / "a", urls, **options)
    assert set(first.values()) == {None}
    (tmp_path / "b").mkdir()
    again, after = fetched(tmp_path / "b", urls, **options, image_size=32)
    assert [again[url] for url in urls] == [None, None, "http_410", "opt_out"]
    assert [after[url]["http_status"] for url in urls] == [304, 200, 410, 304]
    assert [after[url]["etag"] for url in urls[:2]] == ['"old"', '"new"']
    assert [after[url]["bytes"] is None for url in urls] == [True, False, True, True]

    def sha256s(folder: str) -> dict[str, str]:
        rows = read_table(FolderStore(tmp_path / folder / "store"), "download/polite/part-00000.parquet").to_pylist()
        return {row["url"]: row["sha256"] for row in rows}

    assert sha256s("a")[urls[0]] == sha256s("b")[urls[0]]
    assert sha256s("a")[urls[1]] != sha256s("b")[urls[1]]
    assert len(list((tmp_path / "originals").glob("??/*"))) == 2  # those that are gone or forbidden are not kept
    assert before[urls[0]]["bytes"] > 0


def test_a_takedown_deletes_the_kept_images_of_urls_and_digests(tmp_path: Path) -> None:
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
