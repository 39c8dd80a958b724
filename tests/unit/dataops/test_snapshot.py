import pyarrow as pa
import pytest
import xxhash

from dataops.errors import SchemaError
from dataops.schema import PAIRS, conform, uid
from dataops.snapshot import (
    Draft,
    Input,
    Manifest,
    Part,
    Record,
    load_ancestors,
    snapshot_key,
)
from dataops.store import FolderStore
from tests.manifests import build_manifest


def manifest_of(draft, parts):
    return build_manifest(draft.stage, parts, key=draft.key, created_at="2026-01-01T00:00:00+00:00")


def table(*captions):
    rows = [{"uid": uid("http://a/", c), "url": "http://a/", "caption": c} for c in captions]
    return conform(pa.Table.from_pylist(rows, schema=None), PAIRS, "test")


def test_key_depends_only_on_content():
    base = ("filter", 1, {"a": 1, "b": [2]}, 0)
    key = snapshot_key(*base, [Input(stage="extract", key="k1", digest="d")])
    assert len(key) == 16
    assert int(key, 16) >= 0
    assert snapshot_key("filter", 1, {"b": [2], "a": 1}, 0, [Input(stage="extract", key="other", digest="d")]) == key
    changed = [
        ("curate", 1, {"a": 1, "b": [2]}, 0, "d"),
        ("filter", 2, {"a": 1, "b": [2]}, 0, "d"),
        ("filter", 1, {"a": 2, "b": [2]}, 0, "d"),
        ("filter", 1, {"a": 1, "b": [2]}, 1, "d"),
        ("filter", 1, {"a": 1, "b": [2]}, 0, "e"),
    ]
    keys = {snapshot_key(*c[:4], [Input(stage="extract", key="k1", digest=c[4])]) for c in changed}
    assert len(keys | {key}) == 6


def test_uid_is_the_hash_of_url_and_caption():
    assert uid("http://a/b.png", "a caption") == xxhash.xxh3_128(b"http://a/b.png\0a caption").hexdigest()


def test_commit_keeps_the_first_manifest_and_deletes_scratch_files(tmp_path):
    draft = Draft(FolderStore(tmp_path), "filter", "k")
    part = draft.put_bytes("part-00000.parquet", b"data", 1)
    draft.finish(Record(task="part-00000", parts=[part]))
    first = draft.commit(manifest_of(draft, [part]))
    second = draft.commit(manifest_of(draft, []))
    assert second == first
    assert draft.store.names("filter/k") == ["filter/k/manifest.json", "filter/k/part-00000.parquet"]


def test_ancestors_are_snapshots_and_not_the_sources_outside_the_store(tmp_path):
    store = FolderStore(tmp_path)
    site = Input(stage="source", key="http://my-site.test/", digest="0" * 64)
    extract = build_manifest("extract", inputs=[site])
    Draft(store, "extract", extract.key).commit(extract)
    above = Input(stage="extract", key=extract.key, digest=extract.content_digest)
    deleted = Input(stage="filter", key="1" * 16, digest="0" * 64)
    curate = build_manifest("curate", inputs=[above, deleted])
    assert load_ancestors(store, curate) == {"curate": curate, "extract": extract}


def test_conform_raises_for_a_table_that_breaks_the_schema():
    with pytest.raises(SchemaError, match="uid"):
        conform(pa.table({"url": ["x"]}), PAIRS, "here")
    with pytest.raises(SchemaError, match="source_offset"):
        conform(pa.table({"uid": ["0"], "source_offset": ["zero"]}), PAIRS, "here")


def test_summary_has_the_numbers_of_many_parts_and_the_pages():
    parts = [Part(name=f"{n:05d}{end}", rows=n, bytes=9, sha256="0" * 64) for n in range(5) for end in (".tar", ".idx")]
    page = Part(name="DATASET.md", rows=0, bytes=7, sha256="1" * 64)
    manifest = build_manifest("pack", [*parts, page])
    assert manifest.summarise(11) is manifest
    again = Manifest.decode(Manifest.decode(manifest.summarise(10).encode()).encode())
    assert (again.parts, again.key, again.counts) == ([page], manifest.key, manifest.counts)
    assert again.model_extra == {"left_out": {"parts": 10, "rows": 20, "bytes": 90}}
