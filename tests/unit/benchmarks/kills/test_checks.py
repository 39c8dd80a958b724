"""Test that the checks of benchmarks/chaos.py find what a killed writer leaves."""

import time
from pathlib import Path

from benchmarks.kills import checks
from benchmarks.kills.loop import _age, _kind
from dataops.snapshot import Part
from dataops.storage.s3 import S3Store
from dataops.store import FolderStore
from tests.manifests import build_manifest

KEY = "0" * 16


def test_find_leftovers_yields_what_no_manifest_names(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    manifest = build_manifest("pack", [Part(name="part-00000.parquet", rows=1, bytes=1, sha256="0" * 64)])
    store.put(f"pack/{KEY}/manifest.json", manifest.model_dump_json().encode())
    for name in (f"pack/{KEY}/part-00000.parquet", "runs/a.json", "extract/by-source/b.json"):
        store.put(name, b"x")
    (tmp_path / "tmp" / "torchinductor_root").mkdir(parents=True)
    assert list(checks.find_leftovers(store, tmp_path / "home", tmp_path / "tmp")) == []
    for name in (f"pack/{KEY}/part-00001.parquet", f"pack/{KEY}/_work/lease-00001.json", "_probe/c", "train/d/e"):
        store.put(name, b"x")
    (store.root / "runs" / ".tmp-f").touch()
    (tmp_path / "home" / "jobs" / "train-d").mkdir(parents=True)
    assert set(checks.find_leftovers(store, tmp_path / "home", tmp_path / "tmp")) == {
        f"store: pack/{KEY}/part-00001.parquet",
        f"store: pack/{KEY}/_work",
        "store: _probe/c",
        "store: train/d/e",
        "store: runs/.tmp-f",
        "home: jobs/train-d",
    }


def test_find_leftovers_yields_unfinished_uploads(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(S3Store, "entries", lambda self, prefix: [])
    monkeypatch.setattr(checks, "list_uploads", lambda store: ["store-1/train/d/model.safetensors"])
    monkeypatch.setenv("PAIRMILL_HOME", str(tmp_path))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    found = checks.find_leftovers(S3Store("chaos", "store-1"), tmp_path, tmp_path / "tmp")
    assert list(found) == ["store: upload of store-1/train/d/model.safetensors"]


def test_gc_is_given_half_written_records_of_an_age_that_it_deletes(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.put("runs/a.json", b"x")
    (tmp_path / "runs" / ".tmp-b").touch()
    _age(tmp_path)
    assert store.sweep("", older_than_seconds=86_400) == 1
    assert store.names("") == ["runs/a.json"]
    assert (tmp_path / "runs" / "a.json").stat().st_mtime > time.time() - 43_200


def test_leftovers_are_counted_by_kind() -> None:
    lines = {
        "temporary/pairmill-scratch-site-files-nqbs74q7": "temporary: pairmill-scratch-site-files",
        "store: runs/.tmp-gekkmaq5": "store: .tmp",
        "store: train/b1b0aee7f8a4d715/_work": "store: _work",
        "store: upload of store-2/train/b0/optimizer.safetensors": "store: upload of optimizer.safetensors",
        "home: jobs/train-b1b0aee7f8a4d715": "home: train",
    }
    assert {line: _kind(line) for line in lines} == lines
