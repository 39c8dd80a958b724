"""The evaluation job, a subprocess that loads torch: a stage and `pairmill eval` start it with the same settings."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.engine.subprocess_job import ranks_launcher, run_job
from training.evaluation.suite import Suite


@dataclass(frozen=True)
class EvaluationSettings:
    """Settings of the computation, as in EvaluateConfig."""

    batch_size: int = 256
    device: str = "cpu"
    precision: str = "fp32"
    nproc: int = 1


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
        "batch_size": settings.batch_size,
        "device": settings.device,
        "precision": settings.precision,
        "features": str(features),
    }
    run_job("training.evaluate", job, folder, launcher=ranks_launcher(settings.nproc), on_line=on_line)
    return json.loads((folder / "metrics.json").read_text("utf-8"))
