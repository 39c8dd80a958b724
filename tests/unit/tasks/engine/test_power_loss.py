"""What a lost power supply can leave (empty files, missing names) is found, and only what is missing is made again."""

import os
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from dataops.errors import StorageError
from dataops.snapshot import Draft
from dataops.store import FolderStore
from tasks.engine.context import TaskLimits
from tasks.engine.lease import find_holder
from tasks.engine.stage import Stage, StageOutput, make, plan, reuse
from tasks.train.stage import OUTPUT, TRAIN
from tests.inline_executor import inline_context
from tests.unit.tasks.engine.squares import SQUARES, SquareConfig, done
from training.config import TrainConfig


@pytest.fixture
def context(tmp_path):
    context = inline_context(FolderStore(tmp_path / "store"), tmp_path / "home")
    return replace(context, task_limits=TaskLimits(pause=0))


def squares(log, count=4):
    return plan(SQUARES, SquareConfig(log=str(log), count=count), 0, [])


def partial_snapshot(context, log):
    """Run a stage whose last part fails, after three finished ones."""
    Path(f"{log}.fail").touch()
    planned = squares(log)
    with pytest.raises(Exception, match="three failed"):
        make(planned, context)
    Path(f"{log}.fail").unlink()
    log.unlink()
    return planned, Path(context.store.uri) / "filter" / planned.key


@pytest.mark.parametrize(
    ("victim", "loss"),
    [("part-00001.parquet", "emptied"), ("part-00001.parquet", "gone"), ("_work/part-00001.json", "emptied")],
)
def test_make_repeats_only_the_lost_part_of_unfinished_work(context, tmp_path, victim, loss):
    log = tmp_path / "log"
    planned, folder = partial_snapshot(context, log)
    (folder / victim).unlink()
    if loss == "emptied":
        (folder / victim).touch()
    before = {n: (folder / f"part-{n:05d}.parquet").stat().st_ino for n in (0, 2)}
    manifest = make(planned, context)
    assert done(log) == [1, 3]
    assert {n: (folder / f"part-{n:05d}.parquet").stat().st_ino for n in (0, 2)} == before
    assert len(manifest.parts) == 4
    assert reuse(planned, replace(context, verify=True)) == manifest


def test_make_ignores_a_lease_file_that_is_empty(context, tmp_path):
    planned, folder = partial_snapshot(context, tmp_path / "log")
    (lease,) = (folder / "_work").glob("lease-*")
    lease.write_bytes(b"")
    assert find_holder(context.store, "filter", planned.key) is None
    assert len(make(planned, context).parts) == 4


def test_folder_store_syncs_the_folder_after_each_new_name(tmp_path, monkeypatch):
    """Check that a folder is synced after each new name in it, and its parent after a new folder."""
    synced = []
    real = os.fsync

    def fsync(descriptor):
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    store = FolderStore(tmp_path / "store")
    for write in (lambda: store.put("a/b/part", b"x"), lambda: store.create("a/b/manifest.json", b"y")):
        synced.clear()
        write()
        assert Path(synced[-2]).name.startswith(".tmp-")
        assert synced[-1] == str(store.root / "a" / "b")
    synced.clear()
    store.copy("a/b/part", "a/c/part")
    assert synced == [str(store.root / "a"), str(store.root / "a" / "c")]


def test_make_raises_a_retryable_error_when_an_input_snapshot_is_deleted(context, tmp_path):
    planned = squares(tmp_path / "log")
    make(planned, context)
    found = reuse(planned, context)

    def read(work):
        for part in work.inputs["filter"].parts:
            work.draft.store.local(work.inputs["filter"].path(part.name))
        return StageOutput([])

    below = Stage("curate", 1, read, conserves_rows=False)
    context.store.delete_tree(f"filter/{planned.key}")
    with pytest.raises(StorageError, match="no such object") as caught:
        make(plan(below, SquareConfig(), 0, [found]), context)
    assert (caught.value.exit_code, caught.value.retryable) == (75, True)
    assert reuse(planned, context) is None
    make(plan(below, SquareConfig(), 0, [make(planned, context)]), context)


def test_train_stage_does_not_repeat_a_training_that_was_killed_before_its_manifest(context, monkeypatch):
    trained = []

    def job(module, job, folder, **_):
        trained.append(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name in OUTPUT:
            (folder / name).write_text('{"step": 1}\n')
        (folder / "done.json").write_text('{"precision": "fp32"}')

    monkeypatch.setattr("tasks.train.stage.run_job", job)
    pack = make(
        plan(Stage("pack", 1, lambda work: StageOutput([]), conserves_rows=False), SquareConfig(), 0, []), context
    )
    planned = plan(TRAIN, TrainConfig(), 0, [pack])
    with monkeypatch.context() as killed:
        killed.setattr(Draft, "commit", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            make(planned, context)
    assert not trained[0].exists()
    manifest = make(planned, context)
    assert len(trained) == 1
    assert {part.name for part in manifest.parts} == set(OUTPUT)
