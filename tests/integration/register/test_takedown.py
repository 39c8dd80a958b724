"""A takedown tags the models in MLflow, and a trace shows the tags."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dataops.store import FolderStore
from tasks.engine import stage
from tests.integration.register.snapshots import connect, plan_registration
from tests.unit.tasks.dataset_chain import chain, pair

pytestmark = pytest.mark.timeout(120)  # the server and the first import of MLflow take long on a busy machine


def test_takedown_tags_each_model_trained_on_a_pair_and_trace_shows_the_tag(
    registered: Any, upstream: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.commands import takedown, trace
    from tasks.pack.config import PackConfig
    from tasks.pack.stage import PACK

    store = FolderStore(tmp_path / "store")
    shutil.copytree(upstream.store.root, store.root)
    here = stage.Context(store=store, home=tmp_path, workers=1, run_name="demo")
    below = chain(store, [pair(n) for n in range(12)], 5)
    packed = stage.make(stage.plan(PACK, PackConfig(shard_size=4), 0, [below["curate"], below["download"]]), here)
    by_stage = {m.stage: m for m in upstream.manifests} | {"pack": packed}
    theirs = SimpleNamespace(store=store, home=tmp_path, manifests=[by_stage[m.stage] for m in upstream.manifests])
    plan, context = plan_registration(theirs, model_name="saw-it")
    stage.make(plan, context)
    url = pair(4)["url"]
    file = tmp_path / "request.txt"
    file.write_text(f"{url}\n")
    assert takedown.takedown(takedown.TakedownOptions(file, "a letter"), tmp_path, str(store.root), as_json=True) == 0
    (report,) = [one for one in json.loads(capsys.readouterr().out)["stores"] if one["datasets"]]
    (outcome,) = report["datasets"]
    assert outcome["models_tagged"] == ["models:/saw-it/1"]
    assert len(outcome["rewritten"]) == 1
    assert outcome["unchanged"] == 2
    tags = connect().get_model_version("saw-it", "1").tags
    digest = report["request"]["digest"]
    assert tags["takedowns"] == digest
    assert f"1 pair of dataset {packed.key}" in tags[f"takedown.{digest}"]
    assert connect().get_model_version_by_alias("clip-demo", "champion").tags.get("takedowns") is None
    assert trace.trace(url, tmp_path, str(store.root), limit=5, index=True, as_json=True) == 0
    (reported,) = json.loads(capsys.readouterr().out)["stores"]
    (dataset,) = reported["datasets"]
    (model,) = dataset["models"]
    assert (dataset["key"], model["uri"], model["aliases"]) == (packed.key, "models:/saw-it/1", ["champion"])
    assert model["tags"]["takedowns"] == digest
    verdicts = {(p["stage"], p["key"]): p["verdict"] for p in reported["places"]}
    assert verdicts[("pack", packed.key)] == "kept"
    assert trace.trace("models:/saw-it@champion", tmp_path, str(store.root), limit=5, index=True, as_json=False) == 0
    output = capsys.readouterr().out
    assert f"was trained on pairs that takedown {digest} removed" in output
    assert packed.key in output
