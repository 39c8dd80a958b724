"""Run curate with clusters: columns, targets, the page and the key."""

import json
from collections import Counter
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dataops.errors import ConfigError
from dataops.images.score_tables import compute_score_ids
from dataops.schema import CURATED, dropped_schema
from dataops.snapshot import Manifest, read_parts, read_table
from dataops.store import FolderStore
from plugins.scores import scorers as score_clip
from plugins.scores.clusters import clustering, features_job, fit_job
from plugins.scores.clusters.clustering import CLUSTERS_PART
from plugins.scores.clusters.config import STEP
from plugins.scores.clusters.vectors import SCALE, join_features
from tasks.curate.config import CurateConfig, Units
from tasks.curate.stage import CURATE
from tasks.engine.context import Context
from tasks.engine.stage import make, plan
from tests.inline_executor import InlineExecutor
from tests.small_model import write_model
from tests.unit.tasks.raw_images import blocks, downloaded, jpeg, some_pairs
from training import score as score_job

UNITS = Units()
REMAINING = 15
"""Number of the 20 pairs that are healthy and no duplicates."""
MODULES = {
    "training.score": score_job,
    "plugins.scores.clusters.features_job": features_job,
    "plugins.scores.clusters.fit_job": fit_job,
}


@pytest.fixture(autouse=True)
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run jobs and workers in this process; return the modules of the jobs."""
    modules: list[str] = []

    def in_process(module: str, job: dict[str, Any], folder: Path, *, on_line: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "job.json").write_text(json.dumps(job))
        assert MODULES[module].main([str(folder / "job.json")]) == 0
        modules.append(module)

    monkeypatch.setattr(score_clip, "run_job", in_process)
    monkeypatch.setattr(clustering, "run_job", in_process)
    return modules


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


def curate_pairs(
    store: FolderStore,
    rows: list[dict[str, Any]],
    checkpoint: Path,
    size: int = 7,
    more: Any = None,
    units: Units = UNITS,
    **clusters: Any,
) -> Manifest:
    table = {"model": str(checkpoint), "device": "cpu", "count": 5} | clusters
    config = CurateConfig.model_validate({"clusters": table} | (more or {})).with_units(units)
    planned = plan(CURATE, config, 0, [downloaded(store, rows, size)])
    return make(planned, Context(store, store.root, pool=InlineExecutor()))


def rows_of(store: FolderStore, manifest: Manifest) -> dict[str, dict[str, Any]]:
    kept, dropped = read_parts(store, manifest), read_parts(store, manifest, "dropped-")
    scores = [pa.field("clip_score", pa.float32())] if "clip_score" in kept.schema.names else []
    schema = pa.schema([*CURATED, *scores, *(column.field for column in STEP.columns)])
    assert kept.schema == schema
    assert dropped.schema == dropped_schema(schema)
    return {row["uid"]: {"drop_reason": None} | row for table in (kept, dropped) for row in table.to_pylist()}


def dot(one: Any, other: Any) -> int:
    return sum(int(a) * int(b) for a, b in zip(one, other, strict=True))


def read_features(store: FolderStore, rows: dict[str, dict[str, Any]], pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the stored feature of each pair, by the digest of its image."""
    tables = [read_table(store, name).to_pylist() for name in store.names("scores")]
    stored = {row["id"]: row["feature"] for table in tables for row in table}
    uids = [pair["uid"] for pair in pairs]
    ids = compute_score_ids([blake2b(pair["data"], digest_size=16).hexdigest() for pair in pairs], None).to_pylist()
    return {uid: join_features([stored[one]])[0] for uid, one in zip(uids, ids, strict=True) if one in stored}


def test_kept_rows_have_a_cluster_and_a_distance(tmp_path: Path, checkpoint: Path, jobs: list[str]) -> None:
    store, pairs = FolderStore(tmp_path), some_pairs()
    manifest = curate_pairs(store, pairs, checkpoint)
    rows = rows_of(store, manifest)
    clustered = {uid: row for uid, row in rows.items() if row["image_cluster"] is not None}
    assert set(clustered) == {uid for uid, row in rows.items() if row["drop_reason"] is None}
    assert len(clustered) == REMAINING
    table = read_table(store, manifest.path(CLUSTERS_PART)).to_pylist()
    centroids = [join_features([row["centroid"]])[0] for row in table]
    features = read_features(store, rows, pairs)
    for uid, row in clustered.items():
        dots = [dot(features[uid], centroid) for centroid in centroids]
        nearest = dots.index(max(dots))
        assert row["image_cluster"] == nearest
        assert row["centroid_distance"] == pytest.approx(1 - max(dots) / SCALE**2, abs=1e-7)
        assert row["sampling_probability"] is None
    sizes = Counter(row["image_cluster"] for row in clustered.values())
    assert [row["rows"] for row in table] == [sizes[number] for number in range(len(table))]
    facts = manifest.facts["clusters"]
    assert (facts["rows"], facts["without_feature"], facts["clusters"]) == (REMAINING, 0, len(sizes))
    assert (facts["sizes"]["0"], facts["sizes"]["1"]) == (min(sizes.values()), max(sizes.values()))
    assert [facts["scorer"]] == [one.digest for one in manifest.inputs if one.stage == "scorer"]
    assert jobs == ["plugins.scores.clusters.features_job", "plugins.scores.clusters.fit_job"]
    assert not list((tmp_path / "jobs").iterdir())

    curate_pairs(store, pairs, checkpoint, count=4)  # the features are stored
    assert jobs[2:] == ["plugins.scores.clusters.fit_job"]


def test_the_key_depends_on_the_clusters_only_where_there_are_any(tmp_path: Path, checkpoint: Path) -> None:
    raw = downloaded(FolderStore(tmp_path / "store"), some_pairs(), 100)

    def key(**clusters: Any) -> str:
        table = {"model": str(checkpoint)} | clusters
        return plan(CURATE, CurateConfig.model_validate({"clusters": table}), 0, [raw]).key

    assert key() == key(device="cuda") != plan(CURATE, CurateConfig(), 0, [raw]).key
    assert len({key(), key(count=5)}) == 2
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in checkpoint.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    assert key(model=str(moved)) == key()


def test_clusters_without_a_target_are_dropped(tmp_path: Path, checkpoint: Path) -> None:
    store, pairs, targets = FolderStore(tmp_path / "s"), some_pairs(), tmp_path / "targets"
    targets.mkdir()
    for number in (100, 104):  # images of the pairs x0 and x4
        (targets / f"{number}.jpg").write_bytes(jpeg(blocks(number)))
    (targets / "labels.txt").write_text("no image")
    rows = rows_of(store, curate_pairs(store, pairs, checkpoint))
    wanted = {row["image_cluster"] for row in rows.values() if row["url"] in ("x0", "x4")}
    manifest = curate_pairs(store, pairs, checkpoint, targets=[str(targets)])
    facts = manifest.facts["clusters"]
    assert facts["targets"] == 2
    found = rows_of(store, manifest)
    off = {uid for uid, row in found.items() if row["drop_reason"] == "off_target"}
    assert off == {uid for uid, row in rows.items() if row["image_cluster"] not in {*wanted, None}}
    assert 0 < len(off) == facts["off_target"] < REMAINING
    (targets / "more.jpg").write_bytes(jpeg(blocks(105)))
    config = {"clusters": {"model": str(checkpoint), "targets": [str(targets)]}}
    more = plan(CURATE, CurateConfig.model_validate(config), 0, [downloaded(store, pairs, 7)])
    (targets / "more.jpg").unlink()
    assert more.key != plan(CURATE, CurateConfig.model_validate(config), 0, [downloaded(store, pairs, 7)]).key
    for image in targets.glob("*.jpg"):
        image.unlink()
    with pytest.raises(ConfigError, match="targets: no image can be decoded"):
        curate_pairs(store, pairs, checkpoint, targets=[str(targets)])
