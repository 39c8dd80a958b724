"""The config of `kind = "site"`."""

import json
import sys
from datetime import UTC, datetime, timedelta, timezone

import pytest
from pydantic import ValidationError

from dataops.config import SCHEDULED
from dataops.errors import ConfigError
from dataops.snapshot import read_parts
from dataops.store import FolderStore
from plugins.crawl import source as site
from plugins.crawl.source import SiteSource
from tasks.engine.stage import make, plan
from tasks.extract.config import Sources
from tasks.extract.stage import EXTRACT
from tests.archived_images import http, record, write_archive
from tests.inline_executor import inline_context


def test_key_covers_only_fields_that_decide_the_pages():
    def key(**options):
        contact = "mailto:us@example.org"
        return plan(EXTRACT, SiteSource(start=("http://a.example/",), **{"contact": contact, **options}), 0, []).key

    same = ({}, {"delay": 5.0}, {"contact": "https://example.org/"}, {"connect_to": {"a.example": "127.0.0.1:1"}})
    assert len({key(**options) for options in same}) == 1
    other = ({}, {"edition": "2026-11"}, {"max_pages": 5}, {"max_depth": 1}, {"allowed_domains": ["b.example"]})
    assert len({key(**options) for options in other}) == len(other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": []}, "at least 1 item"),
        ({"start": ["a.example"]}, r"must be absolute http or https URLs \(bad_url\)"),
        ({"start": ["ftp://a.example/"]}, r"URLs \(not_http\)"),
        ({}, r"contact is required to crawl a\.example; set it to a page or a mailto: address"),
        (
            {"start": ["http://localhost:8000/", "http://[::1]/", "http://a.example/"], "contact": "x@y"},
            r"http://localhost:8000/, http://\[::1\]/: not a public host; if it is yours, set connect_to = "
            r"\{ \"localhost\" = \"127\.0\.0\.1:8000\", \"::1\" = \"\[::1\]:80\" \} in \[source\] and",
        ),
        ({"contact": "me, myself"}, "pattern"),
        ({"contact": "x@y", "connect_to": {"a": "localhost:1"}}, "is not an IP address and a port"),
        ({"connect_to": {"b.example": "127.0.0.1:80"}}, r"contact is required to crawl a\.example"),
    ],
)
def test_config_that_cannot_be_crawled_is_refused_with_the_reason(options, message):
    with pytest.raises(ValidationError, match=message):
        SiteSource(**({"start": ["http://a.example/"]} | options))


def test_edition_with_a_date_is_that_of_the_day_for_which_a_run_is_scheduled():
    def edition(text):
        return SiteSource(start=("http://a.example/",), contact="mailto:us@example.org", edition=text).edition

    scheduled = SCHEDULED.set(datetime(2026, 11, 1, 23, 59, tzinfo=UTC))
    try:
        first = edition("%Y-%m-%d")
        SCHEDULED.set(datetime(2026, 11, 2, 1, 30, tzinfo=timezone(timedelta(hours=2))))
        assert (first, edition("%Y-%m-%d"), edition(first)) == ("2026-11-01", "2026-11-01", "2026-11-01")
        SCHEDULED.set(datetime(2026, 11, 2, 3, 30, tzinfo=timezone(timedelta(hours=2))))
        assert (edition("%Y-%m-%d"), edition("november")) == ("2026-11-02", "november")
    finally:
        SCHEDULED.reset(scheduled)
    assert edition("%Y-%m-%dT%H") == datetime.now(UTC).strftime("%Y-%m-%dT%H")


def test_each_of_several_sites_has_a_crawl_and_parts_of_its_own(tmp_path, monkeypatch):
    def crawl(module, job, folder, **_):
        source, out = SiteSource.model_validate(job["site"]), folder / "out"
        out.mkdir(parents=True)
        page = http(b"<img src=/1.png alt='A view of the harbour'>", Content_Type="text/html")
        write_archive(out / source.part_name("pages-00000.warc.gz"), [record(source.start[0], page)])
        (out / source.part_name("crawl.parquet")).write_bytes(b"")
        (out / "crawl.json").write_text(json.dumps({"outcomes": {"archived": 1}, "start": source.start[0]}))

    monkeypatch.setattr(site, "run_job", crawl)
    tables = [
        SiteSource(name=name, start=(f"http://{name}.example/",), contact="mailto:a@b.example") for name in ("a", "b")
    ]
    store = FolderStore(tmp_path / "store")
    context = inline_context(store, tmp_path / "home")
    made = make(plan(EXTRACT, Sources(tables=tuple(tables)), 0, []), context)
    kinds = ("crawl.parquet", "pages-00000.warc.gz")
    assert [part.name for part in made.named("evidence-")] == [f"evidence-{n}-{kind}" for n in "ab" for kind in kinds]
    assert [source["crawl"]["start"] for source in made.facts["sources"]] == ["http://a.example/", "http://b.example/"]
    rows = read_parts(store, made).to_pylist()
    assert [(row["source"], row["page_url"]) for row in rows] == [
        (f"{name}/evidence-{name}-pages-00000.warc.gz", f"http://{name}.example/") for name in "ab"
    ]


def test_crawl_without_its_packages_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scrapy", None)
    planned = plan(EXTRACT, SiteSource(start=("http://a.example/",), contact="mailto:a@b.example"), 0, [])
    with pytest.raises(ConfigError, match=r"scrapy, not installed here: pip install 'pairmill\[crawl\]'"):
        make(planned, inline_context(FolderStore(tmp_path / "store"), tmp_path / "home"))
