"""Render the evaluation page of an MLflow run, with the champion's results beside the model's if there is a champion."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from dataops.errors import ConfigError, PairmillError
from dataops.snapshot import Manifest
from tasks.engine.stage import Work
from tasks.evaluate.config import EvaluateConfig
from tasks.evaluate.report import report_html
from tasks.evaluate.run_suite import Evaluation, read_evaluation
from tasks.evaluate.stage import PAGE
from tasks.register.config import RegisterConfig
from tasks.register.gate import find_evaluation
from training.evaluation.comparison import compare
from training.evaluation.intervals import flatten_metrics
from training.evaluation.suite import Suite

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

logger = logging.getLogger(__name__)


def read_champion_evaluation(work: Work[RegisterConfig], champion: "ModelVersion | None") -> Evaluation | None:
    """Return the evaluation of the champion; None if the store lacks it, or it is the evaluation of this model."""
    if champion is None or champion.tags.get("snapshot.evaluate") == work.inputs["evaluate"].key:
        return None
    manifest = find_evaluation(work.draft.store, champion)
    return manifest and read_evaluation(f"{champion.name} version {champion.version}", work.draft.store, manifest)


def index_values(evaluation: Evaluation | None) -> dict[str, float]:
    """Return the value of each metric of an evaluation, by the key of its row."""
    return {row["key"]: row["value"] for row in flatten_metrics(evaluation.metrics)} if evaluation else {}


def render_evaluation_page(work: Work[RegisterConfig], champion: Evaluation | None) -> bytes:
    """Return the HTML page that compares both; without a champion or the suite's images, the page of evaluate."""
    evaluated = work.inputs["evaluate"]
    page = work.draft.store.read(evaluated.path(PAGE))
    if champion is None or not any(source.stage == "suite" for source in evaluated.inputs):
        return page
    try:
        suite = _load_suite(work.context.run_config, evaluated)
        name = f"{work.config.model_name} (evaluation {evaluated.key})"
        new = read_evaluation(name, work.draft.store, evaluated)
        compared = _compare_tasks(new.predictions(), champion.predictions())
        return report_html(suite, new, champion, compared).encode("utf-8", "replace")
    except (PairmillError, OSError) as error:
        logger.warning("register %s: the evaluation page does not show the champion: %s", work.draft.key, error)
        return page


def _load_suite(run_config: Mapping[str, object], evaluated: Manifest) -> Suite:
    """Return the suite of an evaluation. Raises: ConfigError if it is not on this machine, or has changed since."""
    try:
        suite = EvaluateConfig.model_validate(run_config.get("evaluate", {})).load()
    except ValueError as error:
        raise ConfigError("the config of the run names no suite") from error
    if not any(i.stage == "suite" and i.digest == suite.digest() for i in evaluated.inputs):
        raise ConfigError("the suite has changed since the evaluation")
    return suite


def _compare_tasks(
    new: Mapping[str, pa.Table], champion: Mapping[str, pa.Table]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return a comparison of each task in which both models were evaluated on the same images."""
    same = (task for task, table in new.items() if task in champion and table["key"].equals(champion[task]["key"]))
    return {task: compare(new[task], champion[task]) for task in same}
