"""Write the child runs of a registration in MLflow: its training and its evaluation.

A training that was followed live (tasks/train/curves.py) has a run already; others get theirs here,
from their snapshot. A run has at most one parent, so each registration that shares a training or an
evaluation gets its own child.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from dataops.snapshot import Manifest
from tasks.tracking import client as tracking
from tasks.tracking import run_metadata

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Dataset, Run

PARENT_TAG = "mlflow.parentRunId"
STAGES = ("train", "evaluate")


def log_child_runs(
    client: "MlflowClient",
    parent: "Run",
    experiment: str,
    inputs: Mapping[str, Manifest],
    curve: Sequence[Mapping[str, object]],
    datasets: Mapping[str, "Dataset"],
    timestamp_ms: int,
) -> "dict[str, Run]":
    """Log a child run for each of STAGES, and return them; each call may be repeated.

    Args:
        curve: rows of the training's metrics.jsonl and holdout.jsonl.
        datasets: MLflow datasets by task; the training set has the name "", other training sets pack/KEY.
        timestamp_ms: time of all points, the same at each attempt.
    """
    children: dict[str, Run] = {}
    for stage in STAGES:
        manifest = inputs[stage]
        tags = {PARENT_TAG: parent.info.run_id, f"pairmill.{stage}_key": manifest.key, "mlflow.source.name": "pairmill"}
        name = f"{stage}-{manifest.key}"
        existing = tracking.find_run(client, parent.info.experiment_id, name)
        is_taken = existing is not None and existing.data.tags.get(PARENT_TAG, parent.info.run_id) != parent.info.run_id
        key = f"{name}-{parent.data.tags[tracking.KEY_TAG]}" if is_taken else name
        title = f"{stage} {run_metadata.name_run(parent.data.tags.get('pairmill.run_id'), manifest.key)}"
        run = children[stage] = tracking.open_run(client, experiment, key, title, tags)
        if stage == "train" and "train/loss" not in run.data.metrics:
            tracking.log_curves(client, run, curve, timestamp_ms)
        used = {task: dataset for task, dataset in datasets.items() if is_training_set(task) == (stage == "train")}
        tracking.log_params(client, run, run_metadata.flatten_params({stage: manifest.config}))
        log_datasets(client, run, used)
        tracking.finish(client, run, "FINISHED")
    return children


def is_training_set(name: str) -> bool:
    """Return whether a name among MLflow datasets is that of a training set; the name of a task has no slash."""
    return not name or "/" in name


def find_parent_tag(client: "MlflowClient", run: "Run", run_id: str | None) -> dict[str, str]:
    """Return the tag that makes a run the child of its pipeline run's; none if it has a parent, or there is no such run."""
    if not run_id or PARENT_TAG in run.data.tags:
        return {}
    query = f"tags.`{tracking.PIPELINE_TAG}` = '{run_id}'"
    parents = client.search_runs([run.info.experiment_id], query, order_by=["start_time DESC"], max_results=1)
    return {PARENT_TAG: parents[0].info.run_id} if parents else {}


def log_datasets(client: "MlflowClient", run: "Run", datasets: Mapping[str, "Dataset"]) -> None:
    """Log datasets as inputs of a run, by task; the training set has the name "", other training sets pack/KEY."""
    from mlflow.entities import DatasetInput, InputTag

    entries = [
        DatasetInput(dataset, [InputTag("mlflow.data.context", "training" if is_training_set(task) else "evaluation")])
        for task, dataset in datasets.items()
    ]
    client.log_inputs(run.info.run_id, entries)


CLASSIC = "workflowType=machine_learning"
EXPERIMENTS = f"#/experiments?{CLASSIC}"
"""Path of the list of experiments."""
VIEW = "pairmill"
"""Name of the view, in the URL of the list."""
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
"""Tag of an experiment that holds the view, as the button "Share" of the list makes one."""


def runs_path(experiment_id: object) -> str:
    """Return the path of the list of an experiment's runs, in our view."""
    return f"#/experiments/{experiment_id}/runs?viewStateShareKey={VIEW}&{CLASSIC}"


def run_path(experiment_id: object, run_id: object, artefact: str = "") -> str:
    """Return the path of a run's page, or of one of its artefacts."""
    page = f"/artifacts/{quote(artefact)}" if artefact else ""
    return f"#/experiments/{experiment_id}/runs/{run_id}{page}?{CLASSIC}"


def version_path(name: str, version: object) -> str:
    """Return the path of the page of a registered model's version."""
    return f"#/models/{quote(name, safe='')}/versions/{version}?{CLASSIC}"


def render_view(metrics: Iterable[str]) -> str:
    """Return the value of VIEW_TAG: a list with a column for the registered model and one for each metric."""
    return json.dumps({"selectedColumns": ["attributes.`Models`", *(f"metrics.`{name}`" for name in metrics)]})
