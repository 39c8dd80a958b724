"""Define the targets that are files of data: WARC, WAT, tar shards and pair lists."""

import gzip
import io
import json
import tarfile
import tempfile
from functools import lru_cache
from pathlib import Path

from benchmarks.fuzzing.target import Limits, Parser, Target
from dataops.home import CHECKOUT

_MAX_PAGE = 1_000_000
_WARC_WORDS = tuple(
    b"WARC/1.0\r\n|WARC/1.1\r\n|WARC-Type: response\r\n|WARC-Target-URI: http://a.example/\r\n|Content-Length: |\r\n\r\n|"
    b"\r\n|0\r\n|99999999\r\n|-1\r\n|HTTP/1.1 200 OK\r\n|\x1f\x8b\x08|\x28\xb5\x2f\xfd|\x50\x2a\x4d\x18|\x5d\x2a\x4d\x18|"
    b"\x04\x22\x4d\x18|\0\0\0\0".split(b"|")
)


@lru_cache(maxsize=1)
def scratch_folder():
    """Return a folder in memory, where there is one, for parsers that read files."""
    memory = Path("/dev/shm")
    name = tempfile.TemporaryDirectory(prefix="pairmill-fuzz-", dir=memory if memory.is_dir() else None)
    _FOLDERS.append(name)
    return Path(name.name)


_FOLDERS = []


def write_scratch(name, data):
    """Write the input into a file, and return its path."""
    path = scratch_folder() / name
    path.write_bytes(data)
    return path


def _codecs():
    import lz4.frame

    from dataops.archives.members import zstd

    return [bytes, lambda data: gzip.compress(data, 1, mtime=0), zstd.compress, lz4.frame.compress]


def _load_warc():
    from dataops.archives.warc import Page, read_pages
    from dataops.errors import SourceError

    def parse(data):
        path, outcomes = write_scratch("fuzz.warc", data), set()
        for found in read_pages(path, _MAX_PAGE, outcomes.add):
            outcomes.add("page" if isinstance(found, Page) else found.reason)
        return frozenset(outcomes)

    return Parser(parse, (SourceError,))


def _load_packed(load):
    """Return a parser of the content of an archive: the first byte of the input is the codec, the rest is compressed."""
    parser, codecs = load(), _codecs()
    return Parser(lambda data: parser.parse(codecs[data[0] % len(codecs)](data[1:]) if data else b""), parser.errors)


def _warc_files():
    return [path.read_bytes() for path in sorted((CHECKOUT / "tests" / "data" / "archives").glob("*warc*"))]


def _warc_seeds():
    _, _, to_zstd, to_lz4 = _codecs()
    plain = [data for data in _warc_files() if data.startswith(b"WARC")]
    return [
        *_warc_files(),
        *map(to_zstd, plain[:2]),
        *map(to_lz4, plain[:1]),
        b"\x50\x2a\x4d\x18\x02\0\0\0ab" + to_zstd(plain[0]),
    ]


def _unpacked(data):
    return gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data


def _load_wat():
    from dataops.archives.members import Damage
    from dataops.errors import SourceError
    from dataops.web.page_pairs import PageBounds
    from plugins.common_crawl.wat import extract_wat_pairs, read_wat

    bounds = PageBounds(caption=1_000, url=2_000)

    def parse(data):
        outcomes = set()
        for found in read_wat(io.BytesIO(data), 2_000, outcomes.add):
            if isinstance(found, Damage):
                outcomes.add(found.reason)
                continue
            pairs, [origin] = extract_wat_pairs([found], bounds, frozenset({"noai"}))
            pairs.validate(full=True)
            f"{origin}".encode()
            outcomes |= {*zip(pairs["caption_source"].to_pylist(), pairs["drop_reason"].to_pylist(), strict=True)}
        return frozenset(outcomes)

    return Parser(parse, (SourceError,))


def _wat_records():
    from tests.wat_files import make_pages, page_value, plain_record

    url, html = next(make_pages(0))
    license_url = "https://creativecommons.org/licenses/by/4.0/"
    html["Links"] = [
        *[link for link in html["Links"] if link["path"] == "IMG@/src"][:4],
        {"path": "A@/href", "url": license_url, "rel": "license"}, {"path": "XX@/yy", "url": "x"},
        {"path": "IMG@/src", "url": "data:image/png;base64,AA"}, {"path": "IMG@/src", "url": 5},
    ]  # fmt: skip
    html["Head"] |= {"Base": "http://b.example/", "Link": [{"path": "LINK@/href", "rel": "license", "url": "/l"}]}
    html["Head"]["Metas"].append({"name": "robots", "content": "noai"})
    value = page_value(url, html, {"X-Robots-Tag": ["noai", "all"]})
    return plain_record(url, json.dumps(value).encode())


def _wat_seeds():
    return [codec(_wat_records()) for codec in _codecs()]


_WAT_WORDS = (
    *_WARC_WORDS,
    *(
        b'"path":"IMG@/src"',
        b'"url":',
        b'"alt":',
        b"null",
        b"[",
        b"]",
        b"{",
        b"}",
        b'"',
        b"\\ud800",
        b"1e999",
        b"{}",
        b"[]",
    ),
    *(
        b'"HTML-Metadata":',
        b'"Metas":',
        b'"Links":',
        b'"Head":',
        b'"rel":"license"',
        b'"Content-Type: application/json',
    ),
)


def _load_shard_tar():
    from dataops.errors import CorruptPart
    from dataops.shards.tar import find_spans, list_members, read_samples

    def parse(data):
        try:
            members = list_members(io.BytesIO(data), "fuzz.tar")
        except CorruptPart:
            for _ in read_samples(io.BytesIO(data), "fuzz.tar"):
                pass
            find_spans(["0000.jpg", "0001.txt"], io.BytesIO(data), "fuzz.tar")
            raise
        spans = find_spans([member.name for member in members], io.BytesIO(data), "fuzz.tar")
        assert spans == {member.name: (member.offset, member.size) for member in members}
        samples = list(read_samples(io.BytesIO(data), "fuzz.tar"))
        read = [(f"{key}.{name}", len(content)) for key, sample in samples for name, content in sample.items()]
        assert read == [(member.name, member.size) for member in members], "two readers find other members"
        return len(members)

    return Parser(parse, (CorruptPart,))


def _tar_seeds():
    from dataops.shards.tar import ShardWriter

    sink = io.BytesIO()
    writer = ShardWriter(sink)
    for key in ("0000", "0001", "0002"):
        writer.write(key, {"jpg": b"\xff\xd8\xff" * 200, "txt": b"a caption", "json": b"{}"})
    writer.close()
    found = [sink.getvalue()]
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        sink = io.BytesIO()
        with tarfile.open(fileobj=sink, mode="w", format=form) as archive:
            for name, kind in (
                ("0000.txt", tarfile.REGTYPE),
                ("long" * 40 + ".txt", tarfile.REGTYPE),
                ("l.x", tarfile.SYMTYPE),
            ):
                info = tarfile.TarInfo(name)
                info.type, info.size, info.pax_headers = kind, 5 * (kind == tarfile.REGTYPE), {"comment": "é"}
                archive.addfile(info, io.BytesIO(b"hello"))
        found.append(sink.getvalue())
    return found


def _load_shard_index():
    from dataops.errors import CorruptPart
    from dataops.shards.tar import read_index

    return Parser(lambda data: len(list(read_index(data.decode("utf-8", "replace"), "fuzz.idx"))), (CorruptPart,))


def _load_pair_list(name):
    from dataops.errors import ConfigError, SourceError
    from plugins.own_images.list_rows import build_pair_table
    from plugins.own_images.lists import ColumnNames, read_list

    def parse(data):
        path, outcomes = write_scratch(name, data), set()
        named = ColumnNames(extra=("width",)) if data[-1:] == b"\n" and b"width" in data[:500] else ColumnNames()
        for rows in read_list(path, named, lambda _, reason, found=outcomes: found.add(reason)):
            table = build_pair_table(rows, 1_000, 2_000)
            outcomes |= {str(reason) for reason in table["drop_reason"].unique().to_pylist()}
        return frozenset(outcomes)

    return Parser(parse, (SourceError, ConfigError))


def _text_list_seeds(delimiter):
    header, rows = (
        ["url", "caption", "width"],
        [["https://a.example/x.jpg", "a red kite", "5"], ["data:x", "été 日本", ""]],
    )
    quoted = [["https://a.example/y.jpg", '"quoted ""text"", with\nlines"' if delimiter == "," else '"', "7"]]
    text = "\n".join(delimiter.join(row) for row in [header, *rows, *quoted]) + "\n"
    return [text.encode(), text.encode("utf-16"), text.partition("\n")[2].replace("\n", "\r\n").encode()]


def _jsonl_seeds():
    return [
        b'{"url": "https://a.example/x.jpg", "caption": "a red kite", "width": 5}\n{"url": null}\n\n[]\n'
        b'{"url": 7, "caption": "x", "width": [1, {"a": 1e99}]}\n{"url": "x", "caption": "\\ud800"}\n',
        b'{"TEXT": "a", "URL": "http://a.example/"}',
    ]


def _parquet_seeds():
    import pyarrow as pa
    import pyarrow.parquet as pq

    urls, captions = ["https://a.example/x.jpg", None, "b"] * 3, ["a red kite", "日本", None] * 3
    found = []
    for compression, kind in (
        ("none", pa.string()),
        ("snappy", pa.dictionary(pa.int32(), pa.string())),
        ("zstd", pa.binary()),
    ):
        captioned = pa.array(captions, pa.string()).cast(kind) if kind != pa.binary() else pa.array([b"\xff"] * 9, kind)
        table = pa.table({"url": urls, "caption": captioned, "width": list(range(9)), "page_url": urls})
        sink = io.BytesIO()
        pq.write_table(table, sink, compression=compression, row_group_size=4)
        found.append(sink.getvalue())
    return found


_CSV_WORDS = (
    b'"',
    b'""',
    b",",
    b"\t",
    b"\n",
    b"\r\n",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"http://a/",
    b"\xff",
    b"url",
    b"text\n",
)
_JSON_WORDS = (b'{"url": "http://a.example/x", "caption": "', b'"}\n', b"null", b"[", b"{", b"\\ud800", b"1e999", b"\n")

ARCHIVE_TARGETS = (
    Target("warc", _load_warc, _warc_seeds, _WARC_WORDS),
    Target(
        "warc_content",
        lambda: _load_packed(_load_warc),
        lambda: [bytes([i % 4]) + _unpacked(data) for i, data in enumerate(_warc_files())],
        _WARC_WORDS,
    ),
    Target("wat", _load_wat, _wat_seeds, _WAT_WORDS),
    Target(
        "wat_content",
        lambda: _load_packed(_load_wat),
        lambda: [bytes([i]) + _wat_records() for i in range(4)],
        _WAT_WORDS,
    ),
    Target(
        "shard_tar", _load_shard_tar, _tar_seeds, (b"ustar\x0000", b"ustar  \0", b"0000.jpg", bytes(512), b"0000644\0")
    ),
    Target(
        "shard_index",
        _load_shard_index,
        lambda: [b"v1.2 2\njpg 512 3 a.jpg txt 1536 9 a.txt\njpg 4096 5 b.jpg txt 5120 1 b.txt\n"],
        (b"v1.2 ", b"jpg 512 3 a.jpg ", b"\n", b"\xe2\x80\xa8", b"\xd9\xa3"),
    ),
    *(
        Target(
            f"pairs_{name.partition('.')[2].replace('.', '_')}", lambda name=name: _load_pair_list(name), seeds, words
        )
        for name, seeds, words in (
            ("list.csv", lambda: _text_list_seeds(","), _CSV_WORDS),
            ("list.tsv", lambda: _text_list_seeds("\t"), _CSV_WORDS),
            ("list.jsonl", _jsonl_seeds, _JSON_WORDS),
            ("list.csv.gz", lambda: [gzip.compress(s, mtime=0) for s in _text_list_seeds(",")], (b"\x1f\x8b\x08",)),
        )
    ),
    Target(
        "pairs_parquet",
        lambda: _load_pair_list("list.parquet"),
        _parquet_seeds,
        (b"PAR1", b"\x15\x04\x15", b"\x19\x1c"),
        Limits(memory_mb=300),
    ),
)
"""Targets of archives, shards and lists."""
