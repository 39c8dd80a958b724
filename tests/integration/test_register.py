"""The register stage against a real MLflow server (SQLite), with a real, tiny CLIP model."""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageDraw

from dataops.errors import ConfigError, GateRefused, ServiceError
from dataops.home import CHECKOUT
from dataops.schema import DOWNLOADED, conform, dropped_schema
from dataops.snapshot import Counts, Draft, Input, Manifest, Part, content_digest
from dataops.store import FolderStore
from tasks.engine import stage
from tasks.engine.context import Context
from tasks.engine.stage import Work
from tasks.filter.summary import merge_balance
from tasks.models.find import find_model
from tasks.register import mlflow_run
from tasks.register.config import RegisterConfig
from tasks.register.stage import REGISTER
from tasks.register.version import page_urls
from tasks.tracking import client as tracking
from tasks.tracking import parent_run
from tasks.tracking.parent_run import RunOutcome
from tests.integration.bare_environment import BareEnvironment
from tests.manifests import build_manifest
from tests.unit.tasks.dataset_chain import chain, pair

pytestmark = pytest.mark.timeout(120)  # the server and the first import of MLflow take long on a busy machine
TEXTS = ["a red circle", "a blue square", "nothing at all", "a Cat <script>"]
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_MODEL_CATALOG_URI": "",
    "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}
# Built in a subprocess: this one, like the orchestrator, never loads torch.
BUILD = """
import json, sys, torch
from pathlib import Path
from training.model.checkpoint import save_model
from training.config import ModelConfig
from training.model.clip import CLIP
from training.model.preprocess import Preprocess
from training.model.tokenizer import train_tokenizer

folder, texts = Path(sys.argv[1]), json.loads(sys.argv[2])
tokenizer = train_tokenizer(texts, 400, 16)
vision = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
text = {"context_length": 16, "vocab_size": tokenizer.vocab_size, "width": 32, "heads": 2, "layers": 2}
torch.manual_seed(7)
model = CLIP(ModelConfig(embed_dim=24, vision_cfg=vision, text_cfg=text))
save_model(folder, model, tokenizer, Preprocess(image_size=32))
"""
# The reference scores: load_model, encoders and softmax, nothing of the pyfunc's own path.
REFERENCE = """
import io, json, sys, torch
from pathlib import Path
from PIL import Image
from training.model.checkpoint import load_model

loaded = load_model(Path(sys.argv[1]))
images = [Image.open(path) for path in json.loads(sys.argv[2])]
pixels = torch.stack([loaded.preprocess(image) for image in images])
image = torch.nn.functional.normalize(loaded.model.encode_image(pixels), dim=-1)
text = torch.nn.functional.normalize(loaded.model.encode_text(loaded.tokenizer(json.loads(sys.argv[3]))), dim=-1)
cosines = image @ text.T
chances = (cosines * loaded.model.logit_scale.exp()).softmax(dim=-1)
print(json.dumps({"similarities": cosines.tolist(), "probabilities": chances.tolist()}))
"""


def python(code: str, *arguments: str, cwd: Path = CHECKOUT, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **ENVIRONMENT}, stdout=log, stderr=log, start_new_session=True
        )
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 90
    try:
        while True:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()[-2000:]
                assert time.monotonic() < deadline, "the server did not come up"
                time.sleep(0.2)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


@pytest.fixture
def environment(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    return server


def commit(store: FolderStore, name: str, parts: list[Any], counts: Counts, **more: Any) -> Manifest:
    key = f"{name:0<16}"[:16]
    manifest = build_manifest(name, parts, key=key, seed=3, counts=counts, **more)
    return Draft(store, name, key).commit(manifest)


METRICS = {
    "twemoji-seen": {
        "kind": "classification",
        "n": 200,
        "classes": 100,
        "templates": 2,
        "unreadable": 0,
        "metrics": {
            "top1": {"value": 0.06, "low": 0.03, "high": 0.1, "chance": 0.01, "n": 200},
            "mean_per_class": {"value": 0.06, "low": None, "high": None, "chance": 0.01},
        },
        "contamination": {
            "metric": "top1",
            "n": 200,
            "overlap": 10,
            "unknown_members": 0,
            "all": 0.06,
            "clean": 0.05,
            "p_value": 0.085,
            "overlap_accuracy": 0.25,
            "overlap_low": 0.01,
            "overlap_high": 0.71,
            "inflation": 0.01,
            "significant": False,
            "significant_corrected": False,
        },
    },
    "held-out": {
        "kind": "retrieval",
        "n": 50,
        "metrics": {"image_to_text_R@1": {"value": 0.1, "low": 0.03, "high": 0.2, "chance": 0.02, "n": 50}},
    },
}


def download_parts(draft: Draft) -> list[Part]:
    """A row that was fetched and one that was not, with hostile text."""
    row = {"uid": "0" * 32, "url": "http://h.example/1.jpg", "caption": "<script>alert(2)</script>"}
    lost = row | {"uid": "1" * 32, "error_message": "<img src=x onerror=alert(3)>", "drop_reason": "http_404"}
    tables = {"part": (row, DOWNLOADED), "dropped": (lost, dropped_schema(DOWNLOADED))}
    return [
        draft.put_table(f"{kind}-00000.parquet", conform(pa.Table.from_pylist([one]), schema, kind))
        for kind, (one, schema) in tables.items()
    ]


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """All seven snapshots below register, with a real model and hostile text."""
    folder = tmp_path_factory.mktemp("upstream")
    store = FolderStore(folder / "store")
    model = folder / "model"
    model.mkdir()
    python(BUILD, str(model), json.dumps(TEXTS))
    pairs = {
        "extract": Counts(input=1000, kept=900, dropped={"not_http": 100}),
        "filter": Counts(input=900, kept=500, dropped={"language": 300, "too_short": 100}),
        "download": Counts(input=500, kept=480, dropped={"http_404": 20}),
        "curate": Counts(input=480, kept=400, dropped={"near_duplicate": 80}),
    }
    config = {"endpoint": "https://user:hunter2@example.org/x", "api_token": "hunter2", "min_words": 2}
    seen = {"pairs": 500, "unmatched": 0, "kept": 500, "seen": 400, "unmatched_examples": []}
    balance = merge_balance(["<script>", "kite"], np.array([400, 9]), np.array([90.5, 9.0]), [seen])
    manifests = {}
    for name, counts in pairs.items():
        draft = Draft(store, name, f"{name:0<16}"[:16])
        parts = [draft.put_bytes("part-00000.parquet", name.encode())] if name != "download" else download_parts(draft)
        facts = {"balance": balance} if name == "filter" else {}
        manifests[name] = commit(store, name, parts, counts, config=config, facts=facts)
    pack = Draft(store, "pack", "pack000000000000")
    shards = [pack.put_bytes(f"0000{i}.tar", bytes([i]) * 512, 200) for i in range(2)]
    shards.append(pack.put_bytes("dataset.html", b"<!doctype html>what is in it"))
    manifests["pack"] = commit(store, "pack", shards, Counts(input=400, kept=400))
    train = Draft(store, "train", "train00000000000")
    rows = [{"step": s, "loss": 5 / s, "lr": 1e-3, "logit_scale": 2.6, "grad_norm": 1.0} for s in range(1, 121)]
    parts = [train.put_file(path.name, path) for path in sorted(model.iterdir())]
    parts += [train.put_bytes("metrics.jsonl", "\n".join(json.dumps(row) for row in rows).encode())]
    manifests["train"] = commit(store, "train", parts, Counts(), config={"model": "tiny", "epochs": 3})
    evaluate = Draft(store, "evaluate", "evaluate00000000")
    table = pa.table({"key": [str(i) for i in range(200)], "label_name": ["<img src=x onerror=alert(1)>"] * 200})
    parts = [evaluate.put_bytes("metrics.json", json.dumps(METRICS).encode())]
    parts += [evaluate.put_bytes("evaluation.html", b"<!doctype html>how good it is")]
    parts += [evaluate.put_table("predictions-twemoji-seen.parquet", table)]
    suite = [Input(stage="suite", key="demo", digest="5" * 64)]
    manifests["evaluate"] = commit(store, "evaluate", parts, Counts(), inputs=suite, facts={"metrics": METRICS})
    order = ["evaluate", "train", "pack", "curate", "download", "filter", "extract"]
    return SimpleNamespace(store=store, manifests=[manifests[name] for name in order], model=model, home=folder)


def planned(upstream: SimpleNamespace, **config: Any) -> tuple[stage.Plan, stage.Context]:
    context = stage.Context(
        store=upstream.store,
        home=upstream.home,
        run_id="demo-20260102-abcd",
        run_name="demo",
        flow_run_id="0d9f6f6e-0000-4000-8000-000000000000",
        flow_run_url="http://user:hunter2@127.0.0.1:4200/runs/flow-run/0d9f6f6e",
        run_config={"name": "demo", "store": {"uri": "s3://a:hunter2@bucket/x"}, "secret": "hunter2"},
    )
    return stage.plan(REGISTER, RegisterConfig(**config), 3, upstream.manifests), context


def client() -> Any:
    return tracking.connect()


def versions(name: str) -> list[Any]:
    return client().search_model_versions(f"name = '{name}'")


@pytest.fixture
def registered(environment: str, upstream: SimpleNamespace) -> tuple[Manifest, stage.Plan, stage.Context]:
    plan, context = planned(upstream, model_name="clip-demo", floors={"twemoji-seen/top1": 0.02})
    manifest = stage.reuse(plan, context) or stage.make(plan, context)
    return manifest, plan, context


def test_version_and_run_tell_the_whole_ancestry(registered: Any, upstream: SimpleNamespace, environment: str) -> None:
    manifest = registered[0]
    facts = manifest.facts
    mlflow = client()
    run = mlflow.get_run(manifest.mlflow_run_id)
    version = mlflow.get_model_version_by_alias("clip-demo", "champion")
    assert facts["model_uri"] == f"models:/clip-demo/{version.version}"
    assert run.info.status == "FINISHED"
    assert mlflow.get_experiment(run.info.experiment_id).name == "demo"

    by_stage = {m.stage: m for m in upstream.manifests}
    pack = by_stage["pack"]
    for tags in (run.data.tags, version.tags):
        assert tags["dataset_key"] == pack.key
        assert tags["dataset_digest"] == pack.content_digest
        assert tags["prefect_flow_run_id"] == "0d9f6f6e-0000-4000-8000-000000000000"
        assert tags["prefect_flow_run_url"] == "http://127.0.0.1:4200/runs/flow-run/0d9f6f6e"
        assert tags["pairmill.register_key"] == manifest.key
        assert {name: tags[f"snapshot.{name}"] for name in by_stage} == {s: m.key for s, m in by_stage.items()}
        assert len(tags["config_hash"]) == 16
        assert "git_commit" in tags
        assert "code_dirty" in tags
    assert version.tags["gate"] == "passed"
    assert run.data.params["train.model"] == "tiny"
    assert run.data.params["filter.endpoint"] == "https://example.org/x"
    assert run.data.params["filter.api_token"] == "***"

    metrics = run.data.metrics
    assert metrics["twemoji-seen/top1"] == 0.06
    assert metrics["twemoji-seen/top1_low"] == 0.03
    assert metrics["held-out/image_to_text_R_at_1"] == 0.1
    assert (metrics["twemoji-seen/overlap_with_training"], metrics["twemoji-seen/clean_top1"]) == (0.05, 0.05)
    history = mlflow.get_metric_history(run.info.run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(s, 5 / s) for s in range(1, 121)]

    inputs = {i.dataset.name: i for i in run.inputs.dataset_inputs}
    assert inputs.keys() == {f"pack-{pack.key}", "twemoji-seen", "held-out"}
    training = inputs[f"pack-{pack.key}"]
    assert training.tags[0].value == "training"
    assert training.dataset.digest == pack.content_digest[:36]
    assert json.loads(training.dataset.profile)["num_rows"] == 400
    assert inputs["held-out"].tags[0].value == "evaluation"
    from mlflow.data import get_source

    assert (Path(get_source(training).load()) / "manifest.json").is_file()

    (model,) = mlflow.search_logged_models([run.info.experiment_id], "name = 'clip'")
    linked = {metric.key: metric.dataset_name for metric in model.metrics}
    assert linked["train/final_loss"] == f"pack-{pack.key}"
    assert linked["twemoji-seen/top1"] == "twemoji-seen"
    assert version.source == f"models:/{model.model_id}"
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": "clip-demo", "version": version.version}]
    shown = version.description.replace("&emsp;", "")
    assert "| twemoji-seen | top1 | 6.00% | 3.00% – 10.00% | 1.00% | 200 |" in shown
    assert "| filter | 900 | 500 | language 300, too\\_short 100 |" in shown


def test_artifacts_are_whole_and_escaped(registered: Any, tmp_path: Path) -> None:
    run_id = registered[0].mlflow_run_id
    folder = Path(client().download_artifacts(run_id, "", str(tmp_path)))
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    stages = ("extract", "filter", "download", "curate", "pack", "train", "evaluate")
    wanted = {"config.json", "funnel.json", "funnel.html", "metrics.json", "metrics.jsonl"}
    wanted |= {"model_card.html", "model_card.md", "lineage.svg", "lineage.jsonl", "dataset.html", "evaluation.html"}
    wanted |= {"filter.html", "balance.svg", "download.html", "funnel.png", "training_curves.png", "zero_shot.png"}
    wanted |= {f"manifests/{stage}.json" for stage in stages}
    assert names == wanted | {"predictions/predictions-twemoji-seen.html"}
    for name in ("funnel.png", "training_curves.png", "zero_shot.png"):
        with Image.open(folder / name) as image:
            assert image.width > 500
    assert "&lt;script&gt;" in (folder / "filter.html").read_text()
    assert (folder / "balance.svg").read_text().startswith("<svg ")
    assert "<img" not in (folder / "download.html").read_text()
    assert "&lt;img src=x onerror=alert(3)&gt;" in (folder / "download.html").read_text()
    page = (folder / "predictions/predictions-twemoji-seen.html").read_text()
    assert "<img" not in page
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") == 100
    funnel = json.loads((folder / "funnel.json").read_text())
    assert {name: funnel[1][name] for name in ("stage", "reason", "dropped")} == {
        "stage": "filter",
        "reason": "language",
        "dropped": 300,
    }
    for path in folder.rglob("*.json"):
        if path.parent.name != "manifests":  # the fixture's own config, which a real manifest cannot hold
            assert "hunter2" not in path.read_text(), path


def test_registration_is_deterministic_and_its_evidence_holds_no_credentials(
    registered: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, plan, context = registered
    store = context.store
    first = store.read(manifest.path("registration.json"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking.tracking_uri().replace("://", "://user:hunter2@"))
    stage.discard(plan, context)
    again = stage.make(plan, context)
    assert store.read(again.path("registration.json")) == first
    assert again.content_digest == manifest.content_digest
    evidence = store.read(again.path("evidence-registration.json"))
    assert b"hunter2" not in evidence + again.model_dump_json().encode()
    assert json.loads(evidence)["model_uri"] == manifest.facts["model_uri"]


def test_made_again_after_its_snapshot_was_lost_it_is_the_same_version(registered: Any) -> None:
    manifest, plan, context = registered
    stage.discard(plan, context)
    again = stage.make(plan, context)
    assert again.facts["version"] == manifest.facts["version"]
    assert len(versions("clip-demo")) == 1
    experiment = client().get_experiment_by_name("demo")
    assert (
        len(client().search_runs([experiment.experiment_id], "tags.`pairmill.register_key` = '" + plan.key + "'")) == 1
    )


def test_training_and_evaluation_are_nested_in_the_run(registered: Any, upstream: SimpleNamespace) -> None:
    _, plan, context = registered
    stage.discard(plan, context)
    again = stage.make(plan, context)  # a second time changes nothing
    experiment = client().get_experiment_by_name("demo")
    found = client().search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{again.mlflow_run_id}'")
    runs = {run.info.run_name.partition("-")[0]: run for run in found}
    assert sorted(runs) == ["evaluate", "train"]
    assert len(found) == 2
    assert {run.info.status for run in found} == {"FINISHED"}
    parent = client().get_run(again.mlflow_run_id)
    curve = client().get_metric_history(again.mlflow_run_id, "train/loss")
    nested = client().get_metric_history(runs["train"].info.run_id, "train/loss")
    assert [(p.step, p.value) for p in nested] == [(p.step, p.value) for p in curve]
    assert runs["evaluate"].data.metrics["twemoji-seen/top1"] == parent.data.metrics["twemoji-seen/top1"]
    other, _ = planned(upstream, model_name="twin")
    theirs = stage.make(other, context).mlflow_run_id
    for parent_id in (again.mlflow_run_id, theirs):
        under = client().search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{parent_id}'")
        assert sorted(run.info.run_name for run in under) == ["evaluate-evaluate00000000", "train-train00000000000"]
    contexts = {
        stage: {tag.value for one in run.inputs.dataset_inputs for tag in one.tags} for stage, run in runs.items()
    }
    assert contexts == {"train": {"training"}, "evaluate": {"evaluation"}}


@pytest.mark.parametrize(
    "broken", ["log_inputs", "log_model_artifacts", "create_model_version", "set_model_version_tag"]
)
def test_a_registration_that_was_killed_goes_on(
    environment: str, upstream: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    from mlflow import MlflowClient

    name = f"killed-{broken}"
    plan, context = planned(upstream, model_name=name)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, broken, lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        patch.setattr(mlflow_run, "_mark_failed", lambda registration, run: None)  # as a kill would
        with pytest.raises(KeyboardInterrupt):
            stage.make(plan, context)
    manifest = stage.make(plan, context)
    (version,) = versions(name)
    assert version.tags["gate"] == "passed"
    assert version.run_id == manifest.mlflow_run_id
    run = client().get_run(manifest.mlflow_run_id)
    assert run.info.status == "FINISHED"
    assert len(client().get_metric_history(run.info.run_id, "train/loss")) == 120
    assert len(run.inputs.dataset_inputs) == 3
    models = client().search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
    assert [str(model.status) for model in models] == ["READY"]
    # two of training, then value, low and high where there is an interval, and two of the overlap: 3 + 1 + 2 + 3
    assert len({metric.key for metric in models[0].metrics}) == len(models[0].metrics) == 11


def test_snapshot_stands_only_while_the_version_does(environment: str, upstream: SimpleNamespace) -> None:
    plan, context = planned(upstream, model_name="short-lived")
    manifest = stage.make(plan, context)
    assert stage.reuse(plan, context) == manifest
    client().delete_model_version("short-lived", manifest.facts["version"])
    assert stage.reuse(plan, context) is None
    again = stage.make(plan, context)
    assert again.mlflow_run_id == manifest.mlflow_run_id
    assert stage.reuse(plan, context) == again


def test_remaking_an_old_snapshot_does_not_move_the_alias_back(environment: str, upstream: SimpleNamespace) -> None:
    old, context = planned(upstream, model_name="moving")
    new, _ = planned(upstream, model_name="moving", description="better")
    stage.make(old, context)
    newer = stage.make(new, context)
    stage.discard(old, context)
    assert stage.make(old, context).facts["version"] == "1"
    assert str(client().get_model_version_by_alias("moving", "champion").version) == newer.facts["version"] == "2"


def test_a_pipeline_run_that_ends_early_has_a_run_that_its_registration_takes_over(
    environment: str, upstream: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plan, context = planned(upstream, model_name="late")
    context = replace(context, run_name="early", run_id="early-20260102T030405-abcd")
    made = {m.stage: m for m in reversed(upstream.manifests) if m.stage not in ("train", "evaluate")}
    reached = [{"stage": m.stage, "key": m.key, "state": "Completed", "seconds": 1.5} for m in made.values()]
    failed = [*reached, {"stage": "train", "key": "train00000000000", "state": "Failed", "seconds": 2.0}]
    mlflow = client()
    training = tracking.open_run(mlflow, "early", "train-train00000000000", "its live curve", {})
    error = "JobFailed: <script>[x](javascript:1) s3://u:hunter2@bucket"
    assert parent_run.record_outcome(context, made, RunOutcome("FINISHED", "up to pack", reached, 5))
    page = parent_run.record_outcome(context, made, RunOutcome("FAILED", error, failed, 6))

    def parents() -> list[Any]:
        found = mlflow.search_runs(
            [training.info.experiment_id], f"tags.`{tracking.PIPELINE_TAG}` = '{context.run_id}'"
        )
        return list(found)

    (run,) = parents()
    assert (
        page
        == f"{environment}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}?workflowType=machine_learning"
    )
    assert (run.info.status, run.info.run_name, run.info.start_time) == ("FAILED", context.run_id, 5)
    assert run.data.tags["snapshot.curate"] == made["curate"].key
    assert run.data.tags["prefect_flow_run_url"] == "http://127.0.0.1:4200/runs/flow-run/0d9f6f6e"
    note = run.data.tags["mlflow.note.content"]
    assert r"JobFailed: \<script\>\[x\]" in note
    assert "hunter2" not in note
    assert "| filter&emsp; | `filter0000000000`&emsp; | Completed&emsp; | 900&emsp; | 500&emsp; |" in note
    assert [one.dataset.name for one in run.inputs.dataset_inputs] == [f"pack-{made['pack'].key}"]
    assert mlflow.get_run(training.info.run_id).data.tags["mlflow.parentRunId"] == run.info.run_id

    manifest = stage.make(plan, context)
    assert manifest.mlflow_run_id == run.info.run_id
    registered = [*failed, {"stage": "register", "key": plan.key, "state": "Failed", "seconds": 2.0}]
    assert parent_run.record_outcome(context, made, RunOutcome("FAILED", "refused by the gate", registered, 7)) is None
    (run,) = parents()
    assert run.info.status == "FINISHED"
    assert "JobFailed" not in run.data.tags["mlflow.note.content"]

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    assert parent_run.record_outcome(context, made, RunOutcome("KILLED", "stopped", reached, 5)) is None
    assert "does not answer" in caplog.text
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert parent_run.record_outcome(context, made, RunOutcome("KILLED", "stopped", reached, 5)) is None


# Alone in a process, so that what it imports can be told; the gate refuses, so it is the refusal's test too.
REFUSED = """
import json, sys
from pathlib import Path
from dataops.errors import GateRefused
from dataops.snapshot import Manifest
from dataops.store import FolderStore
from tasks.engine import stage
from tasks.filter.summary import describe_balance
from tasks.register.config import RegisterConfig
from tasks.register.stage import REGISTER

store = FolderStore(Path(sys.argv[1]))
manifests = [Manifest.model_validate(m) for m in json.loads(sys.argv[2])]
config = RegisterConfig(model_name="refused", floors={"twemoji-seen/top1": 0.5, "held-out/image_to_text_R@1": 0.05})
context = stage.Context(store=store, home=Path(sys.argv[1]), run_name="refusals")
for _ in range(2):
    try:
        stage.make(stage.plan(REGISTER, config, 3, manifests), context)
    except GateRefused as error:
        print(json.dumps({"message": str(error), "code": error.exit_code, "torch": "torch" in sys.modules}))
"""


def test_gate_refuses_once_and_torch_is_never_loaded(environment: str, upstream: SimpleNamespace) -> None:
    manifests = json.dumps([m.model_dump(mode="json") for m in upstream.manifests])
    told = [json.loads(line) for line in python(REFUSED, str(upstream.store.root), manifests).splitlines()]
    message = "refused version 1 is refused by the gate: twemoji-seen/top1 is 0.06, floor 0.5"
    assert told == [{"message": message, "code": 5, "torch": False}] * 2
    (version,) = versions("refused")
    assert version.tags["gate"] == "refused: twemoji-seen/top1 is 0.06, floor 0.5"
    assert client().get_model_version_by_alias("refused", "candidate").version == version.version
    assert client().get_model_version("refused", version.version).aliases == ["candidate"]
    assert client().get_run(version.run_id).info.status == "FINISHED"


# In an environment without pairmill: what it can import, the scores, and every class that was unpickled meanwhile.
PREDICT = """
import base64, importlib.util, json, sys
import mlflow.pyfunc, pandas as pd
from mlflow.exceptions import MlflowException

class Pickled(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input

uri, folder, paths, texts = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), json.loads(sys.argv[4])
ours = ("flows", "tasks", "infra", "dataops", "training", "prefect", "boto3")
told = {"foreign": [name for name in ours if importlib.util.find_spec(name)], "unpickled": []}
images = [open(path, "rb").read() for path in paths]
coded = [base64.b64encode(image).decode() for image in images]
others = ["no image", "/etc/passwd", "http://x/y.png", "file:red.png", "file:../red.png", "file:/etc/passwd", "file:none"]
frame = pd.DataFrame({"image": [*images, *coded, f"data:image/png;base64,{coded[0]}", b"no image", *others]})
frame.index += 7
sys.addaudithook(lambda event, what: event == "pickle.find_class" and told["unpickled"].append(str(what)))
for name, settings in (("strict", {}), ("allowed", {"image_folder": folder})):
    model = mlflow.pyfunc.load_model(uri, model_config=settings)
    scores = model.predict(frame, params={"texts": texts})
    told[name] = scores.to_dict("records")
prompted = model.predict(frame[:1], params={"texts": texts, "templates": ["a photo of {c}", "{c}"]})
told |= {"index": list(scores.index), "prompted": prompted.to_dict("records"), "unpickled": [*told["unpickled"]]}
mlflow.pyfunc.save_model("pickled", python_model=Pickled(), pip_requirements=[])
try:
    mlflow.pyfunc.load_model("pickled")
except MlflowException as error:
    told["refused"] = str(error)
print(json.dumps(told))
"""


def test_where_only_its_requirements_are_the_model_scores_as_ours_loaded_and_served(
    registered: Any, environment: str, upstream: SimpleNamespace, tmp_path: Path
) -> None:
    from mlflow.artifacts import download_artifacts

    uri, paths = "models:/clip-demo@champion", []
    for color in ("red", "blue"):
        image = Image.new("RGB", (48, 40), "white")
        ImageDraw.Draw(image).ellipse((6, 6, 36, 36), fill=color)
        image.save(tmp_path / f"{color}.png")
        paths.append(tmp_path / f"{color}.png")
    asked = Path(download_artifacts(artifact_uri=f"{uri}/requirements.txt", dst_path=str(tmp_path)))
    bare = BareEnvironment(tmp_path / "bare", asked.read_text().splitlines())
    with serving(bare, uri, tmp_path) as address:  # they start side by side
        arguments = (uri, str(tmp_path), json.dumps([str(path) for path in paths]), json.dumps(TEXTS))
        told = json.loads(bare.python(PREDICT, *arguments, cwd=tmp_path))
        coded = [base64.b64encode(path.read_bytes()).decode() for path in paths]
        served = score(address, coded)["predictions"]
        for path in ("/etc/passwd", "file:red.png"):  # MLflow itself refuses what is not base64
            with pytest.raises(urllib.error.HTTPError, match="400"):
                score(address, [path])
    reference = json.loads(python(REFERENCE, str(upstream.model), arguments[2], arguments[3]))
    for rows in (told["strict"][:2], told["strict"][2:4], told["allowed"][:2], served):
        for row, cosines, chances in zip(rows, reference["similarities"], reference["probabilities"], strict=True):
            assert row["similarities"] == pytest.approx(cosines, abs=1e-5)
            assert row["probabilities"] == pytest.approx(chances, abs=1e-5)
            assert row["label"] == TEXTS[chances.index(max(chances))]
            assert row["error"] is None
    assert told["strict"][4] == told["strict"][0]
    assert told["strict"][5]["probabilities"] is None
    assert "not a readable picture" in told["strict"][5]["error"]
    assert [row["error"] for row in told["strict"][6:]] == ["neither image bytes nor base64"] * 7
    assert [row["error"] is None for row in told["allowed"][6:]] == [False, False, False, True, False, False, False]
    assert sum(told["prompted"][0]["probabilities"]) == pytest.approx(1)
    assert told["index"] == list(range(7, 20))
    assert told["foreign"] == told["unpickled"] == []
    assert "pickle is disallowed" in told["refused"]


@contextmanager
def serving(bare: BareEnvironment, uri: str, folder: Path) -> Iterator[str]:
    """`mlflow models serve` of that environment, while the `with` lasts; the address at which it will answer."""
    port = free_port()
    command = [
        str(bare.programs / "mlflow"),
        "models",
        "serve",
        "-m",
        uri,
        "--env-manager",
        "local",
        "--port",
        str(port),
    ]
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=bare.variables(), stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield f"http://127.0.0.1:{port}"
    except OSError as error:
        raise AssertionError((folder / "serve.log").read_text()[-3000:]) from error
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


def score(address: str, images: list[str], patience_s: float = 60) -> Any:
    """What the served model says of images against TEXTS, as soon as it answers."""
    asked = {
        "dataframe_split": {"columns": ["image"], "data": [[image] for image in images]},
        "params": {"texts": TEXTS},
    }
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/invocations", json.dumps(asked).encode(), headers)
    deadline = time.monotonic() + patience_s
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.URLError as error:
            if isinstance(error, urllib.error.HTTPError) or time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def test_a_registered_model_is_found_by_its_name_and_fetched_once(
    registered: Any, upstream: SimpleNamespace, tmp_path: Path
) -> None:
    """As curate's scores and `pairmill eval` ask for one."""
    by_alias = find_model("models:/clip-demo@champion", tmp_path)
    assert by_alias.path.is_relative_to(tmp_path)
    assert by_alias.name == f"models:/clip-demo/{registered[0].facts['version']}"
    assert by_alias.digest == find_model(str(upstream.model), tmp_path).digest
    fetched = (by_alias.path / "model.safetensors").stat().st_mtime_ns
    assert find_model(f"clip-demo/{registered[0].facts['version']}", tmp_path) == by_alias
    assert (by_alias.path / "model.safetensors").stat().st_mtime_ns == fetched
    assert [path.name for path in (tmp_path / "models").iterdir()] == [by_alias.path.name]
    for none in ("models:/clip-demo/999", "models:/clip-demo@nobody", "models:/no such model/1"):
        with pytest.raises(ConfigError, match="refused"):
            find_model(none, tmp_path)


def test_floor_of_an_unknown_metric_names_those_that_there_are(environment: str, upstream: SimpleNamespace) -> None:
    plan, context = planned(upstream, model_name="typo", floors={"twemoji/top1": 0.1})
    with pytest.raises(ConfigError, match=r"twemoji/top1: no such metric; there are .*twemoji-seen/top1"):
        stage.make(plan, context)
    assert versions("typo") == []


def test_server_that_is_down_is_a_service_error_at_once(
    environment: str, upstream: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:hunter2@127.0.0.1:{free_port()}")
    plan, context = planned(upstream, model_name="nowhere")
    start = time.monotonic()
    with pytest.raises(ServiceError, match=r"MLflow at http://127\.0\.0\.1:\d+ does not answer") as caught:
        stage.make(plan, context)
    assert time.monotonic() - start < 10
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "ours"),
    [
        ("INVALID_PARAMETER_VALUE", ConfigError),
        ("PERMISSION_DENIED", ConfigError),
        ("INTERNAL_ERROR", ServiceError),
        ("TEMPORARILY_UNAVAILABLE", ServiceError),
    ],
)
def test_only_what_may_help_is_to_be_tried_again(environment: str, code: str, ours: type[Exception]) -> None:
    from mlflow.exceptions import RestException

    with pytest.raises(ours, match="http://host/db") as caught, tracking.mlflow_errors():
        raise RestException({"error_code": code, "message": "no: http://u:hunter2@host/db"})
    assert "hunter2" not in str(caught.value)


def test_links_open_the_pages(registered: Any, environment: str) -> None:
    links = page_urls(registered[0].facts)
    facts = registered[0].facts
    assert links == facts["links"]
    assert links["run"].startswith(f"{environment}/#/experiments/{facts['experiment_id']}/runs/{facts['run_id']}?")
    assert links["model version"].startswith(f"{environment}/#/models/clip-demo/versions/{facts['version']}")


def test_a_training_shows_curves_that_move_while_it_runs(environment: str, tmp_path: Path, monkeypatch) -> None:
    from tasks.train import live_metrics as train_live
    from training.config import TrainConfig

    monkeypatch.setattr(train_live, "POLL_SECONDS", 0.2)
    monkeypatch.setattr(train_live, "SYSTEM_SECONDS", 1)
    context = Context(store=FolderStore(tmp_path / "store"), home=tmp_path, run_name="live", run_id="live-1")
    work = Work(TrainConfig(), 0, {}, Draft(context.store, "train", "1" * 16), context)

    def write(first: int, last: int) -> None:
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.writelines(f'{{"step":{step},"loss":{1 / step},"lr":0.1}}\n' for step in range(first, last + 1))
        with (tmp_path / "evidence-throughput.jsonl").open("a") as file:
            file.write(f'{{"step":{last},"samples_per_second":10.0}}\n')

    def history(metric: str) -> list[int]:
        runs = client.search_runs([client.get_experiment_by_name("live").experiment_id])  # pyright: ignore
        assert len(runs) <= 1
        return sorted(point.step for run in runs for point in client.get_metric_history(run.info.run_id, metric))

    def wait_for(steps: list[int]) -> None:
        deadline = time.monotonic() + 60
        while client.get_experiment_by_name("live") is None or history("train/loss") != steps:
            assert time.monotonic() < deadline
            time.sleep(0.1)

    client = tracking.connect()
    with train_live.LiveRun(work, tmp_path):
        write(1, 5)
        wait_for([1, 2, 3, 4, 5])  # while it runs
        time.sleep(3)  # several looks at the machine's load
        write(6, 8)
    assert history("train/loss") == list(range(1, 9))
    assert history("train/samples_per_second") == [5, 8]
    write(9, 9)
    with pytest.raises(ValueError, match="spike"), train_live.LiveRun(work, tmp_path):  # another try goes on in it
        raise ValueError("spike")
    assert history("train/loss") == list(range(1, 10))
    run = client.search_runs([client.get_experiment_by_name("live").experiment_id])[0]  # pyright: ignore
    assert run.info.status == "FAILED"
    assert run.data.params["train.model"] == "ViT-B-32"
    assert any(name.startswith("system/") for name in run.data.metrics), run.data.metrics


def ranked(store: FolderStore, name: str, right: list[bool]) -> Manifest:
    """An evaluation of the task `twemoji-seen` in which these examples were right."""
    table = pa.table({"key": [str(n) for n in range(len(right))], "rank": [1 if one else 2 for one in right]})
    draft = Draft(store, "evaluate", f"{name:0<16}"[:16])
    parts = [draft.put_bytes("metrics.json", json.dumps(METRICS).encode())]
    parts += [draft.put_table("predictions-twemoji-seen.parquet", table)]
    parts += [draft.put_bytes("evaluation.html", b"<!doctype html>how good it is")]
    suite = [Input(stage="suite", key="demo", digest="5" * 64)]
    made = commit(store, "evaluate", parts, Counts(), inputs=suite)
    fresh = made.model_copy(update={"key": draft.key, "parts": parts, "content_digest": content_digest(parts)})
    return draft.commit(fresh)


def test_a_model_that_is_worse_than_the_champion_is_a_candidate_and_aliases_leave_a_trail(
    environment: str, upstream: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.commands.promote import promote

    results: list[str] = []
    for name, right in (("first", 120), ("same", 119), ("worse", 100)):
        evaluated = ranked(upstream.store, f"ev{name}", [n < right for n in range(200)])
        theirs = SimpleNamespace(**{**vars(upstream), "manifests": [evaluated, *upstream.manifests[1:]]})
        plan, context = planned(theirs, model_name="rivals", not_worse=("twemoji-seen",))
        try:
            results.append(stage.make(plan, context).facts["gate"])
        except GateRefused as error:
            results.append(str(error))
    assert results[:2] == ["passed", "passed"]
    assert "rivals version 3 is refused by the gate: worse than rivals version 2 on twemoji-seen" in results[2]
    assert "(19 only the champion, 0 only this one, p 1.91e-06)" in results[2]
    assert client().get_model_version_by_alias("rivals", "champion").version == "2"
    assert client().get_model_version_by_alias("rivals", "candidate").version == "3"
    assert "p 0.5" in client().get_model_version("rivals", "2").tags["champion_test"]
    with pytest.raises(ConfigError, match="--reason"):
        promote("rivals/1", "champion", " ", as_json=False)
    assert promote("models:/rivals/1", "champion", "version 2 is slow", as_json=False) == 0
    assert "moved from version 2 to version 1 (its gate: passed)" in capsys.readouterr().out
    assert client().get_model_version_by_alias("rivals", "champion").version == "1"
    assert promote("rivals", "champion", "", as_json=True) == 0
    moves = json.loads(capsys.readouterr().out)["moves"]
    assert [(m["alias"], m["before"], m["after"]) for m in moves] == [
        ("champion", None, "1"), ("champion", "1", "2"), ("candidate", None, "3"), ("champion", "2", "1"),
    ]  # fmt: skip
    assert moves[-1]["why"] == "version 2 is slow"
    with pytest.raises(ConfigError):
        promote("rivals/99", "champion", "why not", as_json=False)


def test_what_cannot_be_compared_is_refused(environment: str, upstream: SimpleNamespace) -> None:
    evaluated = ranked(upstream.store, "evother", [True] * 200)
    theirs = SimpleNamespace(**{**vars(upstream), "manifests": [evaluated, *upstream.manifests[1:]]})
    for manifests, tasks in ((theirs, ()), (upstream, ("twemoji-seen",))):
        plan, context = planned(manifests, model_name="unlike", not_worse=tasks)
        if not tasks:
            stage.make(plan, context)
            continue
        with pytest.raises(
            GateRefused, match=r"twemoji-seen cannot be compared with unlike version 1: .* has no ranks"
        ):
            stage.make(plan, context)
    plan, context = planned(upstream, model_name="unlike", not_worse=("typo",))
    with pytest.raises(ConfigError, match="typo: no such task; there are held-out, twemoji-seen"):
        stage.make(plan, context)


def test_the_card_and_the_lineage_are_linked_and_escaped(registered: Any, tmp_path: Path) -> None:
    manifest = registered[0]
    version = client().get_model_version_by_alias("clip-demo", "champion")
    assert f"/runs/{manifest.mlflow_run_id}/artifacts/model_card.html" in version.description
    folder = Path(client().download_artifacts(manifest.mlflow_run_id, "", str(tmp_path)))
    card, plain = (folder / "model_card.html").read_text(), (folder / "model_card.md").read_text()
    found = ("10 of 200 pictures of 1 evaluation sets", "5.00%", "25.00%", "1.00% – 71.00%", "0.085")
    for said in ("6.00%", "3.00% – 10.00%", "400 pairs", "Contamination", *found, "no licence"):
        assert said in card
        assert said in plain
    assert '<svg xmlns="http://www.w3.org/2000/svg" class="lineage"' in card
    for event in map(json.loads, (folder / "lineage.jsonl").read_text().splitlines()):
        assert event["eventType"] == "COMPLETE"


def test_a_takedown_tags_each_model_that_saw_the_pair_and_a_trace_tells_it(
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
    plan, context = planned(theirs, model_name="saw-it")
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
    tags = client().get_model_version("saw-it", "1").tags
    digest = report["request"]["digest"]
    assert tags["takedowns"] == digest
    assert f"1 pairs of dataset {packed.key}" in tags[f"takedown.{digest}"]
    assert client().get_model_version_by_alias("clip-demo", "champion").tags.get("takedowns") is None
    assert trace.trace(url, tmp_path, str(store.root), limit=5, index=True, as_json=True) == 0
    (told,) = json.loads(capsys.readouterr().out)["stores"]
    (dataset,) = told["datasets"]
    (model,) = dataset["models"]
    assert (dataset["key"], model["uri"], model["aliases"]) == (packed.key, "models:/saw-it/1", ["champion"])
    assert model["tags"]["takedowns"] == digest
    verdicts = {(p["stage"], p["key"]): p["verdict"] for p in told["places"]}
    assert verdicts[("pack", packed.key)] == "kept"
    assert trace.trace("models:/saw-it@champion", tmp_path, str(store.root), limit=5, index=True, as_json=False) == 0
    said = capsys.readouterr().out
    assert f"was trained on pairs that takedown {digest} removed" in said
    assert packed.key in said
