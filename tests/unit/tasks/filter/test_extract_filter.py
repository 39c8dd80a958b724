"""Runs extract and filter on a small archive, with real worker processes."""

from unittest.mock import Mock

import pytest

from dataops.errors import ContractError
from dataops.schema import FILTERED, PAIRS, dropped_schema
from dataops.schema import uid as uid_of
from dataops.snapshot import read_parts
from dataops.store import FolderStore
from tasks.engine.context import Context
from tasks.engine.stage import make, plan, reuse
from tasks.extract.sources.warc import WarcSource
from tasks.extract.stage import EXTRACT
from tasks.filter import stage as filter_stage
from tasks.filter.config import FilterConfig
from tasks.filter.stage import FILTER
from tests.crawl_pages import ANIMALS, CAT, DOG, PLACE_PAGES, write_warc
from tests.filter_runs import INLINE, with_sizes
from tests.inline_executor import PicklingExecutor

ENGLISH = FilterConfig(languages=["en"])


def context(store, pool=INLINE):
    return Context(store=FolderStore(store), home=store.parent, workers=1, pool=pool)


def both(store, paths, config=ENGLISH, pool=INLINE):
    at = context(store, pool)
    pairs = make(plan(EXTRACT, WarcSource(paths=paths), 0, []), at)
    return pairs, make(plan(FILTER, config, 0, [pairs]), at)


@pytest.fixture
def crawl(tmp_path):
    write_warc(tmp_path / "crawl" / "animals.warc.gz", ANIMALS)
    write_warc(tmp_path / "crawl" / "places.warc.gz", PLACE_PAGES)
    return tmp_path / "crawl"


def test_extract_and_filter_keep_and_drop_rows_with_reasons(crawl, tmp_path):
    pairs, kept = both(tmp_path / "store", [str(crawl / "*.warc.gz")])
    at = FolderStore(tmp_path / "store")
    assert pairs.counts.model_dump() == {
        "input": 15,
        "kept": 12,
        "dropped": {"data_url": 1, "no_caption": 1, "not_http": 1},
    }
    assert read_parts(at, pairs).schema.equals(PAIRS)
    assert read_parts(at, pairs, "dropped-").schema.equals(dropped_schema(PAIRS))
    dropped = read_parts(at, pairs, "dropped-").to_pylist()
    assert {row["drop_reason"]: row["url"] for row in dropped} == {
        "data_url": "data:image/png;base64,AAAA",
        "not_http": "javascript:x()",
        "no_caption": "http://pets.example/x.jpg",
    }
    assert {row["drop_stage"] for row in dropped} == {"extract"}
    assert pairs.facts["read"] == {"pages": 4, "records": 4}
    for row in [*dropped, *read_parts(at, pairs).to_pylist()]:
        assert row["uid"] == uid_of(row["url"], row["caption"])
        assert row["source"] in ("animals.warc.gz", "places.warc.gz")

    table = read_parts(at, kept)
    assert table.schema.equals(FILTERED)
    assert sorted(zip(table["url"].to_pylist(), table["caption"].to_pylist(), strict=True)) == [
        ("http://cdn.example/i/1.jpg", "The harbour of the old town in the evening"),
        ("http://pets.example/cat.png", CAT),
        ("http://pets.example/cow.jpg", "The old cow stands behind the fence"),
        ("http://pets.example/dog.jpg", DOG),
    ]
    assert set(table["language"].to_pylist()) == {"en"}
    assert kept.counts.dropped == {
        "duplicate_pair": 1,  # the dog in capitals
        "duplicate_uid": 2,  # the cat, three times
        "duplicate_url": 1,  # the dog's title
        "file_name": 1,
        "language": 1,
        "too_short": 1,
        "url_extension": 1,
    }
    assert read_parts(at, kept, "dropped-").schema.equals(dropped_schema(FILTERED))
    assert kept.facts["languages"] == {"en": 4}


def bytes_of(store, manifest):
    return {part.name: part.sha256 for part in manifest.parts}


def test_workers_and_stores_do_not_change_the_output(crawl, tmp_path):
    paths = [str(crawl / "*.warc.gz")]
    one = both(tmp_path / "one", paths)
    two = both(tmp_path / "two", list(reversed([str(p) for p in crawl.iterdir()])), pool=PicklingExecutor())
    for a, b in zip(one, two, strict=True):
        assert (a.key, a.content_digest, bytes_of(tmp_path, a)) == (b.key, b.content_digest, bytes_of(tmp_path, b))


def test_extract_reads_only_new_files_of_a_later_crawl(crawl, tmp_path):
    store = tmp_path / "store"
    first, _ = both(store, [str(crawl / "*.warc.gz")])
    old = {part.name: part for part in first.parts}
    write_warc(
        crawl / "aardvarks.warc.gz",
        {"http://aardvarks.example/": '<img src=1.jpg alt="An aardvark walks up the tree">'},
    )
    # What is copied is what the first snapshot holds: a mark in it shows in the second. Same size, other bytes.
    marked = store / "extract" / first.key / "part-00000.parquet"
    marked.write_bytes(marked.read_bytes()[:-8] + b"MARKMARK")
    second = make(plan(EXTRACT, WarcSource(paths=[str(crawl / "*.warc.gz")]), 0, []), context(store))
    assert second.key != first.key
    new = {part.name: part for part in second.parts}
    assert new["part-00001.parquet"].sha256 == old["part-00000.parquet"].sha256
    assert (store / "extract" / second.key / "part-00000.parquet").read_bytes()[-4:] == b"PAR1"  # aardvarks, extracted
    assert (store / "extract" / second.key / "part-00001.parquet").read_bytes()[-4:] == b"MARK"  # animals, copied
    assert second.counts.kept == first.counts.kept + 1
    # A part that is gone is extracted again.
    for snapshot in (first, second):
        (store / "extract" / snapshot.key / "part-00001.parquet").unlink()
    third = make(plan(EXTRACT, WarcSource(paths=[str(crawl / "places.warc.gz")]), 0, []), context(store))
    assert third.parts[1].sha256 == old["part-00001.parquet"].sha256


def test_filter_resumes_at_its_first_missing_part(crawl, tmp_path, monkeypatch):
    store = tmp_path / "store"
    paths = [str(crawl / "*.warc.gz")]
    one_part_each = with_sizes(1)
    pairs, whole = both(tmp_path / "whole", paths)
    pairs = make(plan(EXTRACT, WarcSource(paths=paths), 0, []), context(store))
    todo = plan(one_part_each, ENGLISH, 0, [pairs])
    with monkeypatch.context() as patched:
        patched.setattr(filter_stage, "check_kept_rows", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            make(todo, context(store))
    folder = store / "filter" / todo.key
    assert not (folder / "manifest.json").exists()
    (record,) = (folder / "_work").glob("write_parts-*-00001.json")
    record.unlink()
    before = {path.name: path.stat().st_ino for path in folder.glob("*.parquet")}
    assert make(todo, context(store)).content_digest == whole.content_digest
    redone = {path.name for path in folder.glob("*.parquet") if path.stat().st_ino != before[path.name]}
    assert redone == {"part-00001.parquet", "dropped-00001.parquet"}
    assert reuse(todo, context(store)) is not None


def test_filter_fails_with_the_drop_reasons_when_too_few_rows_are_kept(crawl, tmp_path):
    with pytest.raises(ContractError, match=r"(?s)keeps no row: 0 of 12 pairs.*too_few_words +10"):
        both(tmp_path / "store", [str(crawl / "*.warc.gz")], FilterConfig(min_words=150))
    with pytest.raises(ContractError, match=r"over max_drop_fraction: 4 of 12"):
        both(tmp_path / "store", [str(crawl / "*.warc.gz")], FilterConfig(languages=["en"], max_drop_fraction=0.5))
