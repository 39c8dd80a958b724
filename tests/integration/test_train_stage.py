"""The train stage over torchrun: a dataset on S3, larger than the disk for its shards, becomes a snapshot.

Its checkpoints are in the store while it trains.
"""

import json
from pathlib import Path

import pytest

from dataops.storage.s3 import S3Store
from tasks.engine.context import Context
from tasks.engine.stage import make, plan
from tasks.train.stage import TRAIN
from tests.trainings import VIT, dataset
from training.config import TRACE, TrainConfig

pytestmark = pytest.mark.timeout(240)


def test_train_makes_a_model_from_a_dataset_on_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3_server) -> None:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PAIRMILL_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "vit.json").write_text(json.dumps(VIT))
    store, checkpoints, most = S3Store("mill", f"train/{tmp_path.name}"), set(), [0]
    packs = dataset(store)
    largest = max(part.bytes for part in packs.named("", ".tar"))

    def progress(done: int, total: int, line: str) -> None:
        checkpoints.update(name.split("/")[-2] for name in store.names("train") if "/_work/checkpoints/" in name)
        (folder,) = (tmp_path / "home" / "jobs").glob("train-*/shards")
        most.append(len(list(folder.glob("*.tar"))))

    settings = {"model": str(tmp_path / "vit.json"), "epochs": 6, "batch_size": 8, "vocab_size": 300}
    more = {"threads": 1, "checkpoint_every": 2, "log_every": 1, "precision": "fp32"}
    more |= {"shuffle_shards": 2, "shard_cache_bytes": 4 * largest, "profile": 1, "tensorboard": str(tmp_path / "runs")}
    more |= {"max_bad_steps": 1, "schedule": "constant"}
    planned = plan(TRAIN, TrainConfig.model_validate(settings | more), 0, [packs])
    manifest = make(planned, Context(store=store, home=tmp_path / "home", progress=progress))
    evidence = {"evidence-throughput.jsonl", TRACE}
    assert {part.name for part in manifest.parts} >= {"model.safetensors", "metrics.jsonl", *evidence}
    assert manifest.facts["final"]["samples_seen"] < 6 * 24, "some samples take part in half of the epochs"
    assert manifest.facts["bad_steps"] == {"skipped": 0, "rollbacks": []}
    assert list((tmp_path / "runs" / f"train-{manifest.key}").glob("events.out.tfevents.*"))
    assert manifest.counts.kept == 24
    assert checkpoints, "the store has checkpoints during the training"
    assert 0 < max(most) <= 4
    assert not [name for name in store.names("train") if "/_work/" in name]
    throughput = [json.loads(line) for line in store.read(manifest.path("evidence-throughput.jsonl")).splitlines()]
    assert all(row["flops_per_second"] > 0 for row in throughput)
