import gzip
import random
import zlib

import brotli
import pyarrow as pa
import pytest

from dataops.archives.http_body import BadBody, decode_body, decode_codings, split_response
from tests.unit.dataops.archives.http_response import HTML, http


def decode(block, bound=1_000_000):
    return decode_body(*split_response(block), bound)


def chunked(data, size=10):
    chunks = [data[i : i + size] for i in range(0, len(data), size)]
    return b"".join(b"%x;ext=1\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\nTrailer: x\r\n\r\n"


def nested(data, layers):
    for _ in range(layers):
        data = zlib.compress(data, 0)
    return data


RAW = zlib.compressobj(wbits=-15)
ZSTD = pa.compress(HTML, codec="zstd", asbytes=True)
RAW_DEFLATE = RAW.compress(HTML) + RAW.flush()


@pytest.mark.parametrize(
    "block",
    [
        http(chunked(HTML), Transfer_Encoding="chunked"),
        http(HTML, Transfer_Encoding="chunked"),  # stored decoded
        http(gzip.compress(HTML), Content_Encoding="gzip"),
        http(gzip.compress(HTML), Content_Encoding="x-gzip"),
        http(HTML, Content_Encoding="gzip"),
        http(zlib.compress(HTML), Content_Encoding="deflate"),
        http(RAW_DEFLATE, Content_Encoding="deflate"),
        http(HTML, Content_Encoding="deflate"),
        http(brotli.compress(HTML), Content_Encoding="br"),
        http(brotli.compress(HTML) + b"\r\n<p>", Content_Encoding="br"),
        http(HTML, Content_Encoding="br"),
        http(chunked(gzip.compress(HTML)), Transfer_Encoding="chunked", Content_Encoding="gzip"),
        http(gzip.compress(brotli.compress(HTML)), Content_Encoding="br, gzip"),
        http(HTML).replace(b"\r\n", b"\n"),
        http(gzip.compress(HTML[:9]) + gzip.compress(HTML[9:]) + b"\0\0", Content_Encoding="gzip"),  # two members
        http(gzip.compress(gzip.compress(HTML)), Content_Encoding="gzip"),  # applied twice
        http(gzip.compress(HTML), Content_Encoding="gzip, gzip"),  # listed twice
        http(gzip.compress(HTML)),  # not listed
        http(gzip.compress(brotli.compress(HTML)), Content_Encoding="br\r\nContent-Encoding: gzip"),
        http(chunked(gzip.compress(HTML)), Transfer_Encoding="gzip, chunked"),
        http(HTML, Content_Encoding="utf-8"),
        http(ZSTD, Content_Encoding="zstd"),
        http(HTML, Content_Length="3"),
        http(nested(HTML, 5), Content_Encoding="deflate, " * 5),
        http(gzip.compress(b"") * 999 + gzip.compress(HTML), Content_Encoding="gzip"),
        http(b"\x50\x2a\x4d\x18\x03\0\0\0abc" * 9 + ZSTD, Content_Encoding="zstd"),
    ],
)
def test_decode_body_undoes_all_codings(block):
    assert decode(block) == HTML


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (b"", "bad_http"),
        (b"<html>", "bad_http"),
        (b"HTTP/1.1 200 OK\r\nno end of head", "bad_http"),
        (http(gzip.compress(HTML)[:10], Content_Encoding="gzip"), "bad_encoding"),
        (http(b"\x1f\x8b" + b"x" * 50, Content_Encoding="gzip"), "bad_encoding"),
        (http(b"\x07" + HTML, Content_Encoding="rot13"), "bad_encoding"),
        (http(ZSTD[:8], Content_Encoding="zstd"), "bad_encoding"),
        (http(gzip.compress(b"x" * 600_000) * 2, Content_Encoding="gzip"), "page_too_large"),
        (http(brotli.compress(b"x" * 2_000_000, quality=1), Content_Encoding="br"), "page_too_large"),
        (http(zlib.compress(b"x" * 2_000_000), Content_Encoding="deflate"), "page_too_large"),
        (http(nested(HTML, 6), Content_Encoding="deflate, " * 5 + "deflate"), "bad_encoding"),
        (http(gzip.compress(HTML), Content_Encoding="gzip, " * 400), "bad_encoding"),
        (http(HTML, Transfer_Encoding="chunked, " * 6), "bad_encoding"),
        (
            http(chunked(nested(HTML, 4)), Transfer_Encoding="gzip, chunked", Content_Encoding="deflate, " * 4),
            "bad_encoding",
        ),
        (http(gzip.compress(zlib.compress(b"x" * 2_000_000, 0)), Content_Encoding="deflate, gzip"), "page_too_large"),
        (http(gzip.compress(b"") * 1001 + gzip.compress(HTML), Content_Encoding="gzip"), "bad_encoding"),
        (http(pa.compress(b"", codec="zstd", asbytes=True) * 1001 + ZSTD, Content_Encoding="zstd"), "bad_encoding"),
        (http(b"\x50\x2a\x4d\x18\0\0\0\0" * 1001 + ZSTD, Content_Encoding="zstd"), "bad_encoding"),
    ],
)
def test_decode_body_raises_the_reason_of_an_unreadable_body(block, reason):
    with pytest.raises(BadBody, match=reason):
        decode(block)


LONG = HTML + random.Random(1).randbytes(150_000).hex().encode()


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(LONG)),
        ("deflate", zlib.compress(LONG)),
        ("br", brotli.compress(LONG, quality=4)),
        ("zstd", pa.compress(LONG, codec="zstd", asbytes=True)),
    ],
    ids=["gzip", "deflate", "br", "zstd"],
)
def test_decode_body_keeps_what_arrived_of_a_compressed_page(coding, body):
    decoded = 0
    for end in range(len(body) // 50, len(body), len(body) // 50):
        try:
            found = decode(http(body[:end], Content_Encoding=coding))
        except BadBody:
            found = b""
        assert LONG.startswith(found)
        assert len(found) >= decoded  # no byte more loses what could be decoded
        decoded = len(found)
    assert decoded > len(LONG) / 3
    assert decode(http(gzip.compress(HTML)[:-8], Content_Encoding="gzip")) == HTML
    with pytest.raises(BadBody):
        decode_codings(body[:-1], [coding], 1_000_000)


@pytest.mark.parametrize(
    "value", ["charset=" + " " * 65_000 + "(", "charset" * 9_000, "charset = ( " * 5_000, "=" * 65_000]
)
def test_split_response_reads_a_hostile_content_type_in_linear_time(value):
    """The first of them took minutes where the expression was quadratic."""
    head, _ = split_response(http(b"", Content_Type=f"text/html; {value}"))
    assert (head.content_type, head.charset) == ("text/html", None)
