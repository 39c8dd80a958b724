"""The evaluation page shows the champion beside the model if its evaluation and the images of the suite exist."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from dataops.snapshot import Draft, Input, Manifest
from dataops.store import FolderStore
from tasks.register.evaluation_page import index_values, read_champion_evaluation, render_evaluation_page
from tests.manifests import build_manifest
from tests.unit.tasks.dataset_chain import jpeg
from training.evaluation.intervals import proportion_record
from training.evaluation.suite import load_suite
from training.evaluation.zero_shot import PREDICTIONS

N = 24


def commit_evaluation(store: FolderStore, key: str, right: int, suite: str) -> Manifest:
    rows = [
        {"key": f"{'ab'[n % 2]}/{n}.jpg", "label": n % 2, "label_name": "ab"[n % 2], "predicted": n % 2,
         "predicted_name": "ab"[n % 2], "rank": 1 if n < right else 2, "top5": [0, 1], "scores": [0.5, 0.1], "status": "ok"}
        for n in range(N)
    ]  # fmt: skip
    facts = {"kind": "classification", "n": N, "classes": 2, "templates": 1, "unreadable": 0, "main_metric": "top1"}
    metrics = {"few": {**facts, "in_average": True, "metrics": {"top1": proportion_record(right, N, 0.5)}}}
    draft = Draft(store, "evaluate", key)
    parts = [
        draft.put_bytes("metrics.json", json.dumps(metrics).encode()),
        draft.put_bytes("evaluation.html", b"as evaluate left it"),
        draft.put_table("predictions-few.parquet", pa.Table.from_pylist(rows, PREDICTIONS)),
    ]
    return draft.commit(
        build_manifest(
            "evaluate", parts, stage_version=3, key=key, inputs=[Input(stage="suite", key="s", digest=suite)]
        )
    )


@pytest.fixture
def work(tmp_path: Path) -> Any:
    for n in range(N):
        path = tmp_path / "few/test" / "ab"[n % 2] / f"{n}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(n))
    (tmp_path / "s.toml").write_text('name = "s"\n[[task]]\nname = "few"\nkind = "classification"\nroot = "few"')
    store, digest = FolderStore(tmp_path / "store"), load_suite(tmp_path / "s.toml").digest()
    commit_evaluation(store, "0" * 16, 4, digest)
    return SimpleNamespace(
        draft=Draft(store, "register", "2" * 16),
        inputs={"evaluate": commit_evaluation(store, "1" * 16, 22, digest)},
        context=SimpleNamespace(run_config={"evaluate": {"suite": str(tmp_path / "s.toml")}}),
        config=SimpleNamespace(model_name="m"),
    )


def version(key: str) -> Any:
    return SimpleNamespace(name="m", version="7", tags={"snapshot.evaluate": key})


def test_page_compares_the_model_with_the_champion_unless_the_suite_has_changed(work: Any, tmp_path: Path) -> None:
    champion = read_champion_evaluation(work, version("0" * 16))
    assert index_values(champion) == {"few/top1": pytest.approx(4 / N)}
    page = render_evaluation_page(work, champion).decode()
    assert "Compared with <b>m version 7</b>" in page
    assert '<span class="better verdict">better</span>' in page
    assert page.count("data:image/jpeg;base64,") >= 8
    (tmp_path / "few/test/a/0.jpg").write_bytes(b"changed")
    assert render_evaluation_page(work, champion) == b"as evaluate left it"


def test_page_is_that_of_evaluate_without_a_champion(work: Any) -> None:
    for champion_version in (None, version(""), version("1" * 16), version("9" * 16)):
        champion = read_champion_evaluation(work, champion_version)
        assert champion is None
        assert index_values(champion) == {}
        assert render_evaluation_page(work, champion) == b"as evaluate left it"
