"""The train stage over torchrun: a dataset in the store becomes a snapshot, with checkpoints in the store on the way."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from dataops.shards import ShardWriter, index_text
from dataops.snapshot import Counts, Draft, Manifest, content_digest
from dataops.store import FolderStore
from tasks.stage import Context, make, plan
from tasks.train import TRAIN
from tests.unit.training.conftest import VIT, jpeg
from training.config import TrainConfig

pytestmark = pytest.mark.timeout(240)


def dataset(store: FolderStore) -> Manifest:
    draft, index, file = Draft(store, "pack", "a" * 16), [], io.BytesIO()
    writer = ShardWriter(file)
    for number in range(24):
        members = {"jpg": jpeg(number), "txt": f"thing {number}".encode(), "json": b"{}"}
        index.append(writer.write(f"{number:06d}", members))
    writer.close()
    parts = [
        draft.put_bytes("00000.tar", file.getvalue(), 24),
        draft.put_bytes("00000.idx", index_text(index).encode(), 24),
    ]
    fields: dict[str, Any] = {"inputs": [], "config": {}, "facts": {}, "code": {}, "seed": 0}
    return Manifest(
        stage="pack", stage_version=1, key=draft.key, parts=parts, counts=Counts(input=24, kept=24),
        content_digest=content_digest(parts), created_at="2026-01-02T03:04:05+00:00", **fields,
    )  # fmt: skip


def test_a_dataset_becomes_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "vit.json").write_text(json.dumps(VIT))
    store, seen = FolderStore(tmp_path / "store"), set()

    def progress(done: int, total: int, line: str) -> None:
        seen.update(name.split("/")[-2] for name in store.names("train") if "/_work/checkpoints/" in name)

    settings = {"model": str(tmp_path / "vit.json"), "epochs": 12, "batch_size": 8, "vocab_size": 300}
    more = {"threads": 1, "checkpoint_every": 2, "log_every": 1, "precision": "fp32"}
    planned = plan(TRAIN, TrainConfig.model_validate(settings | more), 0, [dataset(store)])
    manifest = make(planned, Context(store=store, home=tmp_path / "home", progress=progress))
    assert {part.name for part in manifest.parts} >= {"model.safetensors", "metrics.jsonl", "evidence-throughput.jsonl"}
    assert manifest.facts["final"]["step"] == 36
    assert manifest.counts.kept == 24
    assert seen, "checkpoints are in the store while training goes on"
    assert not [name for name in store.names("train") if "/_work/" in name]
    throughput = [json.loads(line) for line in store.read(manifest.path("evidence-throughput.jsonl")).splitlines()]
    assert all(row["flops_per_second"] > 0 for row in throughput)
