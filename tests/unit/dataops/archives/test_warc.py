import gzip
from collections import Counter

import pytest

from dataops.archives.warc import Damage, Page, read_pages
from dataops.errors import SourceError
from tests.unit.dataops.archives.http_response import http


def record(block, url="http://a.example/", kind="response", length=None):
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\n"
    return f"{head}Content-Length: {len(block) if length is None else length}\r\n\r\n".encode() + block + b"\r\n\r\n"


def read(tmp_path, data, bound=1_000_000):
    """Return the URLs of the pages, the damages, and the counts."""
    path = tmp_path / "file.warc.gz"
    path.write_bytes(data)
    counts = Counter()
    found = list(read_pages(path, bound, lambda what: counts.update([what])))
    pages = [page.url for page in found if isinstance(page, Page)]
    return pages, [(bad.offset, bad.reason) for bad in found if isinstance(bad, Damage)], counts


def urls(*numbers):
    return [f"http://a.example/{i}" for i in numbers]


RECORDS = [record(http(), f"http://a.example/{i}") for i in range(4)]


def members(records):
    return [gzip.compress(data, mtime=0) for data in records]


@pytest.mark.parametrize("pack", [b"".join, lambda r: b"".join(members(r)), lambda r: gzip.compress(b"".join(r))])
def test_read_pages_reads_plain_files_and_gzip_files_of_one_or_many_members(tmp_path, pack):
    assert read(tmp_path, pack(RECORDS))[:2] == (urls(0, 1, 2, 3), [])


def test_read_pages_returns_only_successful_html_responses(tmp_path):
    data = b"".join(
        [
            record(b"software: x", "", "warcinfo"),
            record(b"GET / HTTP/1.1\r\n\r\n", kind="request"),
            record(http(status="404 Not Found")),
            record(http(Content_Type="image/png")),
            record(http(Content_Type="")),
            record(http(b"\x89PNG", Content_Type="")),
            record(http(Content_Type="application/xhtml+xml"), "<http://a.example/odd>"),
            record(b"1.2.3.4", "dns:a.example"),
        ]
    )
    pages, damages, counts = read(tmp_path, data)
    assert pages == ["http://a.example/", "http://a.example/odd"]
    assert damages == []
    assert counts == {"records": 8, "not_2xx": 1, "not_html": 2}


@pytest.mark.parametrize("length", [0, 10, -5, "abc", 99_999_999, "9" * 30])
def test_read_pages_skips_only_the_record_with_a_wrong_length(tmp_path, length):
    bad = record(http(), "http://a.example/bad", length=length)
    plain = read(tmp_path, RECORDS[0] + bad + RECORDS[1] + RECORDS[2])
    packed = read(tmp_path, b"".join(members([RECORDS[0], bad, RECORDS[1], RECORDS[2]])))
    for pages, damages, _ in (plain, packed):
        assert [url for url in pages if not url.endswith("bad")] == urls(0, 1, 2)
        assert damages
        assert all(offset > 0 for offset, _ in damages)


def test_read_pages_raises_after_too_many_damages(tmp_path):
    with pytest.raises(SourceError, match="over 1000 unreadable records"):
        read(tmp_path, RECORDS[0] + b"\r\n\r\nWARC/1.0 nonsense" * 2000)


def test_read_pages_skips_pages_above_the_maximum_size(tmp_path):
    long = record(http(b"<html>" + b"x" * 200_000), "http://a.example/long")
    bomb = record(http(gzip.compress(b"<html>" + b"x" * 5_000_000), Content_Encoding="gzip"), "http://a.example/bomb")
    pages, damages, _ = read(tmp_path, long + bomb + RECORDS[0], bound=100_000)
    assert pages == urls(0)
    assert [reason for _, reason in damages] == ["page_too_large", "page_too_large"]


INNER = [record(http(), f"http://inner.example/{i}") for i in range(3)]
ARCHIVES = {
    "plain": (b"".join(INNER), lambda records: b"".join(records)),
    "gzip in gzip": (b"".join(members(INNER)), lambda records: b"".join(members(records))),
    "gzip in plain": (b"".join(members(INNER)), lambda records: b"".join(records)),
    "plain in gzip": (b"".join(INNER), lambda records: b"".join(members(records))),
}
DAMAGES = {
    "none": lambda data: data,
    "its length is no number": lambda data: data.replace(b"Content-Length: ", b"Content-Length: x", 1),
    "its length is too great": lambda data: data.replace(b"Content-Length: ", b"Content-Length: 99", 1),
    "its length is too small": lambda data: data.replace(b"Content-Length: ", b"Content-Length: 150\r\nX: ", 1),
    "its version": lambda data: data.replace(b"WARC/1.0", b"WARC/x.0", 1),
}


@pytest.mark.parametrize("kind", ARCHIVES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_read_pages_never_returns_records_of_an_inner_archive(tmp_path, kind, damage):
    inner, pack = ARCHIVES[kind]
    holder = record(http(inner, Content_Type="application/warc", Content_Length=str(len(inner))), "http://a.example/w")
    pages, damages, _ = read(tmp_path, pack([RECORDS[0], DAMAGES[damage](holder), RECORDS[1], RECORDS[2]]))
    assert not [url for url in pages if "inner" in url]
    assert pages[:1] == urls(0)
    if damage != "its length is too great":  # the claimed length may cover the next records
        assert pages == urls(0, 1, 2)
    assert bool(damages) == (damage != "none")
