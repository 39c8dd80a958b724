"""`pairmill export`: models by folder and by key, refusals, and that a failure leaves no files."""

import json
from pathlib import Path

import pytest

from dataops.errors import ConfigError
from dataops.snapshot import Draft
from dataops.store import FolderStore
from flows.commands.export import export
from tests.manifests import build_manifest


def test_export_writes_the_same_files_for_a_folder_and_a_snapshot(
    finished_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = FolderStore(tmp_path / "store")
    draft = Draft(store, "train", "0123456789abcdef")
    parts = [draft.put_file(path.name, path) for path in sorted(finished_model.iterdir())]
    draft.commit(build_manifest("train", parts, key=draft.key))
    exported = {}
    for name, model in (("a", str(finished_model)), ("b", draft.key)):
        out = tmp_path / name
        assert export(model, "open_clip", out, tmp_path / "home", str(tmp_path / "store"), as_json=True) == 0
        report = json.loads(capsys.readouterr().out)
        assert [file["name"] for file in report["files"]] == sorted(path.name for path in out.iterdir())
        assert f"local-dir:{out}" in report["use"]
        exported[name] = {path.name: path.read_bytes() for path in out.iterdir()}
    assert exported["a"] == exported["b"]
    assert {"open_clip_config.json", "open_clip_model.safetensors"} <= exported["a"].keys()
    with pytest.raises(ConfigError, match="is not empty"):
        export(str(finished_model), "open_clip", tmp_path / "a", tmp_path / "home", None, as_json=True)


def test_export_leaves_no_files_when_the_form_does_not_fit(finished_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no CLIP with a ResNet"):
        export(str(finished_model), "hf", tmp_path / "out", tmp_path / "home", None, as_json=True)
    assert not (tmp_path / "out").exists()


def test_export_raises_for_an_unknown_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"no such file or folder.*; it is not the key"):
        export("fedcba9876543210", "hf", tmp_path / "out", tmp_path / "home", str(tmp_path / "store"), as_json=True)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI is not set"):
        export("models:/clip/3", "hf", tmp_path / "out", tmp_path / "home", str(tmp_path / "store"), as_json=True)
