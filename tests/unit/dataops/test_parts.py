"""Manifests of many parts: a small object and a table, which is read by column and by range of names."""

import io
import json

import pyarrow.parquet as pq
import pytest

from dataops.errors import CorruptPart
from dataops.parquet import encode_table
from dataops.parts import GROUP, MANY_PARTS, Part
from dataops.snapshot import MANIFEST, Draft, find_manifest, load_manifest
from tests.manifests import build_manifest
from tests.memory_store import MemoryStore

KEY = "0" * 16


def list_parts(shards):
    names = [name for number in range(shards) for name in (f"{number:05d}.tar", f"part-{number:05d}.parquet")]
    return [
        Part(name=name, rows=1, bytes=3, sha256=name.rjust(64, "0"), home=f"pack/{'a' * 16}" if "7." in name else "")
        for name in sorted(names)
    ]


@pytest.fixture(scope="module")
def large():
    store, parts = MemoryStore(), list_parts(MANY_PARTS)
    Draft(store, "pack", KEY).commit(build_manifest("pack", parts))
    return store, parts


def copy_of(store):
    copied = MemoryStore()
    copied.objects = dict(store.objects)
    return copied, load_manifest(copied, "pack", KEY)


def test_manifest_is_small_and_its_table_has_the_parts(large):
    store, parts = large
    manifest = load_manifest(store, "pack", KEY)
    assert len(store.objects[f"pack/{KEY}/{MANIFEST}"]) < 1000
    assert [*manifest.parts] == parts
    assert (len(manifest.parts), manifest.parts[-1], manifest.parts[3:5]) == (len(parts), parts[-1], parts[3:5])
    listed = manifest.model_copy(update={"parts": parts, "table": None})
    for prefix, suffix in (("", ""), ("part-", ".parquet"), ("", ".tar"), ("part-00017", ""), ("q", ""), ("", ".idx")):
        assert manifest.named(prefix, suffix) == listed.named(prefix, suffix)
    assert manifest.homes == listed.homes
    assert manifest.path("00007.tar") == f"pack/{'a' * 16}/00007.tar"
    assert json.loads(manifest.model_dump_json())["parts"] == json.loads(listed.model_dump_json())["parts"]
    summary = manifest.summarise()
    assert (summary.parts, summary.table, summary.model_extra["left_out"]["parts"]) == ([], None, len(parts))


def test_only_row_groups_with_the_names_are_decoded(large):
    store, manifest = copy_of(large[0])
    name = manifest.parts.path
    damaged = bytearray(store.objects[name])
    with pq.ParquetFile(io.BytesIO(damaged)) as file:
        assert file.metadata.row_group(0).num_rows == GROUP
        column = file.metadata.row_group(0).column(3)
        damaged[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    store.objects[name] = bytes(damaged)
    assert [part.name for part in manifest.named("part-09999")] == ["part-09999.parquet"]
    assert manifest.homes
    with pytest.raises(CorruptPart, match="is damaged"):
        manifest.named("00001")


def test_each_object_is_compared_with_the_table(large):
    store, parts = copy_of(large[0])[0], large[1]
    for part in parts:
        store.objects[f"{part.home or f'pack/{KEY}'}/{part.name}"] = b"abc"
    assert find_manifest(store, "pack", KEY) is not None
    store.requests.clear()
    find_manifest(store, "pack", KEY)
    assert store.requests.total() <= len(parts) / 500 + 20
    store.objects[f"pack/{KEY}/part-00003.parquet"] = b"ab"
    with pytest.raises(CorruptPart, match=r"part-00003\.parquet has 2 bytes, but 3"):
        find_manifest(store, "pack", KEY)


def test_replaced_manifest_takes_its_table_with_it(large):
    (store, manifest), parts = copy_of(large[0]), large[1]
    draft = Draft(store, "pack", KEY)
    draft.replace(manifest.model_copy(update={"seed": 1}))
    assert len(store.objects) == 2
    assert load_manifest(store, "pack", KEY).parts == manifest.parts
    draft.replace(manifest.model_copy(update={"parts": parts[1:]}))
    assert len(store.objects) == 2
    changed = load_manifest(store, "pack", KEY)
    assert [*changed.parts] == parts[1:]
    draft.replace(changed.model_copy(update={"parts": parts[:3]}))
    assert [*store.objects] == [f"pack/{KEY}/{MANIFEST}"]
    assert load_manifest(store, "pack", KEY).parts == parts[:3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: None, "is missing"),
        (lambda table: table.slice(1), "another size"),
        (lambda table: table.rename_columns(["no", *table.column_names[1:]]), "not the table"),
        (lambda table: table.set_column(0, table.schema.field(0), [["../x"] * len(table)]), "not valid"),
    ],
)
def test_table_that_is_none_is_named(large, change, message):
    store, manifest = copy_of(large[0])
    name = manifest.parts.path
    table = change(pq.read_table(io.BytesIO(store.objects.pop(name))))
    if table is not None:
        store.objects[name] = encode_table(table, GROUP).to_pybytes()
        size = manifest.table.model_copy(update={"bytes": len(store.objects[name])})
        update = {"table": size} if message != "another size" else {}
        store.objects[f"pack/{KEY}/{MANIFEST}"] = manifest.model_copy(update=update).encode()
    with pytest.raises(CorruptPart, match=message):
        [*load_manifest(store, "pack", KEY).parts]
