"""`kind = "common_crawl"` against a server with Common Crawl's layout and its failures."""

import gzip
import os
import signal
import subprocess
import sys
from functools import partial

import pytest

from dataops.errors import SourceError
from dataops.home import CHECKOUT
from dataops.snapshot import read_parts
from dataops.store import FolderStore
from plugins.common_crawl.source import CommonCrawlFile, CommonCrawlSource
from tasks.engine.context import Context
from tasks.engine.stage import make, plan
from tasks.extract.stage import EXTRACT
from tasks.files.resumable import RetryLimit
from tests.concurrency import wait_for
from tests.inline_executor import inline_context
from tests.servers.common_crawl import CrawlServer
from tests.wat_files import small_wat

CRAWL = "CC-MAIN-2026-43"


@pytest.fixture
def crawl(monkeypatch):
    monkeypatch.setattr("plugins.common_crawl.source.RetryLimit", partial(RetryLimit, back_off=0.01))
    with CrawlServer() as crawl:
        crawl.publish(CRAWL, {name: small_wat(name) for name in "abcdef"})
        yield crawl


def config(server, **changes):
    settings = {"crawl": CRAWL, "num_files": 2, "base_url": server.url, "contact": "https://mill.example/"}
    return CommonCrawlSource(**(settings | {"max_wait": 20} | changes))


def extract(source, store):
    return make(
        plan(EXTRACT, source, 0, []),
        inline_context(FolderStore(store), store.parent / "home"),
    )


def rows_by_file(manifest, store):
    """Return the number of rows of each source file."""
    names = read_parts(FolderStore(store), manifest)["source"].to_pylist()
    return {name: names.count(name) for name in sorted(set(names))}


def test_extract_reads_only_new_files_of_more_files_and_crawls(crawl, tmp_path):
    store = tmp_path / "store"
    two = extract(config(crawl), store)
    assert set(rows_by_file(two, store).values()) == {1200}
    first = crawl.read()
    assert (len(first), len(set(first))) == (2, 2)
    four = extract(config(crawl, num_files=4), store)
    assert crawl.read()[:2] == first  # each read once, and first in the longer selection too
    assert len(crawl.read()) == len(set(crawl.read())) == 4
    assert [p.sha256 for p in four.named("part-")[:2]] == [p.sha256 for p in two.named("part-")]
    crawl.publish("CC-MAIN-2026-47", {name: small_wat(name) for name in ("x", "y")})
    more = extract(config(crawl, crawl=[CRAWL, "CC-MAIN-2026-47"], num_files=4), store)
    assert sorted(crawl.read()[4:]) == ["x", "y"]
    assert len(rows_by_file(more, store)) == 6  # the new crawl has only two files
    other = extract(config(crawl, sample_seed=1), store)
    assert rows_by_file(other, store) != rows_by_file(two, store)
    assert crawl.agents == {"pairmill/0.2 (+https://mill.example/)"}


def test_extract_returns_the_same_rows_after_server_failures(crawl, tmp_path):
    undisturbed = extract(config(crawl, num_files=6), tmp_path / "undisturbed")
    log = len(crawl.log)
    crawl.fail_next("wat.paths.gz", "503", "break")
    crawl.fail_next("/a.warc.wat.gz", "break", "break", "break")
    crawl.fail_next("/b.warc.wat.gz", "429 0", "503 0", "403", "break", "500")
    crawl.fail_next("/c.warc.wat.gz", "break", "no-ranges")
    crawl.fail_next("/d.warc.wat.gz", f"redirect {crawl.url}{next(p for p in crawl.files if '/d.' in p)}")
    bad = extract(config(crawl, num_files=6), tmp_path / "bad")
    assert (bad.content_digest, bad.facts) == (undisturbed.content_digest, undisturbed.facts)
    ranges = [header for path, header, _ in crawl.log[log:] if "/a." in path]
    size = len(next(data for path, data in crawl.files.items() if "/a." in path))
    half = size // 2
    assert ranges[:2] == [None, f"bytes={half}-"]  # resumed where the connection broke
    assert len(ranges) == 4


def test_extract_raises_when_a_file_changes_while_it_is_read(crawl, tmp_path):
    for name in "abcdef":
        crawl.fail_next(f"/{name}.warc.wat.gz", *("break", "change") * 3)
    with pytest.raises(SourceError, match=r"changed while it was read"):
        extract(config(crawl), tmp_path / "store")


def test_extract_lists_failed_files_and_limits_their_number(crawl, tmp_path, caplog):
    crawl.fail_next("/b.warc.wat.gz", "404")  # one attempt: another one would get the same answer
    with pytest.raises(SourceError, match=r"b\.warc\.wat\.gz: HTTP 404") as caught:
        extract(config(crawl, num_files=6), tmp_path / "store")
    assert (caught.value.exit_code, caught.value.retryable) == (2, False)
    # The files that were read before the failure are not read again; the failed one is, and now it works.
    before = crawl.read()
    whole = extract(config(crawl, num_files=6), tmp_path / "store")
    assert whole.facts["failed_files"] == []
    assert not set(before) - {"b"} & set(crawl.read()[len(before) :])

    crawl.files[next(path for path in crawl.files if "/c." in path)] = b"<html>an error page with status 200</html>"
    some = extract(config(crawl, num_files=6, max_failed_files=1), tmp_path / "other")
    [[name, error]] = some.facts["failed_files"]
    assert name.endswith("/c.warc.wat.gz")
    assert "no WARC record" in error
    assert len(rows_by_file(some, tmp_path / "other")) == 5
    assert "c.warc.wat.gz was left out" in caplog.text
    crawl.files[next(path for path in crawl.files if "/d." in path)] = gzip.compress(b"")  # an archive without records
    assert extract(config(crawl, num_files=6, max_failed_files=1), tmp_path / "fourth").facts["failed_files"] == [
        [name, error]
    ]
    crawl.files[next(path for path in crawl.files if "/d." in path)] = b"\n<p>another error page with status 200"
    with pytest.raises(SourceError, match=r"2 files failed; source.max_failed_files allows 1"):
        extract(config(crawl, num_files=6, max_failed_files=1), tmp_path / "third")


def test_open_gives_up_after_max_wait(crawl):
    def read(**changes):
        path = next(path for path in crawl.files if "/a." in path)
        with CommonCrawlFile(path, config(crawl, **changes)).open() as stream:
            return b"".join(iter(lambda: stream.read(1 << 16), b""))

    crawl.fail_next("/a.warc.wat.gz", "429 3600")
    with pytest.raises(SourceError, match=r"HTTP 429 .*gave up after 1 try: the server asks to wait 3600 s"):
        read()
    crawl.fail_next("/a.warc.wat.gz", *["503"] * 50)
    with pytest.raises(SourceError, match=r"HTTP 503 .*gave up after \d+ tries"):
        read(max_wait=0.3)
    crawl.plan.clear()
    assert read() == small_wat("a")


@pytest.mark.parametrize("target", ["http://localhost:PORT/x", "http://169.254.169.254/latest/", "file:///etc/passwd"])
def test_open_follows_redirects_to_public_hosts_only(crawl, target):
    crawl.fail_next("/a.warc.wat.gz", f"redirect {target.replace('PORT', crawl.url.split(':')[2].strip('/'))}")
    path = next(path for path in crawl.files if "/a." in path)
    with (
        pytest.raises(SourceError, match=r"private_address|bad_url"),
        CommonCrawlFile(path, config(crawl)).open() as stream,
    ):
        stream.read(10)


@pytest.mark.parametrize(
    "listing", [b"crawl-data/../../etc/passwd.wat.gz\n", b"http://evil.example/a.wat.gz\n", b"", b"\xff\n"]
)
def test_extract_refuses_a_listing_of_anything_but_wat_files(crawl, tmp_path, listing):
    path = f"crawl-data/{CRAWL}/wat.paths.gz"
    crawl.files[path] = gzip.compress(listing)
    with pytest.raises(SourceError, match=r"is no path of a WAT file|the list is empty"):
        extract(config(crawl), tmp_path / "store")
    cut = gzip.compress(f"crawl-data/{CRAWL}/a.wat.gz\n".encode())[:-9]  # at the end of a line
    for damaged in (b"not gzip", cut):
        crawl.files[path] = damaged
        with pytest.raises(SourceError, match="not a whole gzip file"):
            extract(config(crawl), tmp_path / "store")


def test_a_listing_may_have_several_gzip_members(crawl, tmp_path):
    path = f"crawl-data/{CRAWL}/wat.paths.gz"
    lines = gzip.decompress(crawl.files[path]).splitlines(keepends=True)
    crawl.files[path] = b"".join(map(gzip.compress, lines))
    extract(config(crawl, num_files=len(lines)), tmp_path / "store")
    assert len(crawl.read()) == len(lines)


RUN = """
import sys
from functools import partial
from pathlib import Path
from dataops.store import FolderStore
from plugins.common_crawl.source import CommonCrawlSource
from tasks.extract.stage import EXTRACT
from tasks.engine.context import Context
from tasks.engine.stage import make, plan

if __name__ == "__main__":
    config = CommonCrawlSource.model_validate_json(sys.argv[1])
    store = Path(sys.argv[2])
    make(plan(EXTRACT, config, 0, []), Context(FolderStore(store), store.parent, workers=1))
"""


def test_killed_extraction_resumes_at_its_first_missing_file(crawl, tmp_path):
    for name in "abcdef":
        crawl.fail_next(f"/{name}.warc.wat.gz", "")
    order = [file.name for file in config(crawl, num_files=6).files(Context(FolderStore(tmp_path), tmp_path))]
    crawl.fail_next(order[2], "wait")
    crawl.plan[order[2]].popleft()
    script = tmp_path / "run.py"
    script.write_text(RUN)
    store = tmp_path / "store"
    command = [sys.executable, str(script), config(crawl, num_files=6).model_dump_json(), str(store)]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    wait_for(lambda: len(crawl.read()) >= 3, 240)  # a process starts slowly on a busy machine
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    crawl.gate.set()
    before = crawl.read()
    assert len(before) == 3
    finished = extract(config(crawl, num_files=6), store)
    assert set(before[:2]).isdisjoint(crawl.read()[3:])
    assert len(crawl.read()) == 7
    whole = extract(config(crawl, num_files=6), tmp_path / "whole")
    assert finished.content_digest == whole.content_digest
