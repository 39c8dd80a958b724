"""From archives to raw shards without a request: extract, filter and download with `source.images = "archive"`."""

import socket
import sqlite3
from contextlib import closing
from hashlib import sha256

import pytest
from PIL import Image

from dataops.errors import ConfigError, StorageError
from dataops.snapshot import read_parts
from dataops.store import FolderStore
from plugins.archives import archive_index
from tasks.download import stage as download
from tasks.download.config import DownloadConfig
from tasks.download.stage import DOWNLOAD
from tasks.engine.context import Context
from tasks.engine.stage import make, plan
from tasks.extract.sources.warc import WarcSource
from tasks.extract.stage import EXTRACT
from tasks.filter.config import FilterConfig
from tasks.filter.stage import FILTER
from tests.archived_images import DATE, http, record, redirect, write_archive
from tests.image_files import as_file


def photo(number):
    return as_file(Image.new("RGB", (80, 60), (number * 20, 99, 255 - number * 20)))


def page(numbers):
    images = "".join(f'<img src="/{n}.png" alt="A photo of harbour number {n} in the morning">' for n in numbers)
    return http(f"<html lang=en><body>{images}".encode(), Content_Type="text/html")


@pytest.fixture
def crawl(tmp_path):
    """Return a folder of two archives: 12 images are named, 0 to 7 lie in the other archive than their page."""
    folder = tmp_path / "crawl"
    folder.mkdir()
    images = [record(f"http://a.test/{n}.png", http(photo(n))) for n in range(8)]
    write_archive(
        folder / "a.warc.gz", [record("http://a.test/", page(range(12))), redirect("http://a.test/9.png", "/1.png")]
    )
    refused = record("http://a.test/8.png", http(photo(8), X_Robots_Tag="noai"))
    broken = record("http://a.test/10.png", http(photo(8)[:40]))
    write_archive(folder / "b.warc.gz", [*images, refused, broken])
    return folder


EXPECTED = {"not_in_archive": 1, "opt_out": 1, "decode": 1}
"""Numbers 11, 8 and 10."""


@pytest.fixture
def offline(monkeypatch):
    """Let every connection and every lookup of a host fail the test."""

    def refuse(*_, **__):
        raise AssertionError("a request was made")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def run(store, paths, home, pool, **settings):
    """Return the snapshots of filter and download."""
    source = WarcSource(paths=paths, images="archive")
    context = Context(store, home, workers=2, pool=pool)
    pairs = make(plan(EXTRACT, source, 0, []), context)
    kept = make(plan(FILTER, FilterConfig(languages=["en"]), 0, [pairs]), context)
    config = DownloadConfig(image_size=32, shard_size=5, **settings).adapt([source])
    return kept, make(plan(DOWNLOAD, config, 0, [kept], store), context)


def test_images_come_from_the_archives_without_a_request(crawl, tmp_path, one_thread, offline):
    store = FolderStore(tmp_path / "store")
    kept, found = run(store, [str(crawl / "*.warc.gz")], tmp_path, one_thread)
    assert kept.counts.kept == found.counts.input == 12
    assert found.counts.dropped == EXPECTED
    assert found.counts.kept == 9
    assert found.facts["archive"] == {
        "files": 2, "captures": {"body": 11, "redirect": 1}, "damages": {}, "failed_files": [],
    }  # fmt: skip
    rows = {row["url"]: row for row in read_parts(store, found).to_pylist()}
    digests = {f"http://a.test/{n}.png": sha256(photo(n)).hexdigest() for n in range(8)}
    assert {url: row["sha256"] for url, row in rows.items()} == digests | {
        "http://a.test/9.png": digests["http://a.test/1.png"]
    }
    dropped = {row["url"]: row["drop_reason"] for row in read_parts(store, found, "dropped-").to_pylist()}
    assert dropped["http://a.test/11.png"] == "not_in_archive"
    evidence = {row["url"]: row for row in read_parts(store, found, "evidence-").to_pylist()}
    one = evidence["http://a.test/9.png"]
    assert (one["archive"], one["fetched_at"], one["http_status"]) == ("b.warc.gz", DATE, 200)
    assert one["final_url"] == "http://a.test/1.png"
    assert evidence["http://a.test/8.png"]["opt_out"][0]["signal"] == "noai"
    assert not [name for name in store.names(f"download/{found.key}") if "_work" in name]


def test_index_on_a_full_disk_is_an_error_with_the_remedy(tmp_path):
    with closing(sqlite3.connect(tmp_path / "a.sqlite")) as database:
        database.execute("PRAGMA max_page_count = 1")
        with pytest.raises(StorageError, match="disk is full; free some space in"), archive_index.full_disk_errors():
            database.execute("CREATE TABLE a (b)")


def test_resumed_run_gives_the_same_digest_and_reads_no_archive_again(crawl, tmp_path, one_thread, monkeypatch):
    paths = [str(crawl / "*.warc.gz")]
    first = run(FolderStore(tmp_path / "store"), paths, tmp_path, one_thread)[1]

    store = FolderStore(tmp_path / "other")
    original, failures = download.download_shard, []

    def fail_once(draft, task):
        if task.cut.number == 1 and not failures:
            failures.append(task.id)
            raise ConfigError("stop here")
        return original(draft, task)

    monkeypatch.setattr(download, "download_shard", fail_once)
    with pytest.raises(ConfigError, match="stop here"):
        run(store, paths, tmp_path, one_thread)
    monkeypatch.setattr(archive_index, "index_archive", None)  # the archives are not read again
    second = run(store, paths, tmp_path, one_thread)[1]
    assert failures
    assert first.counts == second.counts
    assert first.content_digest == second.content_digest
