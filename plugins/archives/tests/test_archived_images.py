"""Images from archives: which capture answers, with the checks and the evidence of the network path."""

import gzip
import pickle
import tracemalloc

import pyarrow as pa
import pytest
from PIL import Image

from dataops.errors import SourceError
from dataops.snapshot import Draft
from dataops.store import FolderStore
from plugins.archives.hook import ARCHIVED_IMAGES
from tasks.download.config import DownloadConfig
from tasks.download.hooks import ShardHook
from tasks.download.opener import make_opener
from tasks.engine.stage import Work
from tasks.extract.sources.warc import WarcSource
from tasks.web.fetch_error import FetchError
from tasks.web.host_state import HostState
from tests.archived_images import DATE, http, record, redirect, write_archive
from tests.image_files import as_file
from tests.inline_executor import inline_context

RED, BLUE, GREEN = (as_file(Image.new("RGB", (8, 8), colour)) for colour in ("red", "blue", "green"))


def open_archives(folder, urls, hooks=(), **settings):
    """Return an opener over the archives in `folder`, and the facts of the index."""
    more, key = {"max_failed_files": settings.pop("max_failed_files", 0)}, str(settings.pop("key", "k"))
    source = WarcSource(paths=[str(folder / "*.warc*")], images="archive", **more)
    config = DownloadConfig.model_validate(settings).adapt([source])
    assert config.problems() == []  # no contact is needed
    store = FolderStore(folder / "store")
    context = inline_context(store, folder)
    draft = Draft(store, "download", key)
    hook = ARCHIVED_IMAGES.start(Work(config, 0, {}, draft, context), context, hooks)
    with pickle.loads(pickle.dumps(hook)).open(draft) as opened:  # as for a worker process
        opened.begin(pa.table({"url": urls, "source": ["crawl"] * len(urls)}))
        return make_opener(config, HostState(folder / "site-files"), hooks=[*hooks, opened]), dict(
            hook.list_facts()["archive"]
        )


def fetch(opener, url):
    """Return the body of a URL, or the error."""
    try:
        return opener.open(url).read()
    except FetchError as error:
        return str(error)


MISSING = "not_in_archive: no archive of the source has a usable record of it"


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz", "a.one.warc.gz", "a.warc.zst", "a.warc.lz4"])
def test_images_are_taken_from_archives_of_each_form(tmp_path, name):
    records = [
        record("http://a.test/page", http(b"<html>a page", Content_Type="text/html")),
        record("http://a.test/1.png", http(RED, ETag='"x"', Last_Modified="yesterday")),
        record("http://a.test/2.png", BLUE, "resource", Content_Type="image/png"),
        record("http://a.test/1.png", b"GET /1.png HTTP/1.1\r\n\r\n", "request"),
    ]
    write_archive(tmp_path / name, records)
    urls = [f"http://a.test/{name}" for name in ("1.png", "2.png", "3.png", "page")]
    opener, facts = open_archives(tmp_path, urls)
    assert [fetch(opener, url) for url in urls] == [RED, BLUE, MISSING, b"<html>a page"]
    assert facts["captures"] == {"body": 3}
    found = opener.evidence[urls[0]]
    assert (found.http_status, found.final_url, found.content_type) == (200, urls[0], "image/png")
    assert (found.fetched_at, found.etag, found.last_modified, found.bytes) == (DATE, '"x"', "yesterday", len(RED))
    starts = {"a.warc": len(records[0]), "a.one.warc.gz": 0}
    if name in starts:
        assert (found.archive, found.archive_offset) == (name, starts[name])
    if name == "a.warc.gz":
        data = (tmp_path / name).read_bytes()[found.archive_offset :]
        assert gzip.decompress(data[: data.index(b"\x1f\x8b", 1)]) == records[1]


def test_redirects_are_followed_over_files_and_end_in_the_archives(tmp_path):
    write_archive(
        tmp_path / "a.warc.gz",
        [
            redirect("http://a.test/~1'%C3%BC", "\\2?x=" + "ü".encode().decode("latin-1")),
            redirect("http://a.test/outside", "http://b.test/never"),
            redirect("http://a.test/loop", "http://a.test/loop"),
            record("http://a.test/nowhere", http(b"", "302 Found")),
            redirect("http://a.test/to-404", "http://a.test/404"),
        ],
    )
    write_archive(
        tmp_path / "b.warc.gz",
        [
            redirect("http://a.test/2?x=%C3%BC", "https://b.test/3.png", "307 Temporary"),
            record("https://b.test/3.png", http(GREEN)),
            record("http://a.test/404", http(b"gone", "404 Not Found", Content_Type="text/html")),
        ],
    )
    urls = [f"http://a.test/{name}" for name in ("%7E%31%27%c3%bc", "outside", "loop", "nowhere", "to-404", "404")]
    opener, _ = open_archives(tmp_path, urls)
    found = [fetch(opener, url) for url in urls]
    assert found[0] == GREEN
    assert opener.evidence[urls[0]].final_url == "https://b.test/3.png"
    assert found[1:4] == [
        MISSING,
        "redirect_loop: more than 5 redirects",
        "bad_response: a redirect without a Location",
    ]
    assert found[4:] == ["http_404: the server's answer"] * 2
    assert opener.evidence[urls[4]].http_status == 404


def test_the_newest_body_answers_and_revisits_refer_to_bodies(tmp_path):
    digest = {"WARC_Payload_Digest": "sha1:AAAA"}
    write_archive(
        tmp_path / "a.warc.gz",
        [
            record("http://a.test/x.png", http(RED), date="2026-01-01T00:00:00Z"),
            record("http://a.test/x.png", http(GREEN), date="2026-02-01T00:00:10Z"),
            record("http://a.test/x.png", http(BLUE), date="2026-02-01T00:00:10.5Z"),
            record("http://a.test/x.png", http(GREEN), date="2026-02-01T00:00:10.50Z"),
            record("http://a.test/x.png", http(b"", "404 Not Found"), date="2026-03-01T00:00:00Z"),
            redirect("http://a.test/x.png", "http://a.test/other", date="2026-04-01T00:00:00Z"),
            record("http://a.test/same.png", http(GREEN), date=DATE),
            record("http://a.test/same.png", http(RED), date=DATE),
            record("http://b.test/original.png", http(GREEN), **digest),
            record("http://a.test/by-url.png", b"", "revisit", WARC_Refers_To_Target_URI="http://b.test/original.png"),
            record("http://a.test/by-digest.png", http(b"", "304 Not Modified"), "revisit", **digest),
            record("http://a.test/lost.png", b"", "revisit", WARC_Payload_Digest="sha1:BBBB"),
            record("http://a.test/itself.png", b"", "revisit", WARC_Refers_To_Target_URI="http://a.test/itself.png"),
        ],
    )
    urls = [f"http://a.test/{name}.png" for name in ("x", "same", "by-url", "by-digest", "lost", "itself")]
    opener, _ = open_archives(tmp_path, urls)
    assert [fetch(opener, url) for url in urls] == [BLUE, GREEN, GREEN, GREEN, MISSING, MISSING]


def test_headers_of_the_archived_response_opt_out(tmp_path):
    opted = {
        "noai": {"X_Robots_Tag": "noai"},
        "tdm": {"TDM_Reservation": "1"},
        "none": {"X_Robots_Tag": "otherbot: noai"},
    }
    records = [record(f"http://a.test/{name}.png", http(RED, **headers)) for name, headers in opted.items()]
    write_archive(tmp_path / "a.warc.gz", records)
    urls = [f"http://a.test/{name}.png" for name in opted]
    opener, _ = open_archives(tmp_path, urls)
    assert [fetch(opener, url) for url in urls] == [
        "opt_out: noai noai", "opt_out: tdm-reservation 1", RED,
    ]  # fmt: skip
    assert [one.signal for one in opener.evidence[urls[0]].opt_out] == ["noai"]
    recorded, _ = open_archives(tmp_path, urls, key="other", opt_out=[])
    assert [fetch(recorded, url) for url in urls] == [RED] * 3


def test_bodies_are_decoded_within_the_limit(tmp_path):
    bomb = gzip.compress(bytes(50_000_000))
    records = {
        "gzip": http(gzip.compress(RED), Content_Encoding="gzip"),
        "decoded-already": http(RED, Content_Encoding="gzip"),
        "chunked": http(b"3\r\n" + RED[:3] + b"\r\n" + f"{len(RED) - 3:x}\r\n".encode() + RED[3:] + b"\r\n0\r\n\r\n",
                        Transfer_Encoding="chunked", Content_Length=""),
        "bomb": http(bomb, Content_Encoding="gzip"),
        "large": http(bytes(20_001)),
        "unknown": http(RED, Content_Encoding="aws-chunked"),
        "damaged": http(b"\x1f\x8b" + RED, Content_Encoding="gzip"),
        "short": http(RED[:-5], Content_Length=str(len(RED))),
        "no-http": b"no response at all",
    }  # fmt: skip
    written = [record(f"http://a.test/{name}", content) for name, content in records.items()]
    written.append(record("http://a.test/cut", http(RED), WARC_Truncated="length"))
    written.append(record("http://a.test/huge", http(bytes(200_000))))
    write_archive(tmp_path / "a.warc.gz", written)
    urls = [f"http://a.test/{name}" for name in (*records, "cut", "huge")]
    tracemalloc.start()
    opener, _ = open_archives(tmp_path, urls, max_bytes=20_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000
    assert [fetch(opener, url) for url in urls] == [
        RED, RED, RED, "too_large: over 20000 bytes", "too_large: over 20000 bytes", RED,
        "bad_response: the body cannot be decoded", "incomplete: the body ended before its Content-Length",
        "bad_response: the record holds no HTTP response", "incomplete: the body ended by the crawler (length)",
        "too_large: over 20000 bytes",
    ]  # fmt: skip


def test_damaged_archives_lose_their_damaged_records_only(tmp_path):
    path = write_archive(tmp_path / "a.warc.gz", [record(f"http://a.test/{n}.png", http(RED)) for n in range(3)])
    path.write_bytes(path.read_bytes()[:-60])
    urls = [f"http://a.test/{n}.png" for n in range(3)]
    opener, facts = open_archives(tmp_path, urls)
    assert [fetch(opener, url) for url in urls] == [RED, RED, MISSING]
    assert facts["damages"] == {"truncated": 1}
    (tmp_path / "b.warc.gz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(SourceError):
        open_archives(tmp_path, urls, key="other")
    opener, facts = open_archives(tmp_path, urls, key="allowed", max_failed_files=1)
    assert facts["failed_files"] == ["b.warc.gz"]
    assert fetch(opener, urls[0]) == RED


class Forbidden(ShardHook):
    """Drops one image."""

    def check(self, body):
        if body == RED:
            raise FetchError("forbidden", "it is red")


def test_bytes_that_another_hook_drops_are_not_copied_from_the_archive(tmp_path):
    bodies = {"1": RED, "2": BLUE}
    write_archive(
        tmp_path / "a.warc.gz", [record(f"http://a.test/{name}.png", http(body)) for name, body in bodies.items()]
    )
    urls = [f"http://a.test/{name}.png" for name in bodies]
    opener, _ = open_archives(tmp_path, urls, (Forbidden(),))
    copied = (tmp_path / "store/download/k/_work/archive-00000.bodies").read_bytes()
    assert (RED in copied, BLUE in copied) == (False, True)
    assert [fetch(opener, url) for url in urls] == ["forbidden: it is red", BLUE]
