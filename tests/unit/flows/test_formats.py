"""A store of a newer version of pairmill: nothing of it is misread, rewritten or deleted."""

import json
import logging

import pytest

from dataops.formats import RELEASE, NewerFormat
from dataops.snapshot import MANIFEST, Draft, Manifest, find_manifest
from dataops.store import open_store
from flows.records import RunRecord, list_runs, load_run
from tests.manifests import build_manifest

NAME = "runs/mine-20260101T000000-abcd.json"
RECORD = {"run_id": "mine-20260101T000000-abcd", "name": "mine", "created_at": "2026-01-01T00:00:00", "config": {}}


def put(folder, **fields):
    open_store(str(folder)).put(NAME, json.dumps(RECORD | fields).encode())


@pytest.mark.parametrize("fields", [{}, {"state": "asleep"}, {"attempts": "none", "stages": None}])
def test_a_newer_record_is_named_with_the_version_that_reads_it(tmp_path, caplog, fields):
    retention = pytest.importorskip("plugins.retention.command")
    put(tmp_path, schema_version=2, release="0.9.1", **fields)
    store, home = open_store(str(tmp_path)), tmp_path / "home"
    with caplog.at_level(logging.WARNING):
        assert list_runs(home, str(tmp_path)) == []
    (line,) = caplog.messages
    assert line.startswith("1 run is not listed: ")
    assert f"format 2, and pairmill {RELEASE} reads formats up to 1: use pairmill 0.9.1 or newer" in line
    with pytest.raises(NewerFormat, match=r"use pairmill 0\.9\.1"):
        load_run(RECORD["run_id"], home, str(tmp_path))
    with pytest.raises(NewerFormat):
        RunRecord(**RECORD).save(store)
    assert json.loads(store.read(NAME))["schema_version"] == 2, "it is not overwritten"
    with pytest.raises(NewerFormat, match=r"use pairmill 0\.9\.1"):
        retention.Roots(store, retention.Policy(0))()


def test_unknown_fields_of_the_same_format_are_kept(tmp_path):
    put(tmp_path, priority=3, attempts=[{"started_at": "2026-01-01", "host": "h", "pid": 1, "cores": 8}])
    record, store = load_run(RECORD["run_id"], tmp_path / "home", str(tmp_path))
    record.begin()
    record.save(store)
    value = json.loads(store.read(NAME))
    assert (value["priority"], value["attempts"][0]["cores"]) == (3, 8)


@pytest.mark.parametrize("changes", [{"parts": {}}, {"counts": 3}, {}])
def test_a_newer_manifest_is_refused_and_never_deleted(tmp_path, changes):
    retention = pytest.importorskip("plugins.retention.command")
    store, manifest = open_store(str(tmp_path)), build_manifest("pack", key="a" * 16)
    value = manifest.model_dump(mode="json") | {"schema_version": Manifest.newest_format + 1} | changes
    value["code"] = {"release": "1.2.0"}
    store.put(manifest.path(MANIFEST), json.dumps(value).encode())
    for read in (lambda: find_manifest(store, "pack", "a" * 16), lambda: retention.plan_deletions(store, {})):
        with pytest.raises(NewerFormat, match=r"use pairmill 1\.2\.0 or newer"):
            read()


def test_a_manifest_keeps_fields_that_this_version_does_not_know(tmp_path):
    manifest = build_manifest("pack", key="a" * 16)
    newer = Manifest.model_validate(manifest.model_dump(mode="json") | {"index": {"sha256": "x"}})
    again = Manifest.decode(Manifest.decode(newer.encode()).encode())
    assert json.loads(again.model_dump_json())["index"] == {"sha256": "x"}
    draft = Draft(open_store(str(tmp_path)), "pack", "a" * 16)
    assert draft.commit(again) == find_manifest(draft.store, "pack", "a" * 16)


@pytest.mark.parametrize("damaged", [b"", b"null", b"[1]", b'{"schema_version": "2"}', b"[" * 100_000])
def test_damaged_objects_are_no_newer_ones(damaged):
    with pytest.raises(ValueError, match=r".") as caught:
        Manifest.decode(damaged)
    assert not isinstance(caught.value, NewerFormat)
