"""`kind = "site"` against a small web on loopback that logs each request."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import pytest
from warcio.archiveiterator import ArchiveIterator

from dataops.errors import StorageError
from dataops.snapshot import Manifest, read_parts, read_table
from dataops.store import FolderStore
from plugins.crawl.source import SiteSource
from tasks.engine.context import Context
from tasks.engine.stage import make, plan, reuse
from tasks.extract.sources.warc import WarcSource
from tasks.extract.stage import EXTRACT
from tests.concurrency import wait_for
from tests.inline_executor import PicklingExecutor
from tests.python_code import run_python
from tests.servers.site import Web, served

pytestmark = pytest.mark.timeout(600)

HOSTS = ("pets.test", "slow.test", "calendar.test", "down.test", "sleepy.test", "hanging.test", "reserved.test",
         "linker.test")  # fmt: skip


def config(web, *hosts, **options):
    start = tuple(f"http://{host}/" for host in hosts)
    options = {"delay": 0.05, "timeout": 6, "retries": 1, "connect_to": {h: web.address for h in hosts}} | options
    return SiteSource(start=start, **options)


def context(folder):
    return Context(store=FolderStore(folder / "store"), home=folder / "home", workers=1, pool=PicklingExecutor())


def crawl(site, folder):
    return make(plan(EXTRACT, site, 0, []), context(folder))


@dataclass(frozen=True)
class Crawled:
    web: Web
    folder: Path
    manifest: Manifest

    def path(self, name):
        return FolderStore(self.folder / "store").local(self.manifest.path(name))

    def index(self):
        rows = read_table(FolderStore(self.folder / "store"), self.manifest.path("evidence-crawl.parquet")).to_pylist()
        return {row["url"]: row for row in rows}


@pytest.fixture(scope="module")
def crawled(tmp_path_factory):
    """Crawl the whole web once."""
    folder = tmp_path_factory.mktemp("crawl")
    with served() as web:
        options = {"max_pages_per_host": 20, "max_page_bytes": 200_000}
        allowed = (*HOSTS, "localhost", "::ffff:7f00:1", "169.254.169.254")
        site = config(web, *HOSTS, contact="https://example.org/bot", allowed_domains=allowed, **options)
        yield Crawled(web, folder, crawl(site, folder))


def test_crawl_records_the_outcome_of_every_url(crawled):
    index = crawled.index()
    pets = {url.removeprefix("http://pets.test"): row["outcome"] for url, row in index.items() if "pets" in url}
    assert pets == {
        **dict.fromkeys(("/", "/dogs", "/cats/", "/private/ok", "/target", "/busy", "/last", "/mute"), "archived"),
        "/usage": "archived",
        "/moved": "redirect",
        "/loop": "redirect",
        "/inner": "redirect_off_site",
        "/secret/x": "robots_denied",
        "/photo.jpg": "not_html",
        "/lies": "not_html",
        "/gone": "http_404",
        "/paid": "payment_required",
        "/huge": "too_large",
        "/hidden": "noindex",
        "/headers": "noindex",
    }
    others = {url: row["outcome"] for url, row in index.items() if "pets" not in url and row["outcome"] != "archived"}
    assert others == {
        "http://down.test/": "robots_unreachable",
        "http://sleepy.test/": "crawl_delay_too_long",
        "http://hanging.test/": "timeout",
        "http://reserved.test/inside": "opt_out",
        f"http://localhost:{crawled.web.port}/": "private_address",
        f"http://[::ffff:7f00:1]:{crawled.web.port}/": "private_address",
        "http://169.254.169.254/": "private_address",
    }
    assert crawled.manifest.counts.dropped["opt_out"] == 1  # the image of /usage
    facts = crawled.manifest.facts["crawl"]
    assert facts["outcomes"] == dict(sorted(Counter(row["outcome"] for row in index.values()).items()))
    assert facts["links_not_followed"] == {"not_http": 1, "nofollow": 3, "off_site": 2, "too_deep": 1}
    assert facts["depth"] == 8
    assert facts["http_status"]["404"] == 1
    assert index["http://pets.test/last"]["referrer"] == "http://pets.test/busy"
    assert index["http://pets.test/moved"]["detail"] == "http://pets.test/target"
    assert index["http://pets.test/paid"]["detail"] == "crawler-price: USD 0.01"
    assert index["http://reserved.test/inside"]["detail"] == "content-signal ai-train=no"


def test_crawl_obeys_robots_txt_and_directives(crawled):
    web = crawled.web
    assert {request.agent for request in web.log} == {"pairmill/0.2 (+https://example.org/bot)"}
    paths = Counter((request.host, request.path) for request in web.log)
    assert {host: paths[host, "/robots.txt"] for host in HOSTS} == dict.fromkeys(HOSTS, 1) | {"down.test": 2}
    for host in HOSTS:
        assert web.requests_to(host)[0].path == "/robots.txt"
    again = {where: n for where, n in paths.items() if n > 1}
    assert again == {("down.test", "/robots.txt"): 2, ("pets.test", "/busy"): 2, ("hanging.test", "/"): 2}
    forbidden = {"/secret/x", "/nofollow", "/never", "/admin"}
    assert not forbidden & {request.path for request in web.log}
    assert {request.host for request in web.log} == set(HOSTS)
    assert [request.path for request in web.requests_to("down.test")] == ["/robots.txt"] * 2
    assert [request.path for request in web.requests_to("sleepy.test")] == ["/robots.txt"]
    assert [request.path for request in web.requests_to("reserved.test")] == ["/robots.txt", "/"]


def gaps(web, host):
    times = [request.at for request in web.requests_to(host)]
    return [b - a for a, b in pairwise(times)]


def test_crawl_waits_as_long_as_hosts_require(crawled):
    # Single gaps vary, because the server's thread may start late; their mean does not.
    assert fmean(gaps(crawled.web, "slow.test")) > 0.45  # Crawl-delay: 0.5
    assert fmean(gaps(crawled.web, "pets.test")) > 0.045  # source.delay: 0.05
    first, second = (request.at for request in crawled.web.requests_to("pets.test", "/busy"))
    assert second - first > 0.95  # Retry-After: a date
    assert not [a for a in crawled.web.requests_to("pets.test") if first < a.at < second]


def test_crawl_ends_an_endless_site_at_its_limits(crawled):
    days = [row for url, row in crawled.index().items() if "calendar" in url]
    assert sorted(row["depth"] for row in days) == list(range(9))  # max_depth: 8
    assert len(crawled.web.requests_to("calendar.test")) == 10


def test_archive_is_readable_by_warcio(crawled):
    index = {url: row for url, row in crawled.index().items() if row["outcome"] == "archived"}
    with crawled.path("evidence-pages-00000.warc.gz").open("rb") as file:
        records = []
        for record in ArchiveIterator(file, check_digests=True):
            records.append((record.rec_type, record.rec_headers, record.http_headers, record.content_stream().read()))
    kinds = Counter(kind for kind, *_ in records)
    assert kinds == {"warcinfo": 1, "request": len(index), "response": len(index)}
    about = records[0][3].decode()
    assert "robots: classic\r\n" in about
    assert "http-header-user-agent: pairmill/0.2 (+https://example.org/bot)\r\n" in about
    assert "software: pairmill" in about
    responses = {
        head["WARC-Target-URI"]: (head, http, body) for kind, head, http, body in records if kind == "response"
    }
    assert list(responses) == sorted(index)
    head, http, body = responses["http://pets.test/cats/"]
    assert b"A picture about cats on this page" in body  # warcio decodes the server's content coding
    assert http["Content-Encoding"] == "gzip"
    assert head["WARC-IP-Address"] == "127.0.0.1"
    requests = {head["WARC-Target-URI"]: http for kind, head, http, _ in records if kind == "request"}
    assert requests["http://pets.test/dogs"]["Host"] == "pets.test"
    assert requests["http://pets.test/dogs"]["User-Agent"] == "pairmill/0.2 (+https://example.org/bot)"
    with crawled.path("evidence-robots.warc.gz").open("rb") as file:
        robots = {r.rec_headers["WARC-Target-URI"] for r in ArchiveIterator(file) if r.rec_type == "response"}
    assert "http://pets.test/robots.txt" in robots


def test_pairs_are_those_of_the_archive(crawled, tmp_path):
    pairs = read_parts(FolderStore(crawled.folder / "store"), crawled.manifest).to_pylist()
    found = {row["url"]: row["caption"] for row in pairs}
    assert found["http://pets.test/img/cats.jpg"] == "A picture about cats on this page"
    assert "Not to be kept" not in found.values()
    archived = sorted(url for url, row in crawled.index().items() if row["outcome"] == "archived")
    for row in pairs:
        assert archived[row["source_offset"]] == row["page_url"]
        assert (row["source"], row["extracted_with"]) == ("evidence-pages-00000.warc.gz", "pairmill-site/2")
    # As a source of kind warc, the archive has the same pairs.
    copy = WarcSource(paths=[str(crawled.path("evidence-pages-00000.warc.gz"))])
    again = make(plan(EXTRACT, copy, 0, []), context(tmp_path))
    assert [row["uid"] for row in read_parts(FolderStore(tmp_path / "store"), again).to_pylist()] == [
        row["uid"] for row in pairs
    ]
    assert not list((crawled.folder / "home" / "jobs").glob("crawl-*"))


def test_crawl_on_a_full_disk_ends_and_resumes_and_a_damaged_frontier_is_named(tmp_path):
    """Limit the size of files, which acts like a full disk for users who may not mount one."""
    code = (
        "import resource, sys; from plugins.crawl.job import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2); sys.exit(main(sys.argv[1:]))"
    )
    with served() as web:
        site = config(web, "calendar.test", max_depth=9, delay=0.0, allowed_domains=("calendar.test",))
        job = {"site": site.model_dump(mode="json"), "folder": str(tmp_path), "parent_pid": os.getpid()}
        (tmp_path / "job.json").write_text(json.dumps(job))
        full = run_python(code, tmp_path / "job.json", 60_000, exit_code=75)
        run_python(code, tmp_path / "job.json", 1_000_000)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
        try:
            with pytest.raises(StorageError, match="free disk space") as caught:
                crawl(site, tmp_path / "run")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not caught.value.retryable, "a stage is not retried"
    assert "free disk space" in full.stderr
    assert json.loads((tmp_path / "out" / "crawl.json").read_text())["outcomes"] == {"archived": 10}
    (tmp_path / "frontier.sqlite").write_bytes(b"no database" * 1000)
    assert f"delete {tmp_path}" in run_python(code, tmp_path / "job.json", 1_000_000, exit_code=2).stderr


@pytest.mark.long
def test_killed_crawl_repeats_no_request_and_another_edition_of_the_same_pages_has_the_same_parts(tmp_path):
    with served() as web:
        site = config(web, "calendar.test", "pets.test", edition="2026-11", max_depth=9, delay=0.08, pages_per_part=8,
                      allowed_domains=("calendar.test", "pets.test", "127.0.0.1"))  # fmt: skip
        todo = plan(EXTRACT, site, 0, [])
        folder = tmp_path / "home" / "jobs" / f"crawl-{todo.key}"
        folder.mkdir(parents=True)
        job = {"site": site.model_dump(mode="json"), "folder": str(folder), "parent_pid": os.getpid()}
        (folder / "job.json").write_text(json.dumps(job))
        command = [sys.executable, "-m", "plugins.crawl.job", str(folder / "job.json")]
        with (folder / "killed.log").open("ab") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
            wait_for(lambda: len(web.log) >= 12, 240, pause=0.005)  # a process starts slowly on a busy machine
            process.send_signal(signal.SIGKILL)
        with (folder / "crawl.warc.gz").open("ab") as archive:
            archive.write(b"\x1f\x8b\x08 half a record")
        manifest = make(todo, context(tmp_path))
        paths = Counter((request.host, request.path) for request in web.log)
        assert reuse(todo, context(tmp_path)) == manifest
        assert len(web.log) == paths.total()
        other = site.model_copy(update={"edition": "2026-12", "concurrency_per_host": 3, "delay": 0.0})
        web.failures.clear()
        again = crawl(other, tmp_path / "other")
    assert paths.pop(("calendar.test", "/robots.txt")) == 2
    assert paths.pop(("pets.test", "/robots.txt")) == 2
    paths.pop(("pets.test", "/busy"))
    # Only requests in flight when the process was killed are repeated: at most one for each host.
    assert sum(n - 1 for n in paths.values()) <= 2
    outcomes = manifest.facts["crawl"]["outcomes"]
    assert outcomes["archived"] == manifest.facts["read"]["pages"] == 10 + 10
    assert outcomes["no_contact"] == 1, "without a contact, only hosts in connect_to are requested"
    assert {host for host, _ in paths} == {"calendar.test", "pets.test"}
    assert not manifest.facts["damages"]
    rows = read_parts(FolderStore(tmp_path / "store"), manifest)
    assert len(set(rows["page_url"].to_pylist())) == 17  # of pets.test two pages have no image, and one opts out
    assert again.key != manifest.key
    assert again.content_digest == manifest.content_digest
    for prefix, ending in (("part-", "parquet"), ("evidence-pages-", "warc.gz")):
        assert [one.name for one in again.named(prefix)] == [f"{prefix}0000{n}.{ending}" for n in range(3)]
