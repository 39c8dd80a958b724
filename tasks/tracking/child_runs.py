"""Write the child runs of a registration in MLflow: its training and its evaluation.

A training that was followed live (tasks/train/curves.py) has a run already; others get theirs here,
from their snapshot. A run has at most one parent, so each registration that shares a training or an
evaluation gets its own child.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

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
