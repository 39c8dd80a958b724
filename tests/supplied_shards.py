"""A training whose shards arrive while it runs."""

import json
import shutil

import pytest

from dataops.snapshot import Draft, Part
from dataops.store import FolderStore, Store
from tasks.train.transfers import ShardSupply
from tests.trainings import VIT, packed

EACH = 10
Dataset = tuple[Store, dict[str, Part]]


@pytest.fixture
def dataset(tmp_path, process_state):
    draft = Draft(FolderStore(tmp_path / "store"), "pack", "a" * 16)
    return draft.store, {f"pack/{draft.key}/{part.name}": part for part in packed(draft, 6, EACH)}


def size_of(dataset, shards):
    return sum(sorted(part.bytes for name, part in dataset[1].items() if name.endswith(".tar"))[-shards:])


def job_of(dataset, folder, limit, **more):
    """Write a job whose shards are supplied while it runs, or all present if `limit` is 0."""
    store, parts = dataset
    shards = folder / "shards"
    shards.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        if not limit or not name.endswith(".tar"):
            shutil.copyfile(store.local(name), shards / part.name)
    (folder / "vit.json").write_text(json.dumps(VIT))
    train = {"model": str(folder / "vit.json"), "epochs": 3, "batch_size": 7, "shuffle_shards": 2, "threads": 1}
    train |= {
        "device": "cpu",
        "precision": "fp32",
        "vocab_size": 300,
        "shard_cache_bytes": limit,
        "cache_bytes": 0,
        **more,
    }
    tars = [part for name, part in parts.items() if name.endswith(".tar")]
    job = {"train": train, "shards": [str(shards / part.name) for part in tars], "output": str(folder / "out")}
    job |= {"arriving": {part.name: part.bytes for part in tars} if limit else {}}
    job |= {"checksums": {part.name: part.sha256 for part in tars}}
    (folder / "job.json").write_text(json.dumps(job))
    return folder / "job.json"


def supply(dataset, job, limit):
    tars = {part.name: (name, part) for name, part in dataset[1].items() if name.endswith(".tar")}
    return ShardSupply(dataset[0], tars, job.parent / "shards", limit)
