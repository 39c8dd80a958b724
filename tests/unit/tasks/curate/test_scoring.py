"""Curate with scores: columns, rules, and what enters the key."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from dataops.schema import CURATED, dropped
from dataops.snapshot import Manifest, read_parts
from dataops.store import FolderStore
from tasks.curate.config import CurateConfig
from tasks.curate.scores import clip as score_clip
from tasks.curate.stage import CURATE
from tasks.engine.context import Context
from tasks.engine.stage import make, plan
from tests.inline_executor import InlineExecutor
from tests.unit.tasks.raw_images import blocks, downloaded, jpeg, pair, some_pairs
from training import score as score_job
from training.config import ModelConfig
from training.model.checkpoint import save_model
from training.model.clip import CLIP
from training.model.preprocess import Preprocess
from training.model.tokenizer import train_tokenizer

VIT = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 300, "width": 32, "heads": 2, "layers": 1},
}
LEFT = 15
"""Of the 20 planted pairs, those that are healthy and no duplicates."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer(["a red house", "caption 7"], 280, 16)
    torch.manual_seed(0)
    config = ModelConfig.model_validate(VIT).with_vocab_size(tokenizer.vocab_size)
    save_model(folder, CLIP(config), tokenizer, Preprocess(32))
    return folder


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many shards each job was given; jobs and workers run in this process."""
    shards: list[int] = []

    def in_process(module: str, job: dict[str, Any], folder: Path, *, on_line: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "job.json").write_text(json.dumps(job))
        assert score_job.main([str(folder / "job.json")]) == 0
        shards.append(len(job["shards"]))

    monkeypatch.setattr(score_clip, "run_job", in_process)
    return shards


def pairs() -> list[dict[str, Any]]:
    return [row | {"language": "de" if n % 4 == 0 else "en"} for n, row in enumerate(some_pairs())]


def curated(
    store: FolderStore, rows: list[dict[str, Any]], checkpoint: Path, size: int = 7, *rules: dict[str, Any]
) -> Manifest:
    values = {"scores": {"clip_score": {"model": str(checkpoint)}, "device": "cpu"}, "rules": rules}
    planned = plan(CURATE, CurateConfig.model_validate(values), 0, [downloaded(store, rows, size)])
    return make(planned, Context(store, store.root, pool=InlineExecutor()))


def rows_of(store: FolderStore, made: Manifest) -> dict[str, dict[str, Any]]:
    kept, lost = read_parts(store, made), read_parts(store, made, "dropped-")
    assert kept.schema == CURATED
    assert lost.schema == dropped(CURATED)
    return {row["uid"]: row for table in (kept, lost) for row in table.to_pylist()}


def test_scores_are_columns_of_what_is_left_and_rules_drop_by_them(tmp_path: Path, checkpoint: Path) -> None:
    store = FolderStore(tmp_path)
    everything = curated(store, pairs(), checkpoint)
    rows = rows_of(store, everything)
    scores = {uid: row["clip_score"] for uid, row in rows.items() if row["clip_score"] is not None}
    assert len(scores) == LEFT == everything.counts.kept
    assert all(rows[uid].get("drop_reason") is None for uid in scores)
    assert {row["drop_reason"] for row in rows.values() if row["clip_score"] is None} >= {"truncated", "too_small"}
    facts = everything.facts["scores"]["clip_score"]
    assert (facts["scored"], facts["missing"], facts["model"]) == (LEFT, 0, str(checkpoint))
    assert [facts["scorer"]] == [i.digest for i in everything.inputs if i.stage == "scorer"]
    assert facts["quantiles"]["1"] == pytest.approx(max(scores.values()))

    made = curated(store, pairs(), checkpoint, 7, {"score": "clip_score", "top_fraction": 0.4})
    assert made.counts.kept == 6
    best = sorted(scores, key=lambda uid: (-scores[uid], uid))[:6]
    after = rows_of(store, made)
    assert {uid for uid, row in after.items() if row.get("drop_reason") is None} == set(best)
    assert {uid: row["clip_score"] for uid, row in after.items() if row["clip_score"] is not None} == scores
    worst = [row for row in after.values() if row.get("drop_reason") == "clip_score_not_top"]
    assert len(worst) == made.counts.dropped["clip_score_not_top"] == LEFT - 6
    assert {row["drop_stage"] for row in worst} == {"curate"}


def test_the_same_rows_stay_on_any_partition_by_language_too(tmp_path: Path, checkpoint: Path) -> None:
    rule = {"score": "clip_score", "top_fraction": 0.5, "by": "language"}
    found = []
    for size in (1, 7, 100):
        store = FolderStore(tmp_path / str(size))
        found.append(rows_of(store, curated(store, pairs(), checkpoint, size, rule)))
    keep = ("clip_score", "drop_reason")
    first, *others = [{uid: [row.get(name) for name in keep] for uid, row in rows.items()} for rows in found]
    assert all(other == first for other in others)
    kept = [row["language"] for row in found[0].values() if row.get("drop_reason") is None]
    languages = [row["language"] for row in found[0].values() if row["clip_score"] is not None]
    for language in ("de", "en"):
        assert kept.count(language) == -(-languages.count(language) // 2)


def test_another_rule_or_a_grown_dataset_scores_only_what_is_new(
    tmp_path: Path, checkpoint: Path, asked: list[int]
) -> None:
    store = FolderStore(tmp_path)
    curated(store, pairs(), checkpoint)
    assert asked == [3]
    curated(store, pairs(), checkpoint, 7, {"score": "clip_score", "min": 0.0})
    curated(store, pairs(), checkpoint, 11)
    assert asked == [3]
    more = [pair(f"y{n}", f"caption {n}", jpeg(blocks(300 + n))) for n in range(2)]
    made = curated(store, pairs() + more, checkpoint, 100)
    assert asked == [3, 1]
    assert made.facts["scores"]["clip_score"]["scored"] == LEFT + 2


def test_the_model_enters_the_key_and_its_place_does_not(tmp_path: Path, checkpoint: Path) -> None:
    raw = downloaded(FolderStore(tmp_path / "store"), pairs(), 100)

    def key(model: Path, **more: Any) -> str:
        scores = {"clip_score": {"model": str(model)}, **more}
        return plan(CURATE, CurateConfig.model_validate({"scores": scores}), 0, [raw]).key

    moved = tmp_path / "moved"
    moved.mkdir()
    for path in checkpoint.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    assert key(moved) == key(checkpoint) == key(checkpoint, device="cuda")
    assert key(checkpoint) != plan(CURATE, CurateConfig(), 0, [raw]).key
    weights = bytearray((moved / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (moved / "model.safetensors").write_bytes(weights)
    assert key(moved) != key(checkpoint)


def test_a_rule_over_a_score_that_is_not_computed_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"\[curate\.scores\.nsfw\] missing"):
        CurateConfig.model_validate({"rules": [{"score": "nsfw", "max": 0.5}]})


def test_without_scores_nothing_is_asked(tmp_path: Path, asked: list[int]) -> None:
    store = FolderStore(tmp_path)
    made = make(
        plan(CURATE, CurateConfig(), 0, [downloaded(store, pairs(), 7)]),
        Context(store, tmp_path, pool=InlineExecutor()),
    )
    assert {row["clip_score"] for row in rows_of(store, made).values()} == {None}
    assert asked == []
    assert made.facts == {}
    assert not store.names("scores")
