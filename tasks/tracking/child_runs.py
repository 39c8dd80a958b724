"""The runs that lie under a registration's in MLflow: its training and its evaluation.

The training's own run is there already where it was watched while it trained (tasks/train/live_metrics.py), else it is made here
from what the snapshot holds. Of a training or an evaluation that several registrations share each has a run of its own: one
run can lie under one parent only.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dataops.snapshot import Manifest
from tasks.tracking import client as tracking
from tasks.tracking import run_metadata as ancestry

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Dataset, Run

PARENT_TAG = "mlflow.parentRunId"
STAGES = ("train", "evaluate")


def nest(
    client: "MlflowClient",
    parent: "Run",
    experiment: str,
    inputs: Mapping[str, Manifest],
    curve: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    datasets: Mapping[str, "Dataset"],
    at_ms: int,
) -> None:
    """Put the run of each of STAGES under the parent's; each call can be made again.

    Args:
        curve: rows of the training's metrics.
        rows: of the evaluation's summary.
        datasets: of MLflow, by the task that was measured on them; the training's by "".
        at_ms: of all points, the same at every try.
    """
    for stage in STAGES:
        manifest = inputs[stage]
        tags = {PARENT_TAG: parent.info.run_id, f"pairmill.{stage}_key": manifest.key, "mlflow.source.name": "pairmill"}
        name = f"{stage}-{manifest.key}"
        holder = tracking.find_run(client, parent.info.experiment_id, name)
        taken = holder is not None and holder.data.tags.get(PARENT_TAG, parent.info.run_id) != parent.info.run_id
        key = f"{name}-{parent.data.tags[tracking.KEY_TAG]}" if taken else name
        run = tracking.open_run(client, experiment, key, name, tags)
        if stage == "train":
            if "train/loss" not in run.data.metrics:
                tracking.log_curves(client, run, curve, at_ms)
            measured = {"": datasets[""]}
        else:
            _log_summary(client, run, rows, at_ms)
            measured = {task: dataset for task, dataset in datasets.items() if task}
        tracking.log_params(client, run, ancestry.flat_params({stage: manifest.config}))
        log_datasets(client, run, measured)
        tracking.finish(client, run, "FINISHED")


def _log_summary(client: "MlflowClient", run: "Run", rows: Sequence[Mapping[str, Any]], at_ms: int) -> None:
    from mlflow.entities import Metric

    points = [
        Metric(row["key"], float(row["value"]), at_ms, 0)
        for row in rows
        if row["value"] is not None and row["key"] not in run.data.metrics
    ]
    for start in range(0, len(points), tracking.METRICS_AT_ONCE):
        client.log_batch(run.info.run_id, metrics=points[start : start + tracking.METRICS_AT_ONCE])


def log_datasets(client: "MlflowClient", run: "Run", datasets: Mapping[str, "Dataset"]) -> None:
    """Name datasets as what a run has read, by the task that was measured on them; the training's by ""."""
    from mlflow.entities import DatasetInput, InputTag

    entries = [
        DatasetInput(dataset, [InputTag("mlflow.data.context", "evaluation" if task else "training")])
        for task, dataset in datasets.items()
    ]
    client.log_inputs(run.info.run_id, entries)
