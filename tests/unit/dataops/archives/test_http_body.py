import gzip
import zlib

import brotli
import pyarrow as pa
import pytest

from dataops.archives.http_body import BadBody, decode_body, remove_chunking, split_response
from tests.unit.dataops.archives.http_response import HTML, http


def decode(block: bytes, bound: int = 1_000_000) -> bytes:
    return decode_body(*split_response(block), bound)


def chunked(data: bytes, size: int = 10) -> bytes:
    chunks = [data[i : i + size] for i in range(0, len(data), size)]
    return b"".join(b"%x;ext=1\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\nTrailer: x\r\n\r\n"


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
    ],
)
def test_decode_body_undoes_all_codings(block: bytes):
    assert decode(block) == HTML


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (b"", "bad_http"),
        (b"<html>", "bad_http"),
        (b"HTTP/1.1 200 OK\r\nno end of head", "bad_http"),
        (http(gzip.compress(HTML)[:-12], Content_Encoding="gzip"), "bad_encoding"),
        (http(b"\x1f\x8b" + b"x" * 50, Content_Encoding="gzip"), "bad_encoding"),
        (http(brotli.compress(HTML)[:-5], Content_Encoding="br"), "bad_encoding"),
        (http(b"\x07" + HTML, Content_Encoding="rot13"), "bad_encoding"),
        (http(ZSTD[:-3], Content_Encoding="zstd"), "bad_encoding"),
        (http(gzip.compress(b"x" * 600_000) * 2, Content_Encoding="gzip"), "page_too_large"),
        (http(brotli.compress(b"x" * 2_000_000), Content_Encoding="br"), "page_too_large"),
        (http(zlib.compress(b"x" * 2_000_000), Content_Encoding="deflate"), "page_too_large"),
    ],
)
def test_decode_body_raises_the_reason_of_an_unreadable_body(block: bytes, reason: str):
    with pytest.raises(BadBody, match=reason):
        decode(block)


def test_remove_chunking_keeps_the_rest_after_a_damaged_chunk():
    assert remove_chunking(b"5\r\nhello\r\nzz\r\nworld") == b"hellozz\r\nworld"
