"""A takedown tags the models that were trained on a pair, also in one of several datasets, and a trace shows the tags."""

import base64
import html
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dataops import plugins
from dataops.errors import ContractError
from dataops.images.decode import decode, make_preview
from dataops.snapshot import SnapshotName
from dataops.store import FolderStore
from plugins.publish.publish import PublishOptions, publish
from tasks.engine import stage
from tasks.tracking.registry import Registry, find_needed_snapshots
from tests.integration.register.snapshots import connect, plan_registration
from tests.manifests import build_manifest
from tests.unit.tasks.dataset_chain import chain, pair

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.xdist_group("register"),
]  # the server and the first import of MLflow take long on a busy machine


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
    by_stage = {m.stage: m for m in upstream.manifests}
    inputs = [by_stage["pack"].as_input(), packed.as_input()]
    train = by_stage["train"].model_copy(
        update={
            "key": "mixed".ljust(16, "0"),
            "content_digest": "f" * 64,
            "inputs": inputs,
            "config": {**by_stage["train"].config, "dataset": [1, 3]},
        }
    )
    shutil.copytree(store.root / "train" / by_stage["train"].key, store.root / "train" / train.key)
    store.delete([train.path("manifest.json")])
    store.put(train.path("manifest.json"), train.model_dump_json().encode())
    by_stage["train"] = train
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
    version = connect().get_model_version("saw-it", "1")
    tags = version.tags
    assert tags["dataset_keys"] == f"{by_stage['pack'].key} {packed.key}"
    assert [v.uri for v in Registry().of_snapshot("pack", packed.key)] == ["models:/saw-it/1"]
    assert find_needed_snapshots()[SnapshotName("pack", packed.key)] == "saw-it version 1"
    used = connect().get_run(version.run_id).inputs.dataset_inputs
    contexts = {one.dataset.name: one.tags[0].value for one in used}
    assert contexts[f"pack-{packed.key}"] == contexts[f"pack-{by_stage['pack'].key}"] == "training"
    card = connect().download_artifacts(version.run_id, "model_card.md", str(tmp_path))
    assert f"{packed.key} | {packed.content_digest[:16]} | 12 | 75.00% |" in Path(card).read_text()
    digest = report["request"]["digest"]
    assert tags["takedowns"] == digest
    assert f"1 pair of dataset {packed.key}" in tags[f"takedown.{digest}"]
    assert connect().get_model_version_by_alias("clip-demo", "champion").tags.get("takedowns") is None
    assert trace.trace(url, tmp_path, str(store.root), limit=5, as_json=True) == 0
    (reported,) = json.loads(capsys.readouterr().out)["stores"]
    (dataset,) = reported["datasets"]
    (training,) = dataset["trainings"]
    (model,) = training["models"]
    assert training["share"] == 0.75
    assert (dataset["key"], model["uri"], model["aliases"]) == (packed.key, "models:/saw-it/1", ["champion"])
    assert model["tags"]["takedowns"] == digest
    verdicts = {(p["stage"], p["key"]): p["verdict"] for p in reported["places"]}
    assert verdicts[("pack", packed.key)] == "kept"
    assert trace.trace("models:/saw-it@champion", tmp_path, str(store.root), limit=5, as_json=False) == 0
    output = capsys.readouterr().out
    assert f"was trained on pairs that takedown {digest} removed" in output
    options = PublishOptions("saw-it@champion", str(tmp_path / "out"), "mit")
    with pytest.raises(ContractError, match=f"takedown {digest} removed pairs of dataset {packed.key}") as refused:
        publish(options, tmp_path, str(store.root), as_json=True)
    assert str(refused.value).startswith("models:/saw-it/1 is not published:")
    assert not (tmp_path / "out").exists()
    assert packed.key in output
    if plugins.load("holders"):
        _check_deletion(store, file, version.run_id, tmp_path, capsys)


def _check_deletion(store: FolderStore, file: Path, run: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Check that a takedown with --delete-raw erases what MLflow holds, and searches it; who asked is in the log only."""
    from flows.commands import takedown

    client, removed = connect(), pair(4)
    preview = base64.b64encode(make_preview(decode(removed["data"]))).decode()
    page = f'<li>{html.escape(removed["caption"])}</li><img src="data:image/jpeg;base64,{preview}"> and more'
    client.log_text(run, page, "dataset.html")
    quoting = build_manifest("filter", facts={"examples": {"x": [removed["caption"]]}})
    client.log_text(run, quoting.encode().decode(), "manifests/filter.json")
    client.set_tag(run, "mlflow.note.content", f"see {removed['url']}")
    client.update_model_version("saw-it", "1", f"it saw {removed['url']} too")
    options = takedown.TakedownOptions(file, "a letter", delete_raw=True, yes=True, requested_by="Jane Roe")
    assert takedown.takedown(options, folder, str(store.root), as_json=True) == 0
    output = capsys.readouterr().out
    search = next(one for one in json.loads(output)["stores"] if one["datasets"])["search"]
    places = {one["place"].split()[0]: one for one in search["searched"]}
    assert places.keys() == {"store", "home", "MLflow"}
    assert places["MLflow"]["files"] > 10
    assert search["found"] == []
    found = client.get_run(run)
    assert found.data.tags["mlflow.note.content"] == "see " + "-" * len(removed["url"])
    assert client.get_model_version("saw-it", "1").description == f"it saw {'-' * len(removed['url'])} too"
    (folder / "downloaded").mkdir()
    files = [Path(client.download_artifacts(run, "", str(folder / "downloaded"))), store.root]
    texts = {path: path.read_bytes() for root in files for path in root.rglob("*") if path.is_file()}
    cleaned = next(data.decode() for path, data in texts.items() if path.name == "dataset.html" and b"more" in data)
    assert cleaned.endswith('A"> and more')
    assert len(cleaned.encode()) == len(page.encode())
    for text in (preview, removed["caption"], json.dumps(removed["caption"])[1:-1], removed["url"]):
        assert [path for path, data in texts.items() if text.encode() in data and path.parent.name != "takedowns"] == []
    who = [path.name for path, data in texts.items() if b"Jane" in data]
    assert [name.partition(".")[2] for name in who] == ["log.json"]
    assert "Jane" not in output
