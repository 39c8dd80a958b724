from datetime import UTC, datetime, timedelta
from email.utils import format_datetime


def test_parse_retry_after_reads_a_date():
    from plugins.crawl.responses import (
        parse_retry_after,
    )  # which imports Scrapy, in seconds where all tests are collected

    at = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    seconds = parse_retry_after({"Retry-After": at.encode()})
    assert seconds is not None
    assert 80 < seconds <= 90
    assert parse_retry_after({"Retry-After": b"Fri, 01 Jan 1999 00:00:00 GMT"}) == 0
    assert parse_retry_after({}) is None
