"""Write the child runs of a registration in MLflow: its training and its evaluation.

A training that was followed live (tasks/train/live_metrics.py) has a run already; others get theirs here, from their
snapshot. A run has at most one parent, so each registration that shares a training or an evaluation gets its own child.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

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
    curve: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    datasets: Mapping[str, "Dataset"],
    timestamp_ms: int,
) -> None:
    """Log a child run for each of STAGES; each call may be repeated.

    Args:
        curve: rows of the training's metrics.jsonl.
        rows: the evaluation's `flatten_metrics`.
        datasets: MLflow datasets by task; the training set has the name "".
        timestamp_ms: time of all points, the same at each attempt.
    """
    for stage in STAGES:
        manifest = inputs[stage]
        tags = {PARENT_TAG: parent.info.run_id, f"pairmill.{stage}_key": manifest.key, "mlflow.source.name": "pairmill"}
        name = f"{stage}-{manifest.key}"
        existing = tracking.find_run(client, parent.info.experiment_id, name)
        is_taken = existing is not None and existing.data.tags.get(PARENT_TAG, parent.info.run_id) != parent.info.run_id
        key = f"{name}-{parent.data.tags[tracking.KEY_TAG]}" if is_taken else name
        run = tracking.open_run(client, experiment, key, name, tags)
        if stage == "train":
            if "train/loss" not in run.data.metrics:
                tracking.log_curves(client, run, curve, timestamp_ms)
            used = {"": datasets[""]}
        else:
            _log_summary(client, run, rows, timestamp_ms)
            used = {task: dataset for task, dataset in datasets.items() if task}
        tracking.log_params(client, run, run_metadata.flatten_params({stage: manifest.config}))
        log_datasets(client, run, used)
        tracking.finish(client, run, "FINISHED")


def _log_summary(client: "MlflowClient", run: "Run", rows: Sequence[Mapping[str, Any]], timestamp_ms: int) -> None:
    from mlflow.entities import Metric

    points = [
        Metric(row["key"], float(row["value"]), timestamp_ms, 0)
        for row in rows
        if row["value"] is not None and row["key"] not in run.data.metrics
    ]
    tracking.log_metrics(client, run, points)


def log_datasets(client: "MlflowClient", run: "Run", datasets: Mapping[str, "Dataset"]) -> None:
    """Log datasets as inputs of a run, by task; the training set has the name ""."""
    from mlflow.entities import DatasetInput, InputTag

    entries = [
        DatasetInput(dataset, [InputTag("mlflow.data.context", "evaluation" if task else "training")])
        for task, dataset in datasets.items()
    ]
    client.log_inputs(run.info.run_id, entries)
