"""A training with supplied shards makes the same bytes as one with all shards on its disk, within the limit of the disk."""

import hashlib
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import training.losses.contrastive as loss_module
from dataops.snapshot import Draft, Part
from dataops.store import FolderStore, Store
from tasks.train.shard_supply import ShardSupply
from tests.trainings import VIT, packed, process_state
from training.train import OUTPUTS, main

EACH = 10
__all__ = ["process_state"]  # a fixture
Dataset = tuple[Store, dict[str, Part]]


@pytest.fixture
def dataset(tmp_path: Path, process_state: None) -> Dataset:
    draft = Draft(FolderStore(tmp_path / "store"), "pack", "a" * 16)
    return draft.store, {f"pack/{draft.key}/{part.name}": part for part in packed(draft, 6, EACH)}


def size_of(dataset: Dataset, shards: int) -> int:
    return sum(sorted(part.bytes for name, part in dataset[1].items() if name.endswith(".tar"))[-shards:])


def job_of(dataset: Dataset, folder: Path, limit: int, **more: object) -> Path:
    """Write a job whose shards are supplied while it runs, or all present if `limit` is 0."""
    store, parts = dataset
    shards = folder / "shards"
    shards.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        if not limit or not name.endswith(".tar"):
            shutil.copyfile(store.local(name), shards / part.name)
    (folder / "vit.json").write_text(json.dumps(VIT))
    train = {"model": str(folder / "vit.json"), "epochs": 3, "batch_size": 7, "shuffle_shards": 2, "threads": 1}
    train |= {"precision": "fp32", "vocab_size": 300, "shard_cache_bytes": limit, "cache_bytes": 0, **more}
    tars = [part for name, part in parts.items() if name.endswith(".tar")]
    job = {"train": train, "shards": [str(shards / part.name) for part in tars], "output": str(folder / "out")}
    job |= {"arriving": {part.name: part.bytes for part in tars} if limit else {}}
    job |= {"checksums": {part.name: part.sha256 for part in tars}}
    (folder / "job.json").write_text(json.dumps(job))
    return folder / "job.json"


def read_outputs(folder: Path) -> dict[str, bytes]:
    return {name: (folder / "out" / name).read_bytes() for name in OUTPUTS}


def supply(dataset: Dataset, job: Path, limit: int) -> ShardSupply:
    tars = {part.name: (name, part) for name, part in dataset[1].items() if name.endswith(".tar")}
    return ShardSupply(dataset[0], tars, job.parent / "shards", limit)


@contextmanager
def measured_sizes(folder: Path) -> Iterator[list[int]]:
    """Measure the total size of the shards in a folder continuously; yields the list of the sizes, in bytes."""
    sizes, ended = [0], threading.Event()

    def measure() -> None:
        while not ended.wait(0.001):
            with suppress(FileNotFoundError), os.scandir(folder) as entries:  # a shard may be deleted meanwhile
                sizes.append(sum(e.stat().st_size for e in entries if ".tar" in e.name))

    thread = threading.Thread(target=measure)
    thread.start()
    try:
        yield sizes
    finally:
        ended.set()
        thread.join()


def record_files(names: list[Any]) -> Callable[..., Any]:
    """Return hashlib's function, which then adds each file that it hashes to a list."""
    compute = hashlib.file_digest
    return lambda file, name: (names.append(file), compute(file, name))[1]


def test_supplied_shards_make_the_same_model_when_the_training_is_interrupted_and_a_shard_damaged(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([str(job_of(dataset, tmp_path / "here", 0))]) == 0
    limit = size_of(dataset, 4)
    job = job_of(dataset, tmp_path / "come", limit)
    loss, calls = loss_module.contrastive_loss, []

    def stop_in_sixth_step(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(*arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(loss_module, "contrastive_loss", stop_in_sixth_step)
    with supply(dataset, job, limit), measured_sizes(job.parent / "shards") as sizes:
        assert main([str(job)]) == 75
    damaged, *whole = (job.parent / "shards").glob("*.tar")
    damaged.write_bytes(damaged.read_bytes()[::-1])
    hashed: list[Path] = []
    monkeypatch.setattr("dataops.digest.hashlib.file_digest", record_files(hashed))
    supply(dataset, job, limit)._delete_damaged()
    assert (len(hashed), damaged.exists()) == (1, False), "only the changed shard is hashed again"
    assert all(shard.exists() for shard in whole)
    with supply(dataset, job, limit), measured_sizes(job.parent / "shards") as later_sizes:
        assert main([str(job)]) == 0
    assert 0 < max(sizes + later_sizes) <= limit < size_of(dataset, 6)
    assert read_outputs(tmp_path / "come") == read_outputs(tmp_path / "here")
    assert len((tmp_path / "come/out/metrics.jsonl").read_text().splitlines()) == len(calls)


def test_job_ends_with_the_name_of_a_shard_that_is_damaged_or_missing(
    dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limit = size_of(dataset, 4)
    name = next(name for name in dataset[1] if name.endswith("00003.tar"))
    path = dataset[0].local(name)
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[::-1])
    job = job_of(dataset, tmp_path / "a", limit)
    with supply(dataset, job, limit):
        assert main([str(job)]) == 3
    assert f"shard {name} differs from the sha256 in its dataset's manifest" in caplog.text
    path.unlink()
    with supply(dataset, job, limit):
        assert main([str(job)]) == 75
    assert f"no such object: {path}" in caplog.text
