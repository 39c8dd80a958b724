"""`pairmill export`: models by folder and by key, refusals, and that a failure leaves no files."""

import errno
import json
import shutil
from importlib import import_module

import pytest

from dataops.errors import ConfigError
from dataops.snapshot import Counts, Draft
from dataops.store import FolderStore
from plugins.export.command import export
from tasks.models.export import PART
from tasks.register.documents import describe_snapshot
from tests.manifests import build_manifest


def put_model(folder, tmp_path):
    draft = Draft(FolderStore(tmp_path / "store"), "train", "0123456789abcdef")
    parts = [draft.put_file(path.name, path) for path in sorted(folder.iterdir())]
    draft.commit(build_manifest("train", parts, key=draft.key))
    return draft


def test_export_writes_the_same_files_for_a_folder_and_a_snapshot(finished_model, tmp_path, read_json, monkeypatch):
    def in_process(module, job, folder, **_):
        folder.mkdir(parents=True)
        (folder / "job.json").write_text(json.dumps(job))
        assert import_module(module).main([str(folder / "job.json")]) == 0

    monkeypatch.setattr("tasks.models.export.run_job", in_process)
    draft = put_model(finished_model, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfile", _fill_disk)
        with pytest.raises(OSError, match="No space left"):
            export(str(finished_model), format="open_clip", out=tmp_path / "a")
    assert not [*(tmp_path / "a").iterdir()]
    (tmp_path / "a" / PART).mkdir()  # of a killed export
    (tmp_path / "a" / PART / "model.safetensors").write_bytes(b"half")
    (tmp_path / "a" / "LICENSE").write_text("of the killed one")
    exported = {}
    for name, model in (("a", str(finished_model)), ("b", draft.key)):
        out = tmp_path / name
        assert export(model, format="open_clip", out=out, store=draft.store.uri, json=True) == 0
        report = read_json()
        assert [file["name"] for file in report["files"]] == sorted(path.name for path in out.iterdir())
        exported[name] = {path.name: path.read_bytes() for path in out.iterdir()}
    for name in ("README.md", "LICENSE"):
        assert all(b"has stated no licence" in one.pop(name) for one in exported.values())
    assert exported["a"] == exported["b"]
    assert {"open_clip_config.json", "open_clip_model.safetensors"} <= exported["a"].keys()
    with pytest.raises(ConfigError, match="is not empty"):
        export(str(finished_model), format="open_clip", out=tmp_path / "a")


def test_a_snapshot_is_exported_with_its_card_and_licences(tmp_path):
    store = FolderStore(tmp_path)
    licences = {"http://creativecommons.org/licenses/by/4.0/": 3, "": 5}
    counts = Counts(input=8, kept=8)
    pack = build_manifest("pack", key="a" * 16, counts=counts, facts={"licenses": licences})
    train = build_manifest("train", key="b" * 16, inputs=[pack.as_input()], config={"model": "ViT-Ti-16"})
    for manifest in (pack, train):
        Draft(store, manifest.stage, manifest.key).commit(manifest)
    documents = describe_snapshot(train, store)
    assert "CLIP ViT-Ti-16, trained on 8 pairs" in documents["README.md"]
    assert "Gate not evaluated" in documents["README.md"]
    assert "For 3 of 8 training pairs" in documents["LICENSE"]
    assert "3  http://creativecommons.org/licenses/by/4.0/" in documents["LICENSE"]


def _fill_disk(source, target):
    target.write_bytes(b"half")
    raise OSError(errno.ENOSPC, "No space left on device")


def _fail(*arguments, **options):
    raise AssertionError("a job was started, or a file copied")


def test_what_cannot_be_exported_is_refused_before_a_model_is_fetched_or_a_job_starts(
    finished_model, tmp_path, monkeypatch
):
    monkeypatch.setattr("tasks.models.export.run_job", _fail)
    sigmoid, other = tmp_path / "sigmoid", tmp_path / "other"
    card = json.loads((finished_model / "model.json").read_text())
    card |= {"init_logit_bias": -10.0}
    for folder in (sigmoid, other):
        shutil.copytree(finished_model, folder)
    (sigmoid / "model.json").write_text(json.dumps(card))
    (other / "model.json").unlink()
    draft = put_model(finished_model, tmp_path)
    monkeypatch.setattr(FolderStore, "local", _fail)
    for model, form, problem in (
        ("models:/never-asked-for/1", "caffe", "there is no 'caffe' among the exporters; there are hf, "),
        (str(finished_model), "hf", "no CLIP with a ResNet; export as open_clip or onnx"),
        (draft.key, "hf", "no CLIP with a ResNet; export as open_clip or onnx"),
        (str(sigmoid), "hf", "no logit_bias; export as open_clip"),
        (str(other), "open_clip", "has no model.json; name a model that pairmill has trained"),
        (str(finished_model / "model.safetensors"), "open_clip", "has no model.safetensors, model.json"),
    ):
        with pytest.raises(ConfigError, match=problem):
            export(model, format=form, out=tmp_path / "out", store=draft.store.uri)
    assert not (tmp_path / "out").exists()
