"""Every format of pair list as other libraries write it, and the handling of broken rows and files."""

import csv
import gzip
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataops.errors import ConfigError, SourceError
from dataops.web.captions import normalise_caption
from dataops.web.urls import BadUrl, canonicalise_url
from plugins.own_images.list_rows import canonicalise_urls, normalise_captions
from plugins.own_images.lists import (
    BATCH_ROWS,
    ColumnNames,
    read_list,
    read_row_group_sizes,
)
from plugins.own_images.parquet_batches import BATCH_BYTES
from plugins.own_images.text_records import MAX_FIELD_CHARS

CAPTIONS = [
    "A brown dog runs over the wet beach",
    'She said "hello", and left',
    "Zwei Hunde\nspielen am Strand",
    "猫が日なたで眠っている",
    "  spaces,  commas; and 'quotes' ",
    "",
]
PAIRS = [(f"http://img.example/{i}/p.jpg?x={i}", CAPTIONS[i % len(CAPTIONS)]) for i in range(200)]


DEFAULT_NAMES = ColumnNames()


def read(path, configured=DEFAULT_NAMES, **options):
    reports = []
    rows = []
    for batch in read_list(path, configured, lambda row, why: reports.append((row, why)), **options):
        assert len(batch.numbers) <= BATCH_ROWS
        rows += zip(batch.numbers, batch.urls, batch.captions, strict=True)
    return rows, reports


def write_csv(path):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("URL", "TEXT"), *PAIRS])


def write_utf16(path):
    with path.open("w", newline="", encoding="utf-16") as file:
        csv.writer(file, lineterminator="\r\n").writerows([("url", "text"), *PAIRS])


def write_bom(path):
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([("Image URL", "extra", "Alt Text"), *((u, "x", c) for u, c in PAIRS)])


ONE_LINE = [(url, caption.replace("\n", " ")) for url, caption in PAIRS]


def write_cc12m(path):
    path.write_bytes(gzip.compress("".join(f"{u}\t{c}\n" for u, c in ONE_LINE).encode()) * 2)  # two members


def write_cc3m(path):
    path.write_text("".join(f"{c}\t{u}\r\n" for u, c in ONE_LINE), encoding="utf-8", newline="")


def write_jsonl(path):
    text = "".join(json.dumps({"similarity": 0.3, "text": c, "url": u}) + "\n" for u, c in PAIRS)
    path.write_bytes(pa.compress(text.encode(), "zstd", asbytes=True))


def write_semicolons(path):
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, delimiter=";").writerows([("URL", "TEXT"), *PAIRS])


def write_views(path):
    texts = [pa.array(column, pa.string_view()) for column in zip(*PAIRS, strict=True)]
    pq.write_table(pa.table([*texts, pa.nulls(200), pa.nulls(200, pa.int64())], ["url", "text", "n", "page_url"]), path)


def write_parquet(path):
    columns = {"key": ["0"] * 200, "url": [u for u, _ in PAIRS], "caption": [c for _, c in PAIRS]}
    pq.write_table(pa.table(columns), path, row_group_size=64, compression="zstd")


@pytest.mark.parametrize(
    ("name", "write", "written"),
    [
        ("laion.csv", write_csv, PAIRS),
        ("utf16.csv", write_utf16, PAIRS),
        ("bom.CSV", write_bom, PAIRS),
        ("cc12m.tsv.gz", write_cc12m, ONE_LINE * 2),
        ("cc3m.tsv", write_cc3m, ONE_LINE),
        ("datacomp.jsonl.zst", write_jsonl, PAIRS),
        ("img2dataset.parquet", write_parquet, PAIRS),
        ("spreadsheet.csv", write_semicolons, PAIRS),
        ("views.parquet", write_views, PAIRS),
    ],
)
def test_read_list_returns_what_other_libraries_wrote_in_each_format(tmp_path, name, write, written):
    write(tmp_path / name)
    assert read(tmp_path / name) == ([(number, *pair) for number, pair in enumerate(written)], [])


def test_read_list_skips_only_bad_rows_of_csv(tmp_path):
    lines = [
        b"url,caption",
        b"http://a.example/0.jpg,fine",
        b"http://a.example/1.jpg,one,too many",
        b"",
        b"http://a.example/2.jpg,\xff\xfe broken",
        b'http://a.example/3.jpg,"good" bad',
        b'http://a.example/4.jpg,"two\nlines, and a ""quote"""',
        b"http://a.example/5.jpg,nul \x00 within",
        b"http://a.example/6.jpg," + b"x" * (MAX_FIELD_CHARS + 1),
        b'http://a.example/7.jpg,"nothing closes this',
        b"http://a.example/8.jpg,still read",
        b",no address",
    ]
    (tmp_path / "bad.csv").write_bytes(b"\n".join(lines))
    rows, reports = read(tmp_path / "bad.csv")
    assert rows == [
        (0, "http://a.example/0.jpg", "fine"),
        (4, "http://a.example/4.jpg", 'two\nlines, and a "quote"'),
        (5, "http://a.example/5.jpg", "nul \0 within"),
        (8, "http://a.example/8.jpg", "still read"),
        (9, "", "no address"),
    ]
    assert sorted(reports) == [
        (1, "wrong_fields"),
        (2, "not_utf8"),
        (3, "bad_quotes"),
        (6, "field_too_long"),
        (7, "bad_quotes"),
    ]


def test_read_list_skips_only_bad_lines_of_json(tmp_path):
    lines = [
        b'{"url": "http://a.example/0.jpg", "n": NaN}',
        b'{"url": "http://a.example/1.jpg", ',
        b'["http://a.example/2.jpg", "a list"]',
        b"",
        b'{"url": 4, "text": "a number"}',
        b'{"url": "http://a.example/5.jpg", "text": ["a", "list"]}',
        b'{"text": "no address"}',
        b'{"url": "http://a.example/7.jpg", "text": "\xff"}',
        b'{"text": "other order", "url": "http://a.example/8.jpg", "more": {}, "page_url": "http://b.example/"}',
        b'{"url": "http://a.example/9.jpg", "text": "\\ud83d", "n": NaN}',
        b'{"url": "http://a.example/10.jpg", "n": [NaN, ' + b"[" * 100_000,
    ]
    (tmp_path / "bad.jsonl").write_bytes(b"\r\n".join(lines))
    rows, reports = read(tmp_path / "bad.jsonl")
    assert rows == [
        (0, "http://a.example/0.jpg", None),
        (6, None, "no address"),
        (8, "http://a.example/8.jpg", "other order"),
    ]
    assert reports == [
        (1, "bad_json"),
        (2, "not_an_object"),
        (4, "url_not_text"),
        (5, "caption_not_text"),
        (7, "bad_json"),
        (9, "bad_json"),
        (10, "bad_json"),
    ]
    [batch] = read_list(tmp_path / "bad.jsonl", DEFAULT_NAMES, lambda *_: None)
    assert batch.pages == [None, None, "http://b.example/"]


def test_read_list_keeps_the_types_of_extra_columns(tmp_path):
    table = pa.table(
        {
            "url": ["http://a.example/0.jpg", "http://a.example/1.jpg"],
            "text": ["a", "b"],
            "similarity": pa.array([0.25, float("nan")], pa.float64()),
            "n": pa.array([1, None], pa.int64()),
            "tags": [["x", "y"], []],
            "raw": pa.array([b"\xff", b"ok"], pa.binary()),
            "page_url": ["http://b.example/", None],
            "when": pa.array([10**18, 0], pa.timestamp("us")),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    configured = ColumnNames(extra=("similarity", "N", "tags", "raw"))
    [batch] = read_list(tmp_path / "a.parquet", configured, lambda *_: None)
    assert [json.loads(extra or "") for extra in batch.extras] == [
        {"similarity": 0.25, "n": 1, "tags": ["x", "y"], "raw": "\ufffd"},
        {"similarity": None, "n": None, "tags": [], "raw": "ok"},
    ]
    assert batch.pages == ["http://b.example/", None]
    with pytest.raises(SourceError, match=r"a.parquet: cannot be read .*out of range"):
        list(read_list(tmp_path / "a.parquet", ColumnNames(extra=("when",)), lambda *_: None))
    write_csv(tmp_path / "a.csv")
    [batch] = read_list(tmp_path / "a.csv", ColumnNames(extra=("url",)), lambda *_: None)
    assert json.loads(batch.extras[0] or "") == {"URL": PAIRS[0][0]}


@pytest.mark.parametrize(
    ("name", "text", "configured", "message"),
    [
        (
            *("a.csv", "link,words\nx,y\n", ColumnNames()),
            r"no column named url.*; no column named text.*'link', 'words'.*source\.url_column and source\.caption_column",
        ),
        ("a.csv", "url,text,caption\nx,y,z\n", ColumnNames(), r"several.*source\.caption_column"),
        ("a.csv", "url,text\nx,y\n", ColumnNames(url="adress"), r"no column 'adress'; its columns: 'url', 'text'"),
        ("a.csv", "url,text\nx,y\n", ColumnNames(extra=("score",)), r"no column 'score'.*source\.extra_columns"),
        ("a.csv", "url,text\nx,y\n", ColumnNames(caption="url"), r"are both 'url'"),
        ("a.tsv", "http://a\thttp://b\n", ColumnNames(), r"no header.*positions, counted from 0"),
        ("a.tsv", "http://a\tb\n", ColumnNames(extra=("c",)), r"no header.*no source\.extra_columns"),
        ("a.jsonl", '{"url": "x", "text": "y"}\n', ColumnNames(url=0), r"0 is a position, but the columns have names"),
    ],
)
def test_read_list_lists_the_columns_and_the_remedy_when_columns_are_not_found(
    tmp_path, name, text, configured, message
):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        read(tmp_path / name, configured)


@pytest.mark.parametrize("name", ["a.parquet", "a.csv.gz", "a.jsonl.zst", "empty.parquet", "empty.csv", "empty.jsonl"])
def test_read_list_raises_an_error_with_the_file_name_for_a_broken_file(tmp_path, name):
    if name == "a.parquet":
        write_parquet(tmp_path / name)
    elif name == "a.csv.gz":
        (tmp_path / name).write_bytes(gzip.compress(b"url,text\n" + b"http://a.example/1.jpg,one\n" * 5000))
    else:
        (tmp_path / name).write_bytes(b"")
        if name == "a.jsonl.zst":
            write_jsonl(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(SourceError, match=name):
        read(tmp_path / name)


def canonicalise_or_reason(url, max_chars):
    try:
        return canonicalise_url(url or "", "", max_chars), None
    except BadUrl as bad:
        return None, bad.reason


PIECES = "http:// https:// HTTP:// a.b EXAMPLE.com xn--bcher-kva.de 1.2.3.4 [::1] :80 :8080 / // . .. /./ /../ %2e"
PIECES += " %2E%2e % %41 ? # @ ü 日本 a-b_c ~x ' \" < \\ &amp; ; | [ ] ^ ` { } \t \0"
URLISH = st.lists(st.one_of(st.sampled_from([*PIECES.split(" "), " ", "a" * 41]), st.text(max_size=4)), max_size=9).map(
    "".join
)


@given(st.lists(st.one_of(st.none(), URLISH, URLISH.map("http://img.example/".__add__)), min_size=1, max_size=20))
def test_canonicalise_urls_equals_canonicalise_url_for_each(urls):
    urls = [None if url is None else url.encode("utf-8", "ignore").decode() for url in urls]
    result, reasons = canonicalise_urls(urls, 60)
    for url, got, reason in zip(urls, result, reasons, strict=True):
        expected, expected_reason = canonicalise_or_reason(url, 60)
        assert reason == expected_reason
        assert reason or got == expected


@given(st.lists(st.one_of(st.none(), st.text(max_size=30)), min_size=1, max_size=20))
def test_normalise_captions_equals_normalise_caption_for_each(captions):
    captions = [None if c is None else c.encode("utf-8", "ignore").decode() for c in captions]
    assert normalise_captions(captions, 20) == [normalise_caption(c or "", 20) for c in captions]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv.gz", "a.parquet"])
def test_a_named_pipe_is_no_list(tmp_path, name):
    os.mkfifo(tmp_path / name)
    for read_pipe in (read, read_row_group_sizes):
        with pytest.raises(SourceError, match="not a regular file"):
            read_pipe(tmp_path / name)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "dictionary", "plain"])
def test_read_list_bounds_the_text_of_a_batch(tmp_path, kind):
    captions = ["a cat " * 20_000] * (BATCH_BYTES // 100_000)
    urls = [f"http://h.example/{n}.jpg" for n in range(len(captions))]
    if kind == "csv":
        path = tmp_path / "long.csv"
        path.write_text("".join(f"{url},{caption}\n" for url, caption in zip(urls, captions, strict=True)))
    elif kind == "jsonl":
        path = tmp_path / "long.jsonl"
        rows = zip(urls, captions, strict=True)
        path.write_text("".join(json.dumps({"url": url, "caption": caption}) + "\n" for url, caption in rows))
    else:
        path, options = tmp_path / "long.parquet", {"dictionary_pagesize_limit": 1 << 28}
        table = pa.table({"url": urls, "caption": captions})
        pq.write_table(table, path, compression="zstd", use_dictionary=kind == "dictionary", **options)
    batches = list(read_list(path, ColumnNames(), pytest.fail))
    assert [n for batch in batches for n in batch.numbers] == list(range(len(captions)))
    assert [url for batch in batches for url in batch.urls] == urls
    assert max(sum(map(len, batch.captions)) for batch in batches) <= BATCH_BYTES + 2 * len(captions[0])
