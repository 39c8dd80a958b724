"""The run, the artefacts and the version of a registration, and repeated and interrupted registrations."""

import json
import time
from pathlib import Path

import pytest

from dataops import plugins
from dataops.errors import ConfigError, ServiceError
from tasks.engine import stage
from tasks.register import registration
from tasks.register.documents import describe_version, fetch_manifests
from tasks.tracking import client as tracking
from tests.kills.seaweed import free_port
from tests.registrations import (
    connect,
    find_versions,
    plan_registration,
)

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("register"),
]  # the server and the first import of MLflow take long on a busy machine


def test_registration_records_the_whole_ancestry_in_the_run_and_the_version(registered, upstream, mlflow_url):
    manifest = registered[0]
    facts = manifest.facts
    mlflow = connect()
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
        assert tags["prefect_flow_run_url"] == "http://127.0.0.1:4200/runs/flow-run/0d9f6f6e"
        assert tags["pairmill.register_key"] == manifest.key
        assert {name: tags[f"snapshot.{name}"] for name in by_stage} == {s: m.key for s, m in by_stage.items()}
        assert {"config_hash", "git_commit", "code_dirty"} <= tags.keys()
    assert version.tags["gate"] == "passed"
    documents = describe_version(facts["model_uri"])
    assert documents["README.md"].partition("\n---\n")[2].startswith("# clip-demo")
    assert documents["LICENSE"].startswith(f"Licences of the model {facts['model_uri']}\n")
    described = fetch_manifests("clip-demo@champion")
    assert (described.name, described.others) == (facts["model_uri"], [])
    assert {name: described.manifests[name] for name in by_stage} == by_stage
    assert run.data.params["train.model"] == "tiny"
    assert run.data.params["filter.endpoint"] == "https://example.org/x"
    assert run.data.params["filter.api_token"] == "***"

    main = {"pairs": 400, "twemoji-seen/top1": 0.06, "held-out/image_to_text_R_at_1": 0.1, "train/loss": 5 / 120}
    assert run.data.metrics == main
    history = mlflow.get_metric_history(run.info.run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(s, 5 / s) for s in range(1, 121)]
    inputs = {i.dataset.name: i for i in run.inputs.dataset_inputs}
    assert inputs.keys() == {f"pack-{pack.key}", "twemoji-seen", "held-out"}
    training = inputs[f"pack-{pack.key}"]
    assert (training.tags[0].value, inputs["held-out"].tags[0].value) == ("training", "evaluation")
    assert training.dataset.digest == pack.content_digest[:36]
    from mlflow.data import get_source

    assert (Path(get_source(training).load()) / "manifest.json").is_file()

    (model,) = mlflow.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
    linked = {metric.key: metric.dataset_name for metric in model.metrics}
    assert linked["train/final_loss"] == f"pack-{pack.key}"
    assert linked["twemoji-seen/top1"] == "twemoji-seen"
    (evaluation,) = {metric.run_id for metric in model.metrics if metric.key.startswith("twemoji-seen/")}
    metrics = mlflow.get_run(evaluation).data.metrics
    assert (metrics["twemoji-seen/top1"], metrics["twemoji-seen/top1_low"]) == (0.06, 0.03)
    assert (metrics["twemoji-seen/overlap_with_training"], metrics["twemoji-seen/clean_top1"]) == (0.05, 0.05)
    assert version.source == f"models:/{model.model_id}"
    shown = version.description.replace("&emsp;", "")
    assert f"/runs/{run.info.run_id}/artifacts/dataset.html?workflowType=machine_learning)" in shown
    assert "| twemoji-seen | top1 | 6.00% | 3.00% – 10.00% | 1.00% | 200 |" in shown


def test_registration_logs_all_artefacts_with_escaped_text(registered, tmp_path):
    run_id = registered[0].mlflow_run_id
    folder = Path(connect().download_artifacts(run_id, "", str(tmp_path)))
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    stages = ("extract", "filter", "download", "curate", "pack", "train", "evaluate")
    expected = {"config.json", "metrics.json", "metrics.jsonl"}
    expected |= {"model_card.html", "model_card.md", "dataset.html", "evaluation.html"}
    pages = {f"{stage}.html" for stage in plugins.load("pages")}
    expected |= {f"manifests/{stage}.json" for stage in stages}
    assert names == expected | pages
    if pages:
        assert "&lt;script&gt;" in (folder / "filter.html").read_text()
        assert "<img" not in (folder / "download.html").read_text()
        assert "&lt;img src=x onerror=alert(3)&gt;" in (folder / "download.html").read_text()
    for path in folder.rglob("*.json"):
        if path.parent.name != "manifests":  # the fixture's own config, which a real manifest cannot hold
            assert "hunter2" not in path.read_text(), path


def test_registration_is_deterministic_and_omits_credentials(registered, monkeypatch):
    manifest, plan, context = registered
    store = context.store
    first = store.read(manifest.path("registration.json"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking.tracking_uri().replace("://", "://user:hunter2@"))
    stage.discard(plan, context)
    again = stage.make(plan, context)
    assert store.read(again.path("registration.json")) == first
    assert (again.content_digest, again.mlflow_run_id) == (manifest.content_digest, manifest.mlflow_run_id)
    assert len(find_versions("clip-demo")) == 1
    evidence = store.read(again.path("evidence-registration.json"))
    assert b"hunter2" not in evidence + again.model_dump_json().encode()
    assert json.loads(evidence)["model_uri"] == manifest.facts["model_uri"]


@pytest.mark.parametrize(
    "broken", ["log_inputs", "log_model_artifacts", "create_model_version", "set_model_version_tag"]
)
def test_registration_resumes_after_it_is_killed(mlflow_url, upstream, monkeypatch, broken):
    from mlflow import MlflowClient

    name = f"killed-{broken}"
    plan, context = plan_registration(upstream, model_name=name)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, broken, lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        patch.setattr(registration.tracking, "finish", lambda *_: None)  # as a kill would
        with pytest.raises(KeyboardInterrupt):
            stage.make(plan, context)
    manifest = stage.make(plan, context)
    (version,) = find_versions(name)
    assert version.tags["gate"] == "no gate: register.floors is empty; above chance on 2 of 2 tasks"
    assert manifest.facts["alias"] == "champion"
    assert version.run_id == manifest.mlflow_run_id
    run = connect().get_run(manifest.mlflow_run_id)
    assert run.info.status == "FINISHED"
    assert len(connect().get_metric_history(run.info.run_id, "train/loss")) == 120
    assert len(run.inputs.dataset_inputs) == 3
    models = connect().search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
    assert [str(model.status) for model in models] == ["READY"]
    assert len({metric.key for metric in models[0].metrics}) == len(models[0].metrics)


def test_registration_is_repeated_after_its_version_is_deleted(mlflow_url, upstream):
    plan, context = plan_registration(upstream, model_name="short-lived")
    manifest = stage.make(plan, context)
    assert stage.reuse(plan, context) == manifest
    connect().delete_model_version("short-lived", manifest.facts["version"])
    assert stage.reuse(plan, context) is None
    again = stage.make(plan, context)
    assert again.mlflow_run_id == manifest.mlflow_run_id
    assert stage.reuse(plan, context) == again


def test_registration_of_an_earlier_version_does_not_move_the_alias(mlflow_url, upstream):
    floors = {"twemoji-seen/top1": 0.02}
    old, context = plan_registration(upstream, model_name="moving", floors=floors)
    new, _ = plan_registration(upstream, model_name="moving", floors=floors, description="better")
    stage.make(old, context)
    newer = stage.make(new, context)
    stage.discard(old, context)
    assert stage.make(old, context).facts["version"] == "1"
    assert str(connect().get_model_version_by_alias("moving", "champion").version) == newer.facts["version"] == "2"


def test_registration_raises_a_service_error_at_once_when_the_server_is_down(mlflow_url, upstream, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:hunter2@127.0.0.1:{free_port()}")
    plan, context = plan_registration(upstream, model_name="nowhere")
    start = time.monotonic()
    with pytest.raises(ServiceError, match=r"MLflow at http://127\.0\.0\.1:\d+ does not answer") as caught:
        stage.make(plan, context)
    assert time.monotonic() - start < 60, "MLflow's client itself would try for minutes"
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
def test_mlflow_errors_are_retryable_only_when_a_retry_may_help(mlflow_url, code, ours):
    from mlflow.exceptions import RestException

    with pytest.raises(ours, match="http://host/db") as caught, tracking.mlflow_errors():
        raise RestException({"error_code": code, "message": "no: http://u:hunter2@host/db"})
    assert "hunter2" not in str(caught.value)
