"""Checkpoints in the store: complete, restored on another machine, and no effect on the training if the store fails."""

import json
import time

import pytest

from dataops.digest import file_sha256
from dataops.errors import StorageError
from dataops.snapshot import Draft
from dataops.store import FolderStore
from tasks.train.transfers import CheckpointMirror


def write_checkpoint(folder, step, **state):
    """Write the files of the trainer at a step, with one row of metrics for each step so far and one more."""
    path = folder / "checkpoints" / f"step-{step:06d}"
    path.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(f'{{"step":{n}}}\n' for n in range(1, step + 2)))
    metrics_bytes = len("".join(f'{{"step":{n}}}\n' for n in range(1, step + 1)))
    (path / "state.json").write_text(json.dumps({"step": step, "metrics_bytes": metrics_bytes, **state}))
    (path / "model.safetensors").write_bytes(b"weights %d" % step)
    write_manifest(path)
    return path


def write_manifest(path):
    files = sorted(file for file in path.iterdir() if file.name != "manifest.json")
    (path / "manifest.json").write_text(json.dumps({file.name: file_sha256(file) for file in files}))


@pytest.fixture
def draft(tmp_path):
    return Draft(FolderStore(tmp_path / "store"), "train", "0" * 16)


@pytest.mark.parametrize(
    ("options", "state", "written", "kept"),
    [
        ({"keep": 2}, {}, (5, 10, 15), {10, 15}),
        ({"keep": 1, "rollback_every": 10}, {}, (5, 10, 15, 20, 23), {10, 20, 23}),  # the newest may be that of SIGTERM
        ({"keep": 1}, {"best": 10}, (5, 10, 15, 20), {10, 20}),
    ],
)
def test_mirror_keeps_and_restores_the_newest_checkpoints_and_those_that_are_needed(
    tmp_path,
    draft,
    options,
    state,
    written,
    kept,
):
    with CheckpointMirror(draft, tmp_path / "a", **options) as mirror:
        assert mirror.restore() is None
        for step in written:
            write_checkpoint(tmp_path / "a", step, **state)
            mirror.follow_log(f"checkpoint step-{step:06d} is written")
            mirror._copies[-1].result()
    names = {f"step-{step:06d}" for step in kept}
    assert {name.split("/")[-2] for name in draft.store.names(draft.scratch("checkpoints"))} == names
    with CheckpointMirror(draft, tmp_path / "b", **options) as mirror:
        assert mirror.restore() == max(names)
        assert mirror.restore() is None
    found = {path.name: path for path in (tmp_path / "b" / "checkpoints").iterdir()}
    assert found.keys() == ({max(names)} if options == {"keep": 2} else names)
    for name, path in found.items():
        original = tmp_path / "a" / "checkpoints" / name
        assert {p.name: p.read_bytes() for p in path.iterdir()} == {p.name: p.read_bytes() for p in original.iterdir()}
    steps = [json.loads(line)["step"] for line in (tmp_path / "b" / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, max(kept) + 1))


def test_mirror_logs_a_warning_and_continues_when_the_store_fails(tmp_path, draft, monkeypatch, caplog):
    def put(self, name, data):
        raise StorageError("the disk is full")

    monkeypatch.setattr(FolderStore, "put", put)
    with CheckpointMirror(draft, tmp_path / "a", keep=2) as mirror:
        write_checkpoint(tmp_path / "a", 5)
        mirror.follow_log("checkpoint step-000005 is written")
    assert "step-000005 is not in the store (StorageError: the disk is full); training continues" in caplog.text


def test_checkpoint_counts_when_all_nodes_have_copied_their_parts(tmp_path, draft):
    """The parts of an attempt before lie in the store, with other bytes."""
    folders = [tmp_path / "0", tmp_path / "1"]
    for folder in folders:
        checkpoint = write_checkpoint(folder, 5)
        for part in ("model-1", "model-2"):
            (checkpoint / part).write_text(f"new {part}")
        write_manifest(checkpoint)
    (folders[0] / "checkpoints" / "step-000005" / "model-2").unlink()
    for name in ("model-1", "model.safetensors"):
        (folders[1] / "checkpoints" / "step-000005" / name).unlink()
    old = draft.scratch("checkpoints/step-000005/")
    draft.store.put(f"{old}model-2", b"old")
    draft.store.put(f"{old}node-1.json", b'{"model-2": "of other bytes"}')
    with CheckpointMirror(draft, folders[0], 2) as first, CheckpointMirror(draft, folders[1], 2, node=1) as second:
        first.follow_log("checkpoint step-000005 is written")
        time.sleep(0.3)
        assert CheckpointMirror(draft, tmp_path / "new", 2).restore() is None, "a half one does not count"
        second.follow_log("checkpoint step-000005 is written")
    for folder in (tmp_path / "new", folders[0]):  # a new node, and one that has its own part
        assert CheckpointMirror(draft, folder, 2).restore() == "step-000005"
        found = folder / "checkpoints" / "step-000005"
        texts = {path.name: path.read_text() for path in found.iterdir() if path.name.startswith("model")}
        assert texts == {"model-1": "new model-1", "model-2": "new model-2", "model.safetensors": "weights 5"}
        assert len((folder / "metrics.jsonl").read_text().splitlines()) == 5
