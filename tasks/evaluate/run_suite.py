"""Evaluate any model on any suite, without a pipeline, for `pairmill eval`.

Results lie in <home>/evaluations/<model digest>-<suite>/, features of images in <home>/features. A
second call with the same model and data reads them, and an interrupted one resumes at the first
unfinished task.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from dataops.digest import canonical_json, text_sha256
from dataops.home import private_folder
from dataops.parquet import read_parquet
from dataops.snapshot import Manifest, read_table
from dataops.store import Store
from tasks.engine.subprocess_job import ranks_launcher, run_job
from tasks.models.find import find_model
from training.evaluation.suite import Suite


@dataclass(frozen=True)
class EvaluationSettings:
    """Settings of the computation, as in EvaluateConfig."""

    batch_size: int = 256
    device: str = "cpu"
    precision: str = "fp32"
    nproc: int = 1


@dataclass(frozen=True)
class Evaluation:
    """The results of a model on a suite."""

    model: str
    """Name of the model, as the user wrote it."""
    folder: Path
    metrics: dict[str, dict[str, Any]]
    """Results by task, as in metrics.json."""
    read: Callable[[Path], pa.Table] = lambda path: read_parquet(path, str(path))
    """Function that reads a file of the folder."""

    def predictions(self) -> dict[str, pa.Table]:
        """Return the predictions of every task, in the order of the suite."""
        return {task: self.read(self.folder / f"predictions-{task}.parquet") for task in self.metrics}


def read_evaluation(model: str, store: Store, manifest: Manifest) -> Evaluation:
    """Return the results that a snapshot of evaluate holds."""
    metrics = json.loads(store.read(manifest.path("metrics.json")))
    return Evaluation(model, Path(manifest.path("")), metrics, lambda path: read_table(store, path.as_posix()))


def evaluate_model(
    model: str,
    suite: Suite,
    home: Path,
    settings: EvaluationSettings | None = None,
    on_line: Callable[[str], None] = lambda line: None,
) -> Evaluation:
    """Evaluate one model on every task of a suite that has no result yet.

    Args:
        model: a folder or file (training/model/load.py), or a registered model: NAME/VERSION, NAME@ALIAS, with or
            without models:/.
        suite: the roots of its tasks are absolute.
        home: pairmill's own folder.
        settings: of the computation.
        on_line: called with each line of the job's output.

    Raises: ConfigError where there is no such model; the errors of the job.
    """
    settings = settings or EvaluationSettings()
    files = find_model(model, home)
    # It only names the folder: the job's own digests decide what is reused.
    digest = text_sha256(canonical_json([files.digest, settings.batch_size, settings.precision]))
    folder = private_folder(home) / "evaluations" / f"{digest[:16]}-{suite.name}"
    metrics = run_evaluation(files.path, suite, folder, home / "features", settings, on_line)
    return Evaluation(model, folder, metrics)


def average_metrics(metrics: Mapping[str, Mapping[str, Any]], suite: Suite) -> dict[str, Any]:
    """Return the mean of the main metrics of the suite's tasks, with the tasks that it lacks.

    Returns: value (None where nothing was measured), tasks (how many), missing (names, with the reason).
    """
    counted = [result for result in metrics.values() if result["in_average"]]
    values = [result["metrics"][result["main_metric"]]["value"] for result in counted]
    sets = [each for each in suite.absent if "." not in each.name or each.name.rpartition(".")[0] not in metrics]
    missing = {each.name: each.reason for each in sets}
    return {"value": sum(values) / len(values) if values else None, "tasks": len(values), "missing": missing}


def run_evaluation(
    checkpoint: Path,
    suite: Suite,
    folder: Path,
    features: Path,
    settings: EvaluationSettings,
    on_line: Callable[[str], None] = lambda line: None,
) -> dict[str, dict[str, Any]]:
    """Evaluate a model on every task of a suite that has no result in `folder` yet.

    Args:
        checkpoint: a folder or file that training/model/load.py reads.
        suite: the roots of its tasks are absolute.
        folder: gets metrics.json, predictions-<task>.parquet and the job's log.
        features: folder of image features, which later jobs reuse.
        settings: of the computation.
        on_line: called with each line of the job's output.

    Returns: the results by task, as in metrics.json.
    """
    job = {
        "checkpoint": str(checkpoint),
        "suite": suite.model_dump(mode="json"),
        "output": str(folder),
        "features": str(features),
        **asdict(settings),
    }
    run_job("training.evaluate", job, folder, launcher=ranks_launcher(job.pop("nproc")), on_line=on_line)
    return json.loads((folder / "metrics.json").read_text("utf-8"))
