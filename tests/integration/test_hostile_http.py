"""Fetches from a server that sends raw bytes: what is legal is kept, whatever is not costs its own row, and few bytes."""

import io

import pytest
from PIL import Image

from dataops.plugins import find
from dataops.snapshot import read_table
from dataops.store import FolderStore
from tasks.engine.stage import make, plan
from tasks.extract.stage import EXTRACT
from tasks.files.http_file import HttpFile
from tasks.files.resumable import ConnectionBroken
from tasks.web.host_state import MAX_BYTES as MAX_ROBOTS_BYTES
from tests.downloads import fetched
from tests.inline_executor import inline_context
from tests.servers.raw_http import Endless, served

pytestmark = pytest.mark.timeout(240)

MAX_BYTES = 100_000
AROUND = 65_536
"""Bytes that may be read beside the body."""


def picture():
    out = io.BytesIO()
    Image.effect_noise((80, 60), 90).convert("RGB").save(out, "PNG")
    return out.getvalue()


PNG = picture()
OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(PNG)
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNK = b"%x\r\n%s\r\n" % (len(PNG), PNG)
END = b"0\r\n\r\n"
EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def chunks(data, size, extension=b""):
    pieces = [data[i : i + size] for i in range(0, len(data), size)]
    return b"".join(b"%X%s\r\n%s\r\n" % (len(piece), extension, piece) for piece in pieces)


def redirect(target):
    return b"HTTP/1.1 302 Found\r\nX-Padding: %s\r\nLocation: %s\r\n\r\n" % (b"x" * 60_000, target)


GOOD = {
    "chunked-twice": OK + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n" + CHUNK + END,
    "early-hints": EARLY + OK + LENGTH + b"\r\n" + PNG,
    "continue": CONTINUE + CONTINUE + EARLY + OK + LENGTH + b"\r\n" + PNG,
    "other-encoding": OK + b"Content-Encoding: aws-chunked, none\r\n" + LENGTH + b"\r\n" + PNG,
    "extensions": CHUNKED + chunks(PNG, 1000, b';name="value"') + b"0;last\r\n\r\n",
    "trailers": CHUNKED + CHUNK + b"0\r\nServer-Timing: a\r\nX-Checksum: 1\r\n\r\n",
    "no-trailer-end": CHUNKED + CHUNK + b"0\r\n",
    "one-byte-chunks": CHUNKED + chunks(PNG[:10_000], 1) + chunks(PNG[10_000:], 9_999) + END,
    "leading-zeros": CHUNKED + b"00000000%X  \r\n%s\r\n" % (len(PNG), PNG) + b"0000\r\n\r\n",
    "no-reason": b"HTTP/1.1 200\r\n" + LENGTH + b"\r\n" + PNG,
    "empty-reason": b"HTTP/1.1 200 \r\n" + LENGTH + b"\r\n" + PNG,
    "case": OK + b"cONTENT-lENGTH:%d\r\n\r\n" % len(PNG) + PNG,
    "line-feeds": (OK + LENGTH).replace(b"\r\n", b"\n") + b"\n" + PNG,
    "folded": OK + b"X-Long: a\r\n\tb\r\n  c\r\n" + LENGTH + b"\r\n" + PNG,
    "same-length-twice": OK + LENGTH + LENGTH + b"\r\n" + PNG,
    "same-length-list": OK + b"Content-Length: %d, %d\r\n\r\n" % (len(PNG), len(PNG)) + PNG,
    "until-the-end": b"HTTP/1.0 200 OK\r\n\r\n" + PNG,
    "chunked-case": OK + b"Transfer-Encoding: Chunked\r\n\r\n" + CHUNK + END,
    "chunked-and-length": OK + b"Content-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNK + END,
    "identity": OK + b"Transfer-Encoding: identity\r\n" + LENGTH + b"\r\n" + PNG,
    "no-colon": OK + b"X-Frame-Options SAMEORIGIN\r\n" + LENGTH + b"\r\n" + PNG,
    "many-headers": OK + b"".join(b"X-%d: y\r\n" % n for n in range(200)) + LENGTH + b"\r\n" + PNG,
    "after-the-body": OK + LENGTH + b"\r\n" + PNG + b"HTTP/1.1 500 no\r\n\r\n",
}
HOSTILE = {
    "chunk-minus-1": (Endless(CHUNKED + b"-1\r\n", b"x"), "bad_response"),
    "chunk-minus": (CHUNKED + b"-%x\r\n%s\r\n" % (len(PNG), PNG) + END, "bad_response"),
    "chunk-plus": (CHUNKED + b"+" + CHUNK + END, "bad_response"),
    "chunk-0x": (CHUNKED + b"0x" + CHUNK + END, "bad_response"),
    "chunk-space": (CHUNKED + b" " + CHUNK + END, "bad_response"),
    "chunk-underscore": (CHUNKED + b"1_0\r\n" + b"x" * 16 + b"\r\n" + END, "bad_response"),
    "chunk-word": (CHUNKED + b"zz\r\n" + PNG, "bad_response"),
    "chunk-empty": (Endless(CHUNKED, b"\r\n"), "bad_response"),
    "chunk-huge": (Endless(CHUNKED + b"f" * 16 + b"\r\n", b"x"), "too_large"),
    "chunk-too-long-size": (Endless(CHUNKED, b"0"), "bad_response"),
    "chunk-longer": (CHUNKED + b"5\r\n" + PNG, "bad_response"),
    "chunks-without-end": (Endless(CHUNKED, b"400\r\n" + b"x" * 1024 + b"\r\n"), "too_large"),
    "one-byte-chunks-without-end": (Endless(CHUNKED, b"1\r\nx\r\n"), "too_large"),
    "extensions": (Endless(CHUNKED, b"1;" + b"x" * 4096 + b"\r\nx\r\n"), "bad_response"),
    "long-extension": (Endless(CHUNKED + b"1;", b"x"), "bad_response"),
    "small-extensions": (Endless(CHUNKED, b"1;" + b"x" * 30 + b"\r\nx\r\n"), "bad_response"),
    "trailers": (Endless(CHUNKED + CHUNK + b"0\r\n", b"X-Trailer: 1\r\n"), "bad_response"),
    "long-trailer": (Endless(CHUNKED + CHUNK + b"0\r\n", b"x"), "bad_response"),
    "early-hints": (Endless(b"", EARLY), "bad_response"),
    "continues": (Endless(b"", CONTINUE), "bad_response"),
    "continue-headers": (Endless(b"", b"HTTP/1.1 100 Continue\r\nX: " + b"x" * 9_000 + b"\r\n\r\n"), "bad_response"),
    "switching": (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n" + PNG, "bad_response"),
    "status-line": (Endless(b"HTTP/1.1 200 ", b"O"), "bad_response"),
    "headers": (Endless(OK, b"X-Header: " + b"x" * 3_000 + b"\r\n"), "bad_response"),
    "small-headers": (Endless(OK, b"a:\r\n"), "bad_response"),
    "long-header": (Endless(OK + b"X-Header: ", b"x"), "bad_response"),
    "folds": (Endless(OK + b"X-Header: a\r\n", b" b\r\n"), "bad_response"),
    "length-minus": (OK + b"Content-Length: -5\r\n\r\n" + PNG, "bad_response"),
    "length-plus": (OK + b"Content-Length: +%d\r\n\r\n" % len(PNG) + PNG, "bad_response"),
    "length-underscore": (OK + b"Content-Length: 1_0\r\n\r\n" + PNG, "bad_response"),
    "length-empty": (OK + b"Content-Length:\r\n\r\n" + PNG, "bad_response"),
    "length-digits": (OK + b"Content-Length: " + b"9" * 5_000 + b"\r\n\r\n" + PNG, "bad_response"),
    "length-large": (OK + b"Content-Length: " + b"9" * 18 + b"\r\n\r\n" + PNG, "too_large"),
    "lengths": (OK + LENGTH + b"Content-Length: 5\r\n\r\n" + PNG, "bad_response"),
    "length-list": (OK + b"Content-Length: %d, 5\r\n\r\n" % len(PNG) + PNG, "bad_response"),
    "lengths-and-chunked": (
        OK + b"Content-Length: 5\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNK + END,
        "bad_response",
    ),
    "short": (OK + b"Content-Length: %d\r\n\r\n" % (len(PNG) + 1) + PNG, "incomplete"),
    "short-chunk": (CHUNKED + CHUNK[:-1000], "incomplete"),
    "no-last-chunk": (CHUNKED + CHUNK, "incomplete"),
    "short-headers": (OK + b"Content-Type: image/png\r\n", "incomplete"),
    "http-0.9": (PNG, "bad_response"),
    "http-2": (b"HTTP/2 200 OK\r\n" + LENGTH + b"\r\n" + PNG, "bad_response"),
    "icy": (b"ICY 200 OK\r\n\r\n" + PNG, "bad_response"),
    "status-plus": (b"HTTP/1.1 +20 OK\r\n\r\n" + PNG, "bad_response"),
    "nothing": (b"", "connect"),
    "transfer-gzip": (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNK + END, "bad_response"),
    "second-encoding": (
        OK + b"Content-Encoding: identity\r\nContent-Encoding: gzip\r\n" + LENGTH + b"\r\n" + PNG, "bad_response",
    ),
    "opt-out-after-no-colon": (OK + b"Nonsense\r\nX-Robots-Tag: noai\r\n" + LENGTH + b"\r\n" + PNG, "opt_out"),
    "slow-trailers": (Endless(CHUNKED + CHUNK + b"0\r\n", b"X: y\r\n", 0.3), "timeout"),
    "slow-hints": (Endless(EARLY, b"HTTP/1.1 103", 0.3), "timeout"),
    "slow-chunks": (Endless(CHUNKED, b"1\r\nx\r\n", 0.3), "timeout"),
    "redirects": (redirect(b"http://redirects.bad.test/again"), "too_large"),
    "redirect-to-a-dot": (redirect(b"https://.a.test/"), "bad_url"),
    "redirect-to-a-bad-port": (redirect(b"http://a.test:x/"), "bad_url"),
}  # fmt: skip


def download(folder, web, urls):
    """Return the drop reason of each URL, None for one that is kept; all but the slow have time on a busy machine too."""
    slow, found = [url for url in urls if "/slow-" in url], {}
    for name, some, more in (("slow", slow, {"timeout": 1.5}), ("others", [*{*urls} - {*slow}], {"threads": 12})):
        options = {"retries": 0, "max_bytes": MAX_BYTES, "contact": "https://example.org/bot", **more}
        if some:
            found |= fetched(folder / name, some, connect_to=web.connect_to(), **options)[0]
    return found


def test_each_raw_answer_is_a_row_and_reads_within_its_budget(tmp_path, monkeypatch):
    answers = {f"{name}.good.test": answer for name, answer in GOOD.items()}
    answers |= {f"{name}.bad.test": answer for name, (answer, _) in HOSTILE.items()}
    with served(answers, monkeypatch) as web:
        found = download(tmp_path, web, [f"http://{host}/" for host in answers])
        read = web.read_bytes()
    expected = {f"http://{name}.good.test/": None for name in GOOD}
    assert found == expected | {f"http://{name}.bad.test/": reason for name, (_, reason) in HOSTILE.items()}
    by_row = {host: read[f"{host}/"] + read[f"{host}/again"] for host in answers}
    assert {host: size for host, size in by_row.items() if size > MAX_BYTES + AROUND} == {}
    assert {host: size for host, size in by_row.items() if not size} == {"nothing.bad.test": 0}


def test_each_raw_robots_txt_is_read_once_and_within_its_budget(tmp_path, monkeypatch):
    """Of a file that is too long, the first 500 KiB count."""
    names = ("chunk-minus-1", "chunk-huge", "chunks-without-end", "extensions", "trailers", "early-hints", "headers")
    hostile = {name: HOSTILE[name][0] for name in names}
    answers = {f"{name}.test/robots.txt": answer for name, answer in hostile.items()}
    answers |= {f"{name}.test": GOOD["case"] for name in hostile}
    with served(answers, monkeypatch) as web:
        urls = [f"http://{name}.test/{number}" for name in hostile for number in range(3)]
        found = download(tmp_path, web, urls)
        read = web.read_bytes()
    cut = {"chunk-huge", "chunks-without-end"}
    reasons = {name: {found[f"http://{name}.test/{number}"] for number in range(3)} for name in hostile}
    assert reasons == {name: {None if name in cut else "robots"} for name in hostile}
    files = [f"{name}.test/robots.txt" for name in hostile]
    assert {web.requests[file] for file in files} == {1}
    assert {file: read[file] for file in files if read[file] > MAX_ROBOTS_BYTES + AROUND} == {}


LARGE = {"chunk-huge", "chunks-without-end", "one-byte-chunks-without-end", "small-extensions"}
"""Answers that are legal where a file may be of any size, or that are read in part first."""


def test_http_file_reads_the_same_answers(monkeypatch):
    """A file of a config's server may be large, but what surrounds it is bounded; a broken answer is requested again."""
    hostile = {
        name: answer for name, (answer, _) in HOSTILE.items() if not name.startswith(("slow", "redirect", "second"))
    }
    answers = {f"/good/{name}": answer for name, answer in GOOD.items()}
    answers |= {f"/bad/{name}": answer for name, answer in hostile.items()}
    with served(answers, monkeypatch) as web:

        def read(name):
            connection = HttpFile(f"http://127.0.0.1:{web.port}/{name}", "agent", 30.0).connect(0)
            try:
                return b"".join(iter(lambda: connection.read(1 << 20), b""))
            finally:
                connection.close()

        for name in GOOD:
            assert read(f"good/{name}") == PNG, name
        for name in hostile.keys() - LARGE - {"opt-out-after-no-colon"}:
            with pytest.raises(ConnectionBroken):
                read(f"bad/{name}")
        size = web.read_bytes()
    assert max(size.values()) < 5 * AROUND


def test_http_file_ends_a_read_at_its_timeout(monkeypatch):
    answers = {
        "/trailers": Endless(CHUNKED + b"0\r\n", b"X: y\r\n", 0.05),
        "/hints": Endless(EARLY, b"HTTP/1.1 103 ", 0.05),
    }
    with served(answers, monkeypatch) as web:
        url = f"http://127.0.0.1:{web.port}"
        connection = HttpFile(f"{url}/trailers", "agent", 3.0).connect(0)
        with pytest.raises(ConnectionBroken):
            connection.read(10)
        connection.close()
        with pytest.raises(ConnectionBroken):
            HttpFile(f"{url}/hints", "agent", 1.0).connect(0)


PAGE = b"<!DOCTYPE html><title>Cats</title><img src=/cat.png alt='a sleeping cat on a chair'>"
HTML = OK + b"Content-Type: text/html\r\n"
PAGES = {
    "page": (HTML + b"Content-Length: %d\r\n\r\n" % len(PAGE) + PAGE, "archived"),
    "page-hints": (EARLY + HTML + b"Content-Length: %d\r\n\r\n" % len(PAGE) + PAGE, "archived"),
    "page-headers": (Endless(HTML, b"X-Header: " + b"x" * 3_000 + b"\r\n"), "too_large"),
    "page-hints-without-end": (Endless(b"", EARLY), "too_large"),
    "page-extensions": (
        Endless(HTML + b"Transfer-Encoding: chunked\r\n\r\n", b"1;" + b"x" * 900 + b"\r\nx\r\n"),
        "too_large",
    ),
    "page-trailers": (Endless(HTML + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", b"X: y\r\n"), "incomplete"),
    "page-chunk": (Endless(HTML + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n", b"x"), "incomplete"),
    "page-body": (Endless(HTML + b"\r\n", b"x"), "too_large"),
    "page-robots": (PAGE, "robots_unreachable"),
}


def test_crawl_reads_a_bounded_number_of_bytes(tmp_path, monkeypatch):
    pytest.importorskip("plugins.crawl")
    answers = {f"{name}.test": answer for name, (answer, _) in PAGES.items()}
    answers["page-robots.test/robots.txt"] = Endless(OK, b"X-Header: " + b"x" * 3_000 + b"\r\n")
    with served(answers, monkeypatch) as web:
        site = find("sources", "site")(
            start=tuple(f"http://{name}.test/" for name in PAGES),
            delay=0.01,
            timeout=60,
            retries=0,
            max_page_bytes=MAX_BYTES,
            connect_to=web.connect_to(),
        )
        context = inline_context(FolderStore(tmp_path / "store"), tmp_path / "home")
        made = make(plan(EXTRACT, site, 0, []), context)
        sent = dict(web.sent)
    rows = read_table(context.store, made.path("evidence-crawl.parquet")).to_pylist()
    outcomes = {row["url"]: row["outcome"] for row in rows}
    assert outcomes == {f"http://{name}.test/": outcome for name, (_, outcome) in PAGES.items()}
    assert {name: size for name, size in sent.items() if size > 30_000_000} == {}  # most of it in the system's buffers
