from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from scrapy.exceptions import DownloadTimeoutError, ResponseDataLossError

from plugins.crawl.responses import classify_failure, parse_retry_after


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"120", 120.0), (b" 0 ", 0.0), (b"", None), (b"soon", None), (b"-5", None), (b"\xff", None)],
)
def test_parse_retry_after_reads_seconds(value: bytes, seconds: float | None):
    assert parse_retry_after({"Retry-After": value}) == seconds


def test_parse_retry_after_reads_a_date():
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    seconds = parse_retry_after({"Retry-After": at.encode()})
    assert seconds is not None
    assert 80 < seconds <= 90
    assert parse_retry_after({"Retry-After": b"Fri, 01 Jan 1999 00:00:00 GMT"}) == 0
    assert parse_retry_after({}) is None


def test_classify_failure_names_the_outcome():
    assert classify_failure(DownloadTimeoutError()) == "timeout"
    assert classify_failure(ResponseDataLossError()) == "incomplete"
    assert classify_failure(ValueError()) == "connect"
