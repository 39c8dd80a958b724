"""Archives that would exhaust memory or time cost neither, and are reported; a good record after them is read."""

import gzip
import io
import time
import tracemalloc
from collections import Counter

import lz4.frame
import pytest

from dataops.archives.http_body import split_response
from dataops.archives.members import zstd
from dataops.archives.warc import Damage, Page, read_pages
from dataops.errors import SourceError
from dataops.web.page_pairs import PageBounds
from plugins.common_crawl.wat import extract_wat_pairs, read_wat
from tests.unit.dataops.archives.damaged_archives import DICTIONARY, skippable, warc_records
from tests.unit.dataops.archives.http_response import http
from tests.wat_files import json_record, page_value

MAX_PAGE = 2_000_000
MAX_MEMORY = 24_000_000
"""Several times MAX_PAGE, a fraction of the content of each archive here."""
MAX_SECONDS = 20
"""CPU time; each of these takes below 1 s, and took minutes before, or would."""
ENOUGH = 30_000_000

[(URL, HTML, GOOD)] = warc_records(1)
HEAD = b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a.example/\r\n"
PACKED = {
    "plain": bytes,
    "gz": lambda data: gzip.compress(data, 1),
    "zstd": zstd.compress,
    "lz4": lz4.frame.compress,
}


def read(tmp_path, data, *, traced=True):
    """Return the URLs of the pages, the damages, and the counts; check memory and time."""
    path = tmp_path / "archive"
    path.write_bytes(data)
    counts = Counter()
    if traced:
        tracemalloc.start()
    started = time.process_time()
    try:
        found = list(read_pages(path, MAX_PAGE, lambda what: counts.update([what])))
        assert time.process_time() - started < MAX_SECONDS
        assert not traced or tracemalloc.get_traced_memory()[1] < MAX_MEMORY
    finally:
        tracemalloc.stop()
    pages = [page.url for page in found if isinstance(page, Page)]
    return pages, [bad for bad in found if isinstance(bad, Damage)], counts


def claimed(length):
    return HEAD + f"Content-Length: {length}\r\n\r\n".encode() + http() + b"\r\n\r\n"


def response(body):
    return HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body + b"\r\n\r\n"


HUGE = {
    "a length of 10^18": lambda: claimed(str(10**18)),
    "a length of 10^15": lambda: claimed(str(10**15)),
    "a length of 10^30": lambda: claimed(str(10**30)),
    "a negative length": lambda: claimed("-1"),
    "a length with a sign": lambda: claimed("+100"),
    "a length in another script": lambda: claimed("٣٤"),
    "no length": lambda: HEAD + b"\r\n" + http() + b"\r\n\r\n",
    "a long line in the head": lambda: HEAD + b"X: " + b"x" * ENOUGH + b"\r\n\r\n",
    "a head without an end": lambda: HEAD + b"X: y\r\n" * (ENOUGH // 6),
    "a million fields": lambda: HEAD + b"".join(b"X-%d: y\r\n" % i for i in range(1_000_000)) + b"\r\n",
    "content that is no record": lambda: b"x" * ENOUGH,
    "line ends": lambda: b"\r\n" * (ENOUGH // 2),
    "zeros": lambda: b"\n" + bytes(ENOUGH),
    "a head of the response without an end": lambda: response(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_900_000),
    "a large page": lambda: response(http(b"<html>" + bytes(range(256)) * (ENOUGH // 256))),
}
"""Made where a test needs it: most take 40 MB."""


@pytest.mark.parametrize(
    ("packed", "name"),
    [
        *((packed, name) for packed in ("plain", "gz") for name in HUGE),
        *((packed, name) for packed in ("zstd", "lz4") for name in ("zeros", "a large page", "a head without an end")),
    ],
)
def test_read_pages_reads_the_records_around_a_hostile_one(tmp_path, name, packed):
    pack = PACKED[packed]
    data = pack(GOOD) + pack(HUGE[name]()) + pack(GOOD)
    pages, bad, _ = read(tmp_path, data)
    assert pages == [URL, URL]
    if name == "line ends":
        assert bad == []
    else:
        assert [damage.offset for damage in bad] == [len(pack(GOOD)) + (name == "zeros" and packed == "plain")]
    if name == "a large page":
        assert [damage.reason for damage in bad] == ["page_too_large"]


def test_read_pages_bounds_frames_that_grow_far_more_than_gzip_can(tmp_path):
    bomb = zstd.compress(HEAD + b"Content-Length: 99\r\n\r\n" + bytes(200_000_000))
    assert len(bomb) < 50_000
    pages, bad, _ = read(tmp_path, zstd.compress(GOOD) + bomb * 5 + zstd.compress(GOOD), traced=False)
    assert pages == [URL, URL]
    assert [damage.reason for damage in bad] == ["bad_record"] * 5


def test_read_pages_reads_many_tiny_members_in_bounded_time(tmp_path):
    newline, field = gzip.compress(b"\n", mtime=0), gzip.compress(b"\nWARC/1.0\r\nX: y\r\n\r\n"[:9], mtime=0)
    data = gzip.compress(GOOD) + newline * 100_000 + field * 900 + gzip.compress(GOOD)
    pages, bad, _ = read(tmp_path, data, traced=False)
    assert pages == [URL, URL]
    assert bad


def test_read_pages_skips_what_looks_like_members(tmp_path):
    for start in (b"\x1f\x8b\x08\x00", b"\x1f\x8b\x08\x04\xff\xff\xff\xff\xff\xff\xff\xff"):
        pages, bad, _ = read(tmp_path, gzip.compress(GOOD) + start * 100_000 + gzip.compress(GOOD), traced=False)
        assert pages == [URL, URL]
        assert bad


def test_heads_are_parsed_in_linear_time(tmp_path):
    lines = b"WARC/1.0\r\n" + b"\n \n " * 8_000 + b"a:b\n" * 8_000
    for hostile in (lines, b" \n" * 100_000, b"\n" * 200_000 + b"x", b"WARC/1.0\r\n" + b"\r\n \r" * 50_000):
        read(tmp_path, GOOD + (b"\r\n\r\n" + hostile) * 3)
        read(tmp_path, gzip.compress(GOOD) + gzip.compress(hostile)[:-9])
    started = time.process_time()
    for quote in ("", '"', "'", "= "):
        for end in ("!", "", "charset="):
            value = f"text/html; charset={quote}{' ' * 50_000}{end}"
            split_response(f"HTTP/1.1 200 OK\r\nContent-Type: {value}\r\n\r\n".encode())
    assert time.process_time() - started < MAX_SECONDS


DEPTH = 1_000_000
NESTED = {
    "a record": "[" * DEPTH,
    "a closed record": "[" * DEPTH + "]" * DEPTH,
    "objects": '{"a":' * DEPTH,
    "links": '{"Envelope":{"Payload-Metadata":{"HTTP-Response-Metadata":{"HTML-Metadata":{"Links":' + "[" * DEPTH,
    "another field": '{"Other":' + "[" * DEPTH + "]" * DEPTH + "}",
}


@pytest.mark.parametrize("name", NESTED)
def test_read_wat_reports_json_that_is_nested_too_deeply(name):
    good = json_record("http://b.example/", page_value("http://b.example/", {"Links": []}))
    body = NESTED[name].encode() + b" " * 5_000_000
    head = f"WARC/1.0\r\nWARC-Type: metadata\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    data = good + gzip.compress(head.encode() + body + b"\r\n\r\n", 1) + good
    found = list(read_wat(io.BytesIO(data), 4096, lambda what: None))
    assert [item.reason if isinstance(item, Damage) else item.url for item in found] == [
        "http://b.example/",
        "bad_json",
        "http://b.example/",
    ]
    assert found[1].offset == len(good)


def test_read_wat_reports_a_record_of_70_mb():
    good = json_record("http://b.example/", page_value("http://b.example/", {"Links": []}))
    body = b"[" * DEPTH + b" " * 70_000_000
    head = f"WARC/1.0\r\nWARC-Type: metadata\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    tracemalloc.start()
    try:
        data = good + gzip.compress(head.encode() + body + b"\r\n\r\n", 1) + good
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        found = list(read_wat(io.BytesIO(data), 4096, lambda what: None))
        assert tracemalloc.get_traced_memory()[1] - before < MAX_MEMORY
    finally:
        tracemalloc.stop()
    assert [item.reason for item in found if isinstance(item, Damage)] == ["too_large"]
    assert len(found) == 3


ODD_PARTS = {"deep": "[" * 900 + "]" * 900, "deeper": "[" * 990 + "]" * 990, "a long number": "9" * 10_000}


@pytest.mark.parametrize("part", ODD_PARTS)
def test_extract_wat_pairs_ignores_parts_that_cannot_be_parsed(part):
    head = f'{{"Link": [{{"rel": "license", "x": {ODD_PARTS[part]}}}]}}'
    links = '[{"path": "IMG@/src", "url": "a.jpg", "alt": "one"}]'
    headers = f'{{"X-Robots-Tag": "noai", "x": {ODD_PARTS[part]}}}'
    body = (
        '{"Envelope":{"WARC-Header-Metadata":{"WARC-Target-URI":"http://b.example/"},"Payload-Metadata":'
        f'{{"HTTP-Response-Metadata":{{"Headers":{headers},"HTML-Metadata":{{"Head":{head},"Links":{links}}}}}}}}}}}'
    ).encode()
    head = f"WARC/1.0\r\nWARC-Type: metadata\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    for found in read_wat(io.BytesIO(head.encode() + body + b"\r\n\r\n"), 4096, lambda what: None):
        if not isinstance(found, Damage):
            pairs, _ = extract_wat_pairs([found], PageBounds(100, 4096), frozenset())
            assert pairs["caption"].to_pylist() == ["one"]


NO_ARCHIVES = {
    "zeros": (bytes(5000), "no WARC record"),
    "HTML": (b"<html>" * 100, "no WARC record"),
    "packed HTML": (gzip.compress(b"<html>" * 100), "no WARC record"),
    "line ends of another system": (2 * GOOD.replace(b"\r\n", b"\n"), "no WARC record"),
    "WACZ": (b"PK\x03\x04\x14\0\0\0" + b"archive/data.warc.gz" + gzip.compress(GOOD), "WACZ; `unzip FILE 'archive/"),
    "ARC": (b"filedesc://a.arc 0.0.0.0 20080430204825 text/plain 10\n1 0 x\n\n\n", "ARC file; `warcio recompress"),
    "bzip2": (b"BZh91AY&SY", "`bunzip2 FILE`"),
    "xz": (b"\xfd7zXZ\0\0\0", "`unxz FILE`"),
    "zstd with a dictionary elsewhere": (
        zstd.compress(GOOD, zstd_dict=DICTIONARY),
        f"needs the zstd dictionary {DICTIONARY.dict_id}, which is not in the file; decompress it with",
    ),
    "a dictionary that is cut off": (skippable(DICTIONARY.dict_content)[:-5], "its zstd dictionary is damaged"),
    "a dictionary that is none": (skippable(b"nothing of use") + zstd.compress(GOOD), "its zstd dictionary cannot be"),
    "a dictionary that is a bomb": (
        skippable(zstd.compress(bytes(ENOUGH))) + zstd.compress(GOOD),
        "its zstd dictionary is cut off, or has over",
    ),
}


@pytest.mark.parametrize("name", NO_ARCHIVES)
def test_a_file_that_cannot_be_read_is_an_error_with_its_name_and_remedy(tmp_path, name):
    data, message = NO_ARCHIVES[name]
    with pytest.raises(SourceError) as raised:
        read(tmp_path, data)
    assert str(raised.value).startswith(f"{tmp_path / 'archive'}: ")
    assert message in str(raised.value)
    with pytest.raises(SourceError) as raised:
        list(read_wat(io.BytesIO(data), 4096, print))
    assert message in str(raised.value)
