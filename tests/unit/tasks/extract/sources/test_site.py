"""The site source's config, and the crawl's frontier."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from scrapy.exceptions import DownloadTimeoutError, ResponseDataLossError

from tasks.engine.stage import plan
from tasks.extract.crawl.context import find_registrable_domain
from tasks.extract.crawl.frontier import Budget, Frontier
from tasks.extract.crawl.responses import classify_failure, parse_retry_after
from tasks.extract.sources.site import SiteSource
from tasks.extract.stage import EXTRACT

PLENTY = Budget(pages=100, pages_per_host=100, waiting=100)


def always(host: str) -> bool:
    return True


def taken(frontier: Frontier, **options: Any) -> list[str]:
    urls = []
    while address := frontier.take_next(options.get("may", always), options.get("per_host", 10)):
        urls.append(address.url)
    return urls


def test_hosts_take_turns_and_shallow_addresses_go_first(tmp_path: Path):
    frontier = Frontier(tmp_path / "f.sqlite", PLENTY)
    for url, depth in (("a/1", 2), ("a/2", 1), ("a/3", 1), ("b/1", 5), ("c/1", 0), ("c/2", 0)):
        assert frontier.add(url, url[0], depth)
    assert not frontier.add("a/1", "a", 0)
    assert taken(frontier, may=lambda host: host != "c") == ["a/2", "b/1", "a/3", "a/1"]
    assert taken(frontier, per_host=1) == ["c/1"]
    assert taken(frontier) == ["c/2"]
    assert not frontier.has_next()
    assert frontier.in_flight.total() == 6
    frontier.close()


def test_budgets_count_what_is_on_its_way_and_give_back_what_was_not_asked(tmp_path: Path):
    frontier = Frontier(tmp_path / "f.sqlite", Budget(pages=3, pages_per_host=2, waiting=5))
    for url in ("a/1", "a/2", "a/3", "b/1", "b/2"):
        frontier.add(url, url[0], 0)
    assert not frontier.add("b/3", "b", 0)
    first = frontier.take_next(always, 10)
    assert first is not None
    assert first.url == "a/1"
    assert taken(frontier) == ["b/1", "a/2"]
    assert not frontier.has_next()
    frontier.record_outcome(first, "robots_denied", requested=False)
    assert taken(frontier) == ["b/2"]
    frontier.close_waiting()
    assert frontier.summarise()["outcomes"] == {"page_budget": 4, "robots_denied": 1}
    assert frontier.summarise()["links_not_followed"] == {"frontier_full": 1}
    frontier.close()


def test_a_frontier_opened_again_knows_what_was_done_and_forgets_what_was_on_its_way(tmp_path: Path):
    frontier = Frontier(tmp_path / "f.sqlite", PLENTY)
    for url in ("a/1", "a/2", "a/3"):
        frontier.add(url, "a", 0)
    done, failed = frontier.take_next(always, 10), frontier.take_next(always, 10)
    assert done is not None
    assert failed is not None
    with frontier.transaction():
        frontier.record_outcome(done, "archived", offset=10, length=5)
        frontier.add("a/4", "a", 1)
    frontier.requeue(failed)
    with suppress(KeyboardInterrupt), frontier.transaction():
        frontier.add("a/5", "a", 1)
        raise KeyboardInterrupt
    again = Frontier(tmp_path / "f.sqlite", PLENTY)  # as after a kill: the first was never closed
    assert again.archive_end() == 15
    address = again.take_next(always, 10)
    assert address is not None
    assert (address.url, address.tries) == ("a/2", 1)
    assert taken(again) == ["a/3", "a/4"]
    again.add_robots("a/robots.txt", 15, 7)
    assert again.archive_end() == 22
    frontier.close()
    again.close()


def test_only_what_decides_the_pages_is_in_the_key():
    def key(**options: Any) -> str:
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
        ({"contact": "me, myself"}, "pattern"),
        ({"contact": "x@y", "connect_to": {"a": "localhost:1"}}, "is not an IP address and a port"),
        ({"connect_to": {"b.example": "127.0.0.1:80"}}, r"contact is required to crawl a\.example"),
    ],
)
def test_a_config_that_cannot_be_crawled_says_why(options: dict[str, Any], message: str):
    with pytest.raises(ValidationError, match=message):
        SiteSource(**({"start": ["http://a.example/"]} | options))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"120", 120.0), (b" 0 ", 0.0), (b"", None), (b"soon", None), (b"-5", None), (b"\xff", None)],
)
def test_retry_after_in_seconds(value: bytes, seconds: float | None):
    assert parse_retry_after({"Retry-After": value}) == seconds


def test_retry_after_as_a_date():
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    seconds = parse_retry_after({"Retry-After": at.encode()})
    assert seconds is not None
    assert 80 < seconds <= 90
    assert parse_retry_after({"Retry-After": b"Fri, 01 Jan 1999 00:00:00 GMT"}) == 0
    assert parse_retry_after({}) is None


def test_failures_have_names():
    assert classify_failure(DownloadTimeoutError()) == "timeout"
    assert classify_failure(ResponseDataLossError()) == "incomplete"
    assert classify_failure(ValueError()) == "connect"


def test_the_registered_domain_of_a_host():
    hosts = ("www.example.co.uk", "a.b.example.org", "user.github.io", "localhost", "127.0.0.1", "pets.test")
    assert [find_registrable_domain(host) for host in hosts] == [
        "example.co.uk",
        "example.org",
        "user.github.io",
        "localhost",
        "127.0.0.1",
        "pets.test",
    ]
