"""Compares the index with a search of all rows."""

import io
import random
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataops.schema import CAPTIONS, uid
from dataops.trace import index as trace_index
from dataops.trace.index import IndexFile, RowPosition, hash_url, parse_hex, reverse_host
from dataops.trace.targets import Target, matched_targets, matching_rows, parse_host, parse_target

HOSTS = ["a.example", "www.a.example", "cdn.www.a.example", "aa.example", "example", "b.example:8080", "xa.example"]


def captions(draw: random.Random) -> list[dict[str, str | None]] | None:
    """Return further captions of a row."""
    if draw.random() < 0.5:
        return None
    pages = [None if draw.random() < 0.3 else f"http://{draw.choice(HOSTS)}/other" for _ in range(draw.randrange(3))]
    return [{"uid": f"{draw.getrandbits(128):032x}", "page_url": page} for page in pages]


def table(seed: int, rows: int) -> pa.Table:
    draw = random.Random(seed)
    urls = [f"http://{draw.choice(HOSTS)}/{draw.randrange(rows // 2)}.jpg" for _ in range(rows)]
    hashes = [None if draw.random() < 0.2 else f"{draw.getrandbits(64):016x}" for _ in range(rows)]
    return pa.table(
        {
            "uid": [uid(url, str(n)) for n, url in enumerate(urls)],
            "url": urls,
            "page_url": [None if draw.random() < 0.3 else f"http://{draw.choice(HOSTS)}/page" for _ in range(rows)],
            "sha256": [None if h is None else h * 4 for h in hashes],
            "phash": hashes,
            "captions": pa.array([captions(draw) for _ in range(rows)], CAPTIONS.type),
        }
    )


@pytest.fixture(scope="module", autouse=True)
def _small_row_groups() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace_index, "ROW_GROUP", 64)
        yield


@pytest.fixture(scope="module")
def parts() -> list[pa.Table]:
    return [table(seed, 300) for seed in range(3)]


@pytest.fixture(scope="module")
def files(parts: list[pa.Table]) -> dict[str, bytes]:
    indexed = [trace_index.build_entries(number, part) for number, part in enumerate(parts)]
    written: dict[str, bytes] = {}
    for kind in trace_index.KINDS:
        out = io.BytesIO()
        trace_index.write_index([entries[kind] for entries in indexed], out)
        written[kind] = out.getvalue()
    return written


def search_rows(parts: list[pa.Table], target: Target) -> list[RowPosition]:
    return [
        RowPosition(n, int(row)) for n, part in enumerate(parts) for row in matching_rows(part, [target]).nonzero()[0]
    ]


def test_index_finds_the_same_rows_as_a_full_search(parts: list[pa.Table], files: dict[str, bytes]) -> None:
    index = {kind: IndexFile(io.BytesIO(data)) for kind, data in files.items()}
    for row in parts[1].slice(0, 40).to_pylist():
        assert index["uid"].find_equal(parse_hex(row["uid"])) == search_rows(parts, Target("uid", row["uid"]))
        either = {*index["url"].find_equal(hash_url(row["url"])), *index["page_url"].find_equal(hash_url(row["url"]))}
        assert sorted(either) == search_rows(parts, Target("url", row["url"]))
        if row["sha256"]:
            assert index["sha256"].find_equal(parse_hex(row["sha256"])) == search_rows(
                parts, Target("sha256", row["sha256"])
            )
    for domain in ("a.example", "example", "www.a.example", "b.example", "no.example"):
        assert index["host"].find_below(reverse_host(domain)) == search_rows(parts, Target("domain", domain)), domain


def test_matched_targets_are_those_with_a_matching_row(parts: list[pa.Table]) -> None:
    rows = parts[0].slice(0, 150).to_pylist()
    others = [Target("domain", host) for host in (*HOSTS, "ample", "no.example")]
    others += [Target("phash", rows[5]["phash"] or "0" * 16, bits) for bits in (0, 20)]
    for row in [*rows[:40], *parts[1].to_pylist()[:40]]:
        others += [Target("uid", row["uid"]), Target("url", row["url"])]
        others += [Target("url", row["page_url"])] if row["page_url"] else []
        others += [Target("sha256", row["sha256"]), Target("phash", row["phash"], 3)] if row["phash"] else []
    expected = {target for target in others if matching_rows(parts[0].slice(0, 150), [target]).any()}
    assert set(others) > expected > set()
    assert matched_targets(rows, others) == expected
    assert matched_targets([{"url": row["url"]} for row in rows], others) == {
        target for target in others if matching_rows(parts[0].slice(0, 150).select(["url"]), [target]).any()
    }


@pytest.mark.parametrize("bits", [0, 3, 20])
def test_find_near_finds_all_rows_within_the_distance(
    parts: list[pa.Table], files: dict[str, bytes], bits: int
) -> None:
    phash = f"{int(parts[0]['phash'].drop_null()[5].as_py(), 16) ^ 0b101:016x}"
    found = IndexFile(io.BytesIO(files["phash"])).find_near(parse_hex(phash), bits)
    assert sorted(position for position, _ in found) == search_rows(parts, Target("phash", phash, bits))
    assert [apart for _, apart in found] == sorted(apart for _, apart in found)


def test_write_index_gives_the_same_bytes_for_any_order_of_entries(
    parts: list[pa.Table], files: dict[str, bytes]
) -> None:
    indexed = [trace_index.build_entries(number, part) for number, part in enumerate(parts)]
    out = io.BytesIO()
    trace_index.write_index([entries["url"] for entries in reversed(indexed)], out)
    assert out.getvalue() == files["url"]


def test_a_look_up_reads_one_row_group(files: dict[str, bytes], parts: list[pa.Table]) -> None:
    metadata = pq.ParquetFile(io.BytesIO(files["uid"])).metadata
    index = IndexFile(io.BytesIO(files["uid"]))
    key = parse_hex(parts[0]["uid"][0].as_py())
    assert metadata.num_row_groups > 5
    assert len(list(index._groups(key, key))) == 1


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("a" * 32, Target("uid", "a" * 32)),
        ("B" * 64, Target("sha256", "b" * 64)),
        ("phash:0123456789ABCDEF~4", Target("phash", "0123456789abcdef", 4)),
        ("HTTP://User:pw@Example.ORG/a b", Target("url", "http://example.org/a%20b")),
        (" *.Example.org. ", Target("domain", "example.org")),
        ("domain:bücher.example", Target("domain", "xn--bcher-kva.example")),
    ],
)
def test_parse_target_recognises_kinds(text: str, target: Target) -> None:
    assert parse_target(text) == target
    assert parse_target(str(target)) == target


@pytest.mark.parametrize(
    "text", ["", "abc", "domain:a/b.c", "com", "domain:com", "uid:xyz", "http://", "phash:1~2", "a b.c"]
)
def test_parse_target_refuses_other_text(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_target(text)


def test_parse_host_returns_the_host_of_a_url() -> None:
    assert parse_host("https://a.example:81/x?y@b.example") == "a.example"
    assert parse_host(None) is None
