"""A takedown tags the models that were trained on a pair, also in one of several datasets, and a trace shows the tags."""

from pathlib import Path

import pytest

from dataops.snapshot import SnapshotName
from tasks.tracking.registry import Registry
from tests.registrations import connect, register_mixed
from tests.unit.tasks.dataset_chain import pair

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.xdist_group("register"),
]  # the server and the first import of MLflow take long on a busy machine


def test_takedown_tags_each_model_trained_on_a_pair_and_trace_shows_the_tag(
    registered, upstream, tmp_path, capsys, read_json
):
    takedown = pytest.importorskip("plugins.erasure.command")
    store, packed = register_mixed(upstream, tmp_path)
    first = next(one for one in upstream.manifests if one.stage == "pack")
    url = pair(4)["url"]
    file = tmp_path / "request.txt"
    file.write_text(f"{url}\n")
    assert takedown.command(file, store=store.uri, json=True) == 0
    (report,) = [one for one in read_json()["stores"] if one["datasets"]]
    (outcome,) = report["datasets"]
    assert outcome["models_tagged"] == ["models:/saw-it/1"]
    assert len(outcome["rewritten"]) == 1
    assert outcome["unchanged"] == 2
    version = connect().get_model_version("saw-it", "1")
    tags = version.tags
    assert tags["dataset_keys"] == f"{first.key} {packed.key}"
    assert [v.uri for v in Registry().of_snapshot("pack", packed.key)] == ["models:/saw-it/1"]
    needed = pytest.importorskip("plugins.retention.registered_models").find_needed_snapshots()
    assert needed[SnapshotName("pack", packed.key)] == "saw-it version 1"
    used = connect().get_run(version.run_id).inputs.dataset_inputs
    contexts = {one.dataset.name: one.tags[0].value for one in used}
    assert contexts[f"pack-{packed.key}"] == contexts[f"pack-{first.key}"] == "training"
    card = connect().download_artifacts(version.run_id, "model_card.md", str(tmp_path))
    assert f"{packed.key} | {packed.content_digest[:16]} | 12 | 75.00% |" in Path(card).read_text()
    digest = report["request"]["digest"]
    assert tags["takedowns"] == digest
    assert f"1 pair of dataset {packed.key}" in tags[f"takedown.{digest}"]
    assert connect().get_model_version_by_alias("clip-demo", "champion").tags.get("takedowns") is None
    trace = pytest.importorskip("plugins.trace.command")
    assert trace.command(url, store=str(store.root), json=True) == 0
    (reported,) = read_json()["stores"]
    (dataset,) = reported["datasets"]
    (training,) = dataset["trainings"]
    (model,) = training["models"]
    assert training["share"] == 0.75
    assert (dataset["key"], model["uri"], model["aliases"]) == (packed.key, "models:/saw-it/1", ["champion"])
    assert model["tags"]["takedowns"] == digest
    verdicts = {(p["stage"], p["key"]): p["verdict"] for p in reported["places"]}
    assert verdicts[("pack", packed.key)] == "kept"
    assert trace.command("models:/saw-it@champion", store=str(store.root), json=False) == 0
    output = capsys.readouterr().out
    assert f"was trained on pairs that takedown {digest} removed" in output
    assert packed.key in output
