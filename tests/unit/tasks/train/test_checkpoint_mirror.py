"""Checkpoints in the store: complete, restored on another machine, and no effect on the training if the store fails."""

import json
from pathlib import Path

import pytest

from dataops.errors import StorageError
from dataops.snapshot import Draft
from dataops.store import FolderStore
from tasks.train.transfers import CheckpointMirror


def write_checkpoint(folder: Path, step: int, **state: int) -> Path:
    """Write the files of the trainer at a step, with one row of metrics for each step so far and one more."""
    path = folder / "checkpoints" / f"step-{step:06d}"
    path.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(f'{{"step":{n}}}\n' for n in range(1, step + 2)))
    metrics_bytes = len("".join(f'{{"step":{n}}}\n' for n in range(1, step + 1)))
    (path / "state.json").write_text(json.dumps({"step": step, "metrics_bytes": metrics_bytes, **state}))
    (path / "model.safetensors").write_bytes(b"weights %d" % step)
    (path / "manifest.json").write_text("{}")
    return path


@pytest.fixture
def draft(tmp_path: Path) -> Draft:
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
    tmp_path: Path,
    draft: Draft,
    options: dict[str, int],
    state: dict[str, int],
    written: tuple[int, ...],
    kept: set[int],
) -> None:
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


def test_mirror_logs_a_warning_and_continues_when_the_store_fails(
    tmp_path: Path, draft: Draft, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def put(self: FolderStore, name: str, data: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(FolderStore, "put", put)
    with CheckpointMirror(draft, tmp_path / "a", keep=2) as mirror:
        write_checkpoint(tmp_path / "a", 5)
        mirror.follow_log("checkpoint step-000005 is written")
    assert "step-000005 is not in the store (StorageError: the disk is full); training continues" in caplog.text
