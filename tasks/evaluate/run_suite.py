"""Any model against any suite, without a pipeline: `pairmill eval`. The work is done by training.evaluate, as in a run.

Results lie in <home>/evaluations/<model digest>-<suite>/, features of images in <home>/features: a second call with the
same model and data reads them, an interrupted one goes on at the first unfinished task.
"""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dataops.digest import canonical_json, file_sha256
from dataops.snapshot import Manifest, read_table
from dataops.store import Store
from tasks.engine.subprocess_job import ranks, run_job
from tasks.models.find import find_model
from training.evaluation.suite import Suite

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How to compute; the defaults are those of a run."""

    batch_size: int = 256
    device: str = "cpu"
    precision: str = "fp32"
    nproc: int = 1


@dataclass(frozen=True)
class Evaluation:
    """A model's results on a suite."""

    model: str
    """As the user named it."""
    folder: Path
    metrics: dict[str, dict[str, Any]]
    """As metrics.json."""
    read: Callable[[Path], pa.Table] = pq.read_table
    """Reads a file of the folder."""

    def predictions(self) -> dict[str, pa.Table]:
        """Every task's predictions, in the order of the suite."""
        return {task: self.read(self.folder / f"predictions-{task}.parquet") for task in self.metrics}


def stored(model: str, store: Store, manifest: Manifest) -> Evaluation:
    """What a snapshot of evaluate holds."""
    metrics = json.loads(store.read(manifest.path("metrics.json")))
    return Evaluation(model, Path(manifest.path("")), metrics, lambda path: read_table(store, path.as_posix()))


def evaluate_model(
    model: str,
    suite: Suite,
    home: Path,
    settings: Settings | None = None,
    on_line: Callable[[str], None] = lambda line: None,
) -> Evaluation:
    """Evaluate one model on every task of a suite that has no result yet.

    Args:
        model: a folder or file (training/model/load.py), or a registered model: NAME/VERSION, NAME@ALIAS, with or
        without models:/.
        suite: its tasks' roots absolute.
        home: pairmill's own folder.

    Raises: ConfigError where there is no such model; what the job raises.
    """
    settings = settings or Settings()
    path = find_model(model, home).path
    digest = _digest(path, settings)
    folder = home / "evaluations" / f"{digest[:16]}-{suite.name}"
    job = {
        "checkpoint": str(path),
        "suite": suite.model_dump(mode="json"),
        "output": str(folder),
        "batch_size": settings.batch_size,
        "device": settings.device,
        "precision": settings.precision,
        "features": str(home / "features"),
    }
    launcher = ranks(settings.nproc, folder) if settings.nproc > 1 else ()
    run_job("training.evaluate", job, folder, launcher=launcher, on_line=on_line)
    metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
    return Evaluation(model, folder, metrics)


def _digest(path: Path, settings: Settings) -> str:
    """Tells models (and ways to compute) apart; the job's own digests decide what is reused."""
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file())
    digests = [[file.name, file_sha256(file)] for file in files]
    return sha256(canonical_json([digests, settings.batch_size, settings.precision]).encode()).hexdigest()


def average(metrics: Mapping[str, Mapping[str, Any]], suite: Suite) -> dict[str, Any]:
    """The mean over the suite's tasks of the figure that stands for each, with the tasks that it lacks.

    Returns: value (None where nothing was measured), tasks (how many), missing (names, with the reason).
    """
    counted = [result for result in metrics.values() if result["in_average"]]
    values = [result["metrics"][result["main_metric"]]["value"] for result in counted]
    sets = [each for each in suite.absent if "." not in each.name or each.name.rpartition(".")[0] not in metrics]
    missing = {each.name: each.reason for each in sets}
    return {"value": sum(values) / len(values) if values else None, "tasks": len(values), "missing": missing}
