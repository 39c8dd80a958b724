"""A registered model is downloaded when there is no copy, and its copy is held while a process uses it."""

import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from dataops.storage.cached_files import delete_unheld
from tasks.models import find
from tasks.models.packaging import MODEL_FILES


def test_copy_of_a_registered_model_is_held_and_made_again_when_it_was_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = SimpleNamespace(name="clip", version="1", creation_timestamp=5)
    downloads: list[Path] = []

    def download(uri: str, folder: Path) -> None:
        assert uri == "models:/clip/1"
        folder.mkdir(parents=True)
        for name in MODEL_FILES:
            (folder / name).write_text(name)
        downloads.append(folder)

    monkeypatch.setattr(find, "download_version", download)
    monkeypatch.setattr(find.tracking, "connect", lambda: SimpleNamespace(get_model_version=lambda *_: version))
    monkeypatch.setattr(find.tracking, "mlflow_errors", nullcontext)
    monkeypatch.setattr(find.tracking, "tracking_uri", lambda: "http://127.0.0.1:5000")
    found = find.find_model("clip/1", tmp_path)
    assert find.find_model("models:/clip/1", tmp_path) == found
    assert downloads == [found.path]
    assert not delete_unheld(found.path)
    shutil.rmtree(found.path)  # by somebody else
    assert find.find_model("clip/1", tmp_path) == found
    assert downloads == [found.path] * 2
    assert not delete_unheld(found.path)
