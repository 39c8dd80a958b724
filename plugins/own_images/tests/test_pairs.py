"""`kind = "pairs"` through the extract stage."""

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataops.errors import ConfigError, SourceError
from dataops.schema import PAIRS, dropped_schema, uid
from dataops.snapshot import read_parts
from dataops.store import FolderStore
from plugins.own_images.pairs import PairsSource
from tasks.engine.stage import make, plan
from tasks.extract.stage import EXTRACT
from tasks.files.find import find_files
from tests.inline_executor import inline_context


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    """Retry failed tasks without a pause."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def extract(folder, *paths, **config):
    source = PairsSource(paths=[str(path) for path in paths], **config)
    context = inline_context(FolderStore(folder / "store"), folder)
    return make(plan(EXTRACT, source, 0, []), context)


def laion(path, rows=10, row_group=4):
    table = pa.table(
        {
            "URL": [f"http://img.example/{i}.jpg" for i in range(rows - 1)] + [None],
            "TEXT": [f"caption number {i}" for i in range(rows)],
            "similarity": [i / 10 for i in range(rows)],
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=row_group)
    return path


def test_extract_writes_pairs_of_lists_in_several_formats(tmp_path):
    laion(tmp_path / "lists" / "a.parquet")
    (tmp_path / "lists" / "b.tsv").write_text("http://img.example/x.jpg\ta\tb\n")
    (tmp_path / "lists" / "c[1].tsv").write_text("http://img.example/x.jpg\tA  cat\nhttp://img.example/y.jpg\n")
    store = FolderStore(tmp_path / "store")
    paths = [str(tmp_path / "lists" / name) for name in ("a.parquet", "c[1].tsv")]
    manifest = extract(tmp_path, *paths)
    assert manifest.counts.model_dump() == {"input": 11, "kept": 10, "dropped": {"no_url": 1}}
    assert manifest.facts["read"] == {"rows": 11}
    assert manifest.facts["damaged"] == [["c[1].tsv", 1, "wrong_fields"]]
    kept, dropped_rows = read_parts(store, manifest), read_parts(store, manifest, "dropped-")
    assert kept.schema.equals(PAIRS)
    assert dropped_rows.schema.equals(dropped_schema(PAIRS))
    rows = [*kept.to_pylist(), *dropped_rows.to_pylist()]
    assert all(row["uid"] == uid(row["url"], row["caption"]) for row in rows)
    assert {(r["source"], r["caption_source"], r["extracted_with"], r["extra"], r["page_url"]) for r in rows} == {
        ("a.parquet", "pair_list", "pairmill-pairs/2", None, None),
        ("c[1].tsv", "pair_list", "pairmill-pairs/2", None, None),
    }
    assert kept["source_offset"].to_pylist() == [*range(9), 0]
    with pytest.raises(ConfigError, match=r"b\.tsv: has no header"):
        extract(tmp_path, tmp_path / "lists" / "b.tsv")
    (tmp_path / "lists" / os.fsdecode(b"\xff.tsv")).write_text("")
    assert find_files([str(tmp_path / "lists/*.tsv")])[1] == [
        r"paths: the name '\udcff.tsv' is not UTF-8; rename the file"
    ]


def test_extract_splits_a_long_parquet_list_into_parts_with_the_same_rows(tmp_path):
    path = str(laion(tmp_path / "a.parquet"))
    store = FolderStore(tmp_path / "store")
    whole = extract(tmp_path, path, extra_columns=("similarity",))
    split = extract(tmp_path, path, extra_columns=("similarity",), rows_per_part=5)
    assert [part.rows for part in split.named("part-")] == [4, 4, 1]
    assert [part.rows for part in split.named("dropped-")] == [0, 0, 1]
    assert read_parts(store, split).equals(read_parts(store, whole))
    assert [json.loads(extra) for extra in read_parts(store, split)["extra"].to_pylist()][3] == {"similarity": 0.3}


def test_lists_without_a_usable_row_are_named(tmp_path, caplog):
    split = laion(tmp_path / "split.parquet", 5, 4)  # its second row group has no URL
    tables = {"empty": {"url": [], "text": []}, "nulls": {"url": [None], "text": [None]}}
    for name, table in tables.items():
        pq.write_table(
            pa.table(table, pa.schema([("url", pa.string()), ("text", pa.string())])), tmp_path / f"{name}.parquet"
        )
    (tmp_path / "header.csv").write_text("url,caption\n")
    paths = [split, *(tmp_path / f"{name}.parquet" for name in tables), tmp_path / "header.csv"]
    assert extract(tmp_path, *paths, rows_per_part=4).counts.kept == 4
    assert "extract: no usable row in empty.parquet, header.csv, nulls.parquet\n" in caplog.text


def test_further_captions_of_a_list_are_rows_with_their_kind(tmp_path):
    (tmp_path / "lists").mkdir()
    rows = [
        {"url": "http://img.example/a.jpg", "caption": "A red  kite", "tags": "kite, sky", "note": "Seen from below"},
        {"url": "http://img.example/b.jpg", "caption": "", "tags": None, "note": " "},
        {"url": "no url", "caption": "A dog", "tags": "dog", "note": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "lists" / "a.parquet")
    (tmp_path / "lists" / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    paths = [str(tmp_path / "lists" / "*")]
    more = {"keywords": "tags", "description": "note"}
    manifest = extract(tmp_path, *paths, more_captions=more)
    assert manifest.counts.model_dump() == {"input": 12, "kept": 6, "dropped": {"bad_url": 4, "no_caption": 2}}
    store = FolderStore(tmp_path / "store")
    kept = read_parts(store, manifest).to_pylist()
    for file in ("a.parquet", "c.jsonl"):
        found = {row["caption_source"]: row["caption"] for row in kept if row["source"] == file}
        assert found == {"pair_list": "A red kite", "keywords": "kite, sky", "description": "Seen from below"}
    assert all(row["uid"] == uid(row["url"], row["caption"]) for row in kept)
    assert {row["source_offset"] for row in kept} == {0}, "each names the row of the list"
    swapped = PairsSource(paths=paths, more_captions={"description": "note", "keywords": "tags"})
    assert plan(EXTRACT, swapped, 0, []).key == manifest.key


def test_lists_of_keywords_are_joined_and_other_types_are_refused(tmp_path):
    table = {"url": ["http://img.example/a.jpg"], "text": ["A red kite"], "tags": [["kite", " ", "sky"]], "size": [3]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    path = tmp_path / "a.parquet"
    manifest = extract(tmp_path, path, more_captions={"keywords": "tags"})
    assert "kite, sky" in read_parts(FolderStore(tmp_path / "store"), manifest)["caption"].to_pylist()
    with pytest.raises(SourceError, match="column 'size' has the type int64, not text"):
        extract(tmp_path, path, more_captions={"keywords": "size"})
    with pytest.raises(ConfigError, match=r"no column 'nowhere'.*source.more_captions.keywords"):
        extract(tmp_path, path, more_captions={"keywords": "nowhere"})
