"""A takedown leaves nothing of an image in the archive of a crawl, in whatever spelling its pages have the URL."""

import gzip
import html
import io
import os
import shutil
from functools import partial
from urllib.parse import unquote

import pyarrow.parquet as pq
import pytest

from dataops.archives.warc import read_pages
from dataops.plugins import find
from dataops.snapshot import find_manifest, read_parts
from dataops.store import FolderStore
from tasks.engine.context import Context, LeaseTimes
from tasks.engine.stage import make, plan
from tasks.extract.stage import EXTRACT
from tasks.lineage.graph import Lineage
from tasks.takedown.holders import Traces
from tests.inline_executor import InlineExecutor, inline_context
from tests.servers.loopback import Handler, serving

takedown = pytest.importorskip("plugins.erasure.command")
homes = pytest.importorskip("plugins.erasure.tests.homes")
pytest.importorskip("plugins.crawl")
warcio = pytest.importorskip("warcio.archiveiterator")
pytestmark = pytest.mark.timeout(300)

SITE = "http://photos.test"
URL, CAPTION = f"{SITE}/img/a%20photo.jpg?w=1&h=2", "The mayor of the town in his garden"
OTHER = "A harbour with many boats at noon"
REMOVED = {
    "/": f'<img src="/img/a%20photo.jpg?w=1&amp;h=2" alt="{CAPTION}">',
    "/again": '<img src="/img/a photo.jpg?w=1&h=2" alt="Mayor">',
    "/relative/page": '<a href="../img/a photo.jpg?w=1&h=2">x</a>',
    "/escaped": f"<a href='{SITE}/img/a%20photo.jpg?w=1&#38;h=2'>x</a>",
    "/set": f'<img srcset="/img/a%20photo.jpg?w=1&amp;h=2 9w, /img/b.jpg 99w" alt="{OTHER}">',
    "/unquoted": "<a href=img/a%20photo.jpg?w=1&h=2>x</a>",
    "/encoded": '<a href="/%69mg/%61%20photo%2Ejpg?w=1&h=%32">x</a>',
    "/within": '<a href="/resize?u=http%3A%2F%2Fphotos.test%2Fimg%2Fa%2520photo.jpg%3Fw%3D1%26h%3D2">x</a>',
    "/script": r'<script>x = {"u": "\/img\/a%20photo.jpg?w=1\u0026h=2"}</script>',
    "/style": "<style>p {background: url(img/a%20photo.jpg?w=1&h=2)}</style>",
    "/port": '<a href="HTTP://Photos.TEST:80/./img/a%20photo.jpg?w=1&h=2#top">x</a>',
    "/based": '<base href="/img/"><a href="a%20photo.jpg?w=1&h=2">x</a>',
    "/zipped": '<a href="/img/a%20photo.jpg?w=1&h=2">x</a>',
    "/fields": "<p>a page",
    "/text": "<p>The <b>mayor</b> of the\n town in his&nbsp;garden</p>",
}
KEPT = {
    "/harbour": f'<img src="/img/b.jpg" alt="{OTHER}"><a href="/img/a%20photo.jpg.webp">x</a> a photo, w=1&h=2',
    "/sub/other": f'<img src="a%20photo.jpg?w=1&h=2" alt="{OTHER}, too">',
}


class Site(Handler):
    def do_GET(self):
        headers, page = {"Content_Type": "text/html"}, (REMOVED | KEPT).get(self.path)
        if self.path == "/robots.txt":
            return self.answer(200, b"User-agent: *\nDisallow: /img/a%20photo.jpg?w=1&h=2\n", Content_Type="text/plain")
        if page is None:
            return self.answer(404)
        if self.path == "/":
            page += "".join(f"<a href={path}>x</a>" for path in (*REMOVED, *KEPT))
        if self.path == "/zipped":
            return self.answer(200, gzip.compress(page.encode()), Content_Encoding="gzip", **headers)
        if self.path == "/fields":
            headers["Link"] = "</img/a%20photo.jpg?w=1&h=2>; rel=preload"
        return self.answer(200, page.encode(), **headers)


@pytest.fixture(scope="module")
def crawled(tmp_path_factory):
    """A home with the store of a crawl."""
    home = tmp_path_factory.mktemp("home")
    with serving(Site) as server:
        connect_to = {"photos.test": f"127.0.0.1:{server.server_port}"}
        site = find("sources", "site")(start=(f"{SITE}/",), connect_to=connect_to, delay=0.0, pages_per_part=8)
        make(plan(EXTRACT, site, 0, []), inline_context(FolderStore(home / "store"), home))
    return home


@pytest.fixture
def copy_home(crawled, tmp_path, monkeypatch):
    monkeypatch.setattr(takedown, "Context", partial(Context, pool=InlineExecutor(), lease_times=LeaseTimes(orphan=0)))
    monkeypatch.setattr(os, "fsync", lambda handle: None)

    def copy(name):
        shutil.copytree(crawled, home := tmp_path / name)
        (home / "request.txt").write_text(f"{URL}\n")
        return home

    return copy


def read_archives(store):
    """Return the records of all archives, by type and URL, with their fields and content, the codings undone."""
    records = {}
    for name in store.names(""):
        if name.endswith(".warc.gz"):
            for record in warcio.ArchiveIterator(io.BytesIO(store.read(name)), check_digests="raise"):
                url = record.rec_headers["WARC-Target-URI"]
                fields = str(record.http_headers).encode() if record.http_headers else b""
                records[record.rec_type, url] = record.rec_headers, fields, record.content_stream().read()
    return records


def find_traces(store):
    """Return the objects, but the requests, that hold the URL or a caption in any form."""
    texts = {name: store.read(name) for name in store.names("") if not name.startswith("takedowns/")}
    for name, data in texts.items():
        if name.endswith(".parquet"):
            texts[name] = repr(pq.read_table(io.BytesIO(data)).to_pylist()).encode()
        elif name.endswith(".gz"):
            texts[name] = gzip.decompress(data)
    texts |= {f"{kind} {url}": fields + body for (kind, url), (_, fields, body) in read_archives(store).items()}
    plain = {name: html.unescape(unquote(unquote(data.decode("utf-8", "replace")))) for name, data in texts.items()}
    sought = ("img/a photo.jpg?", "img/a photo.jpg\n", r"img\/a photo", "mayor", "Mayor")
    return {name for name, text in plain.items() if any(one in text for one in sought)}


def list_rows(store):
    [manifest] = Lineage(store).manifests.values()
    assert find_manifest(store, "extract", manifest.key, verify=True) == manifest
    rows = read_parts(store, manifest).to_pylist()
    pages = {
        (part.name.replace("-r1", ""), number): (found.url, found.body)
        for part in manifest.named("evidence-pages")
        for number, found in enumerate(read_pages(store.local(manifest.path(part.name)), 10**6, str))
    }
    return {(row["url"], row["caption"]): pages[row["source"], row["source_offset"]] for row in rows}, len(pages)


def test_takedown_leaves_no_url_and_no_caption_in_the_archive_of_a_crawl(copy_home, monkeypatch, read_json):
    home = copy_home("whole")
    store = FolderStore(home / "store")
    before, rows, traces = read_archives(store), list_rows(store), find_traces(store)
    assert {url for kind, url in before if kind == "response"} == {
        SITE + path for path in (*REMOVED, *KEPT, "/robots.txt")
    }
    assert len({name for name in traces if name.endswith(".warc.gz")}) == 3, "in the fourth, the page is compressed"
    job = home / "jobs" / "crawl-unfinished" / "crawl.warc.gz"
    job.parent.mkdir(parents=True)
    shutil.copy(next((home / "store").rglob("*pages-00000.warc.gz")), job)
    assert homes.take_down(home, store, monkeypatch) == 3
    (report,) = read_json()["stores"]
    [found] = report["search"]["found"]
    assert (found["name"], "delete the folder" in found["remedy"]) == ("jobs/crawl-unfinished/crawl.warc.gz", True)
    shutil.rmtree(job.parent)
    assert homes.take_down(home, store, monkeypatch) == 0
    assert find_traces(store) == set()
    after = read_archives(store)
    assert list(after) == list(before)
    for (kind, url), (fields, _, body) in after.items():
        was, path = before[kind, url], url and url.removeprefix(SITE)
        if kind == "response" and path not in KEPT:
            assert (fields["Pairmill-Erased"], fields["WARC-Truncated"], body) == ("takedown", "unspecified", b"")
            assert fields["WARC-Record-ID"] == was[0]["WARC-Record-ID"]
        else:
            assert (fields.headers, body) == (was[0].headers, was[2])
    left, pages = list_rows(store)
    assert pages == rows[1]
    kept = {pair: page for pair, page in rows[0].items() if pair[0] != URL}
    assert {pair: page[0] for pair, page in left.items() if pair[0]} == {pair: page[0] for pair, page in kept.items()}
    [manifest] = Lineage(store).manifests.values()
    assert manifest.facts["erased_records"] == len(REMOVED) + 1


def read_parts_of(store):
    """Return the objects of the snapshot, but its manifest."""
    return {name: store.read(name) for name in store.names("extract") if name.endswith((".parquet", ".gz"))}


def test_takedown_of_a_crawl_killed_at_any_change_is_completed_by_the_next_call(copy_home, monkeypatch, capsys):
    whole = homes.FailingStore(copy_home("whole") / "store", 10**9)
    assert homes.take_down(whole.root.parent, whole, monkeypatch) == 0
    expected = read_parts_of(whole)
    changes = [at for at, change in enumerate(whole.changes, 1) if " extract/" in change and "/_work/" not in change]
    assert len(changes) > 10
    for kill_at in changes:
        home = copy_home(f"killed-{kill_at}")
        with pytest.raises(homes.KilledError):
            homes.take_down(home, homes.FailingStore(home / "store", kill_at), monkeypatch)
        store = homes.FailingStore(home / "store", 10**9)
        assert homes.take_down(home, store, monkeypatch) == 0, kill_at
        assert find_traces(store) == set(), kill_at
        assert read_parts_of(store) == expected, kill_at
    capsys.readouterr()


def test_pages_whose_rows_an_earlier_version_erased_are_erased_by_the_uids(copy_home, monkeypatch, capsys):
    erase_rows = pytest.importorskip("plugins.erasure.erase_rows").erase_rows
    home = copy_home("earlier")
    store = FolderStore(home / "store")
    [manifest] = Lineage(store).manifests.values()
    rows = [row for row in read_parts(store, manifest).to_pylist() if row["url"] == URL]
    uids = {row["uid"] for row in rows}
    erase_rows(Lineage(store), Context(store, home), Traces(uids=uids, urls={URL}))
    (home / "request.txt").write_text("\n".join(sorted(uids)))
    assert homes.take_down(home, store, monkeypatch) == 0
    erased = {url for (_, url), (fields, *_) in read_archives(store).items() if fields["Pairmill-Erased"]}
    assert erased == {row["page_url"] for row in rows} == {f"{SITE}/", f"{SITE}/again"}
    capsys.readouterr()
