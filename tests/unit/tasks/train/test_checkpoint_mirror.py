"""Checkpoints in the store: the newest is whole, a machine that lacks it gets it, and no failure stops a training."""

import json
from pathlib import Path

import pytest

from dataops.errors import StorageError
from dataops.snapshot import Draft
from dataops.store import FolderStore
from tasks.train.checkpoint_mirror import CheckpointMirror


def checkpoint(folder: Path, step: int) -> Path:
    """What the trainer leaves at a step, with a line of metrics for each step so far and one more."""
    path = folder / "checkpoints" / f"step-{step:06d}"
    path.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(f'{{"step":{n}}}\n' for n in range(1, step + 2)))
    held = len("".join(f'{{"step":{n}}}\n' for n in range(1, step + 1)))
    (path / "state.json").write_text(json.dumps({"step": step, "metrics_bytes": held}))
    (path / "model.safetensors").write_bytes(b"weights %d" % step)
    (path / "manifest.json").write_text("{}")
    return path


@pytest.fixture
def draft(tmp_path: Path) -> Draft:
    return Draft(FolderStore(tmp_path / "store"), "train", "0" * 16)


def test_another_machine_goes_on_from_the_newest(tmp_path: Path, draft: Draft) -> None:
    with CheckpointMirror(draft, tmp_path / "a", keep=2) as mirror:
        assert mirror.restore() is None
        for step in (5, 10, 15):
            checkpoint(tmp_path / "a", step)
            mirror.see(f"checkpoint step-{step:06d} is written")
            mirror._copies[-1].result()
        mirror.see("step 16/20, 160 samples")
    names = draft.store.names(draft.scratch("checkpoints"))
    assert {name.split("/")[-2] for name in names} == {"step-000010", "step-000015"}
    with CheckpointMirror(draft, tmp_path / "b", keep=2) as mirror:
        assert mirror.restore() == "step-000015"
        assert mirror.restore() is None
    made, was = (tmp_path / name / "checkpoints" / "step-000015" for name in "ba")
    assert {p.name: p.read_bytes() for p in made.iterdir()} == {p.name: p.read_bytes() for p in was.iterdir()}
    steps = [json.loads(line)["step"] for line in (tmp_path / "b" / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 16))


def test_a_checkpoint_that_is_not_whole_in_the_store_is_not_fetched(tmp_path: Path, draft: Draft) -> None:
    with CheckpointMirror(draft, tmp_path / "a", keep=2) as mirror:
        checkpoint(tmp_path / "a", 5)
        mirror.see("checkpoint step-000005 is written")
    draft.store.delete([draft.scratch("checkpoints/step-000005/manifest.json")])
    assert CheckpointMirror(draft, tmp_path / "b", keep=2).restore() is None


def test_a_store_that_fails_stops_no_training(
    tmp_path: Path, draft: Draft, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(self: FolderStore, name: str, data: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(FolderStore, "put", full)
    with CheckpointMirror(draft, tmp_path / "a", keep=2) as mirror:
        checkpoint(tmp_path / "a", 5)
        mirror.see("checkpoint step-000005 is written")
    assert "step-000005 is not in the store (StorageError: the disk is full); training goes on" in caplog.text
