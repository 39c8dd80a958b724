"""Run curate with scores: their columns, their rules, and the key."""

import json

import pyarrow as pa
import pytest

from dataops.schema import CURATED, dropped_schema
from dataops.snapshot import read_parts
from dataops.store import FolderStore
from plugins.scores import job as score_job
from plugins.scores import scorers as score_clip
from tasks.curate.config import CurateConfig, Units
from tasks.curate.stage import CURATE
from tasks.engine.stage import make, plan
from tests.inline_executor import inline_context
from tests.small_model import write_model
from tests.unit.tasks.raw_images import downloaded, some_pairs

REMAINING = 15
"""Number of the 20 pairs that are healthy and no duplicates."""


@pytest.fixture(autouse=True)
def job_sizes(monkeypatch):
    """Run jobs and workers in this process; return the number of shards of each job."""
    shards = []

    def in_process(module, job, folder, *, on_line):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "job.json").write_text(json.dumps(job))
        assert score_job.main([str(folder / "job.json")]) == 0
        shards.append(len(job["shards"]))

    monkeypatch.setattr(score_clip, "run_job", in_process)
    return shards


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


def pairs():
    return [row | {"language": "de" if n % 4 == 0 else "en"} for n, row in enumerate(some_pairs())]


def curate_pairs(
    store,
    rows,
    checkpoint,
    size=7,
    *rules,
    batch_rows=1 << 17,
):
    values = {"scores": {"clip_score": {"model": str(checkpoint)}, "device": "cpu"}, "rules": rules}
    config = CurateConfig.model_validate(values).with_units(Units(batch_rows))
    planned = plan(CURATE, config, 0, [downloaded(store, rows, size)])
    return make(planned, inline_context(store, store.root))


def rows_of(store, manifest):
    kept, dropped = read_parts(store, manifest), read_parts(store, manifest, "dropped-")
    schema = CURATED.append(pa.field("clip_score", pa.float32()))
    assert kept.schema == schema
    assert dropped.schema == dropped_schema(schema)
    return {row["uid"]: row for table in (kept, dropped) for row in table.to_pylist()}


def test_remaining_rows_have_scores_and_rules_drop_by_them(tmp_path, checkpoint):
    store = FolderStore(tmp_path)
    everything = curate_pairs(store, pairs(), checkpoint)
    rows = rows_of(store, everything)
    scores = {uid: row["clip_score"] for uid, row in rows.items() if row["clip_score"] is not None}
    assert len(scores) == REMAINING == everything.counts.kept
    assert all(rows[uid].get("drop_reason") is None for uid in scores)
    assert {row["drop_reason"] for row in rows.values() if row["clip_score"] is None} >= {"truncated", "too_small"}
    facts = everything.facts["scores"]["clip_score"]
    assert (facts["scored"], facts["missing"], facts["model"]) == (REMAINING, 0, str(checkpoint))
    assert [facts["scorer"]] == [i.digest for i in everything.inputs if i.stage == "scorer"]
    assert facts["quantiles"]["1"] == pytest.approx(max(scores.values()))

    manifest = curate_pairs(store, pairs(), checkpoint, 7, {"score": "clip_score", "top_fraction": 0.4})
    assert manifest.counts.kept == 6
    best = sorted(scores, key=lambda uid: (-scores[uid], uid))[:6]
    after = rows_of(store, manifest)
    assert {uid for uid, row in after.items() if row.get("drop_reason") is None} == set(best)
    assert {uid: row["clip_score"] for uid, row in after.items() if row["clip_score"] is not None} == scores
    worst = [row for row in after.values() if row.get("drop_reason") == "clip_score_not_top"]
    assert len(worst) == manifest.counts.dropped["clip_score_not_top"] == REMAINING - 6
    assert {row["drop_stage"] for row in worst} == {"curate"}


def test_rules_keep_the_same_rows_for_any_sharding_and_batches(tmp_path, checkpoint):
    rule = {"score": "clip_score", "top_fraction": 0.5, "by": "language"}
    found = []
    for size, batch in ((5, 3), (100, 1000)):
        store = FolderStore(tmp_path / str(size))
        found.append(rows_of(store, curate_pairs(store, pairs(), checkpoint, size, rule, batch_rows=batch)))
    keep = ("clip_score", "drop_reason")
    first, *others = [{uid: [row.get(name) for name in keep] for uid, row in rows.items()} for rows in found]
    assert all(other == first for other in others)
    kept = [row["language"] for row in found[0].values() if row.get("drop_reason") is None]
    languages = [row["language"] for row in found[0].values() if row["clip_score"] is not None]
    for language in ("de", "en"):
        assert kept.count(language) == -(-languages.count(language) // 2)


def test_the_key_depends_on_the_model_and_not_on_its_path(tmp_path, checkpoint):
    raw = downloaded(FolderStore(tmp_path / "store"), pairs(), 100)

    def key(model, **more):
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
