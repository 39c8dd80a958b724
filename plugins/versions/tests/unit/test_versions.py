"""The history of a model's versions, and the comparison of two: metrics with their significance, data and settings."""

import json

import pyarrow as pa
import pytest

from dataops.snapshot import Draft
from plugins.versions.comparison import VersionSide, compare_versions
from tests.manifests import build_manifest
from tests.unit.tasks.dataset_chain import packed_in, pair

HOSTILE = "<script>alert(1)</script>"


def evaluate(store, key, right, task="birds"):
    table = pa.table({"key": [str(n) for n in range(len(right))], "rank": [1 if one else 2 for one in right]})
    value = {"value": sum(right) / len(right), "low": 0.1, "high": 0.9, "chance": 0.1}
    metrics = {task: {"n": len(right), "metrics": {"top1": value}}, "words": {"n": 3, "metrics": {"jaccard": value}}}
    draft = Draft(store, "evaluate", key)
    parts = [
        draft.put_table(f"predictions-{task}.parquet", table),
        draft.put_bytes("metrics.json", json.dumps(metrics).encode()),
    ]
    return draft.commit(build_manifest("evaluate", parts, key=key))


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    store, first = packed_in(folder, [pair(n, caption=f"<b>{n}</b>") for n in range(6)])
    _, second = packed_in(folder, [pair(n, "too_small" if n == 2 else None, caption=f"<b>{n}</b>") for n in range(7)])
    trained = {"prompt": HOSTILE, "api_key": "hunter22", "epochs": 3, "url": "http://u:hunter22@host/"}
    first |= {
        "evaluate": evaluate(store, "e" * 16, [n < 60 for n in range(100)]),
        "train": build_manifest("train", config=trained),
    }
    second |= {
        "evaluate": evaluate(store, "f" * 16, [n < 90 for n in range(100)]),
        "train": build_manifest(
            "train", config=trained | {"epochs": 4, "prompt": "x", "api_key": "hunter23", "url": "x"}
        ),
    }
    return VersionSide("version 1", store, first), VersionSide("version 2", store, second)


def test_comparison_has_significance_reasons_and_settings(sides):
    found = compare_versions(*sides)
    metrics = {row["key"]: row for row in found.metrics}
    assert (metrics["birds/top1"]["a"], metrics["birds/top1"]["b"]) == (0.6, 0.9)
    assert metrics["birds/top1"]["comparison"]["verdict"] == "better"
    assert metrics["birds/top1"]["comparison"]["difference"] == pytest.approx(0.3)
    assert metrics["words/jaccard"]["comparison"] is None, "there are no predictions"
    assert found.pairs.added.why == {("extract", "not_in_source"): 1}
    assert found.pairs.removed.why == {("curate", "too_small"): 1}
    (curate,) = (row for row in found.stages if row["stage"] == "curate")
    assert (curate["a_input"], curate["a_kept"], curate["b_input"], curate["b_kept"]) == (6, 6, 7, 6)
    assert found.settings["train.epochs"] == (3, 4)
    assert "hunter" not in str(found.settings)
    back = compare_versions(*reversed(sides))
    assert {row["key"]: row for row in back.metrics}["birds/top1"]["comparison"]["verdict"] == "worse"
