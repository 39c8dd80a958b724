"""The page of an evaluation for an MLflow run: beside the champion's figures, where there is a champion to be had."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from dataops.errors import ConfigError, PairmillError
from dataops.snapshot import Manifest, find
from tasks.engine.stage import Work
from tasks.evaluate.config import EvaluateConfig
from tasks.evaluate.run_suite import Evaluation, stored
from tasks.evaluate.stage import PAGE
from tasks.register.config import RegisterConfig
from training.evaluation.comparison import compare
from training.evaluation.intervals import flatten_metrics
from training.evaluation.suite import Suite

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

logger = logging.getLogger(__name__)


def find_champion_evaluation(work: Work[RegisterConfig], champion: "ModelVersion | None") -> Evaluation | None:
    """What was measured on the version that has the alias; None where that is not in the store, or this very model's."""
    key = champion.tags.get("snapshot.evaluate", "") if champion is not None else ""
    if champion is None or not key or key == work.inputs["evaluate"].key:
        return None
    try:
        manifest = find(work.draft.store, "evaluate", key)
    except PairmillError:
        return None
    return manifest and stored(f"{champion.name} version {champion.version}", work.draft.store, manifest)


def values_by_key(evaluation: Evaluation | None) -> dict[str, float]:
    """Each figure of an evaluation by the key of its row."""
    return {row["key"]: row["value"] for row in flatten_metrics(evaluation.metrics)} if evaluation else {}


def render_evaluation_page(work: Work[RegisterConfig], champion: Evaluation | None) -> bytes:
    """The page with the champion beside the model; without one, or without the suite's pictures, as evaluate left it."""
    from tasks.evaluate.report import report_html  # matplotlib takes a second

    evaluated = work.inputs["evaluate"]
    left = work.draft.store.read(evaluated.path(PAGE))
    if champion is None:
        return left
    try:
        suite = _suite(work.context.run_config, evaluated)
        name = f"{work.config.model_name} (evaluation {evaluated.key})"
        new = stored(name, work.draft.store, evaluated)
        compared = _compared(new.predictions(), champion.predictions())
        return report_html(suite, new, champion, compared).encode("utf-8", "replace")
    except (PairmillError, OSError) as error:
        logger.warning("register %s: the evaluation's page shows no champion: %s", work.draft.key, error)
        return left


def _suite(run_config: Mapping[str, Any], evaluated: Manifest) -> Suite:
    """The suite as it was measured. Raises: ConfigError where it is not on this machine, or changed since."""
    try:
        suite = EvaluateConfig.model_validate(run_config.get("evaluate", {})).load()
    except ValueError as error:
        raise ConfigError("the run's config names no suite") from error
    if not any(i.stage == "suite" and i.digest == suite.digest() for i in evaluated.inputs):
        raise ConfigError("the suite is another one by now")
    return suite


def _compared(new: Mapping[str, pa.Table], champion: Mapping[str, pa.Table]) -> dict[str, dict[str, dict[str, Any]]]:
    """A comparison of each task that both have seen the same images of."""
    same = (task for task, table in new.items() if task in champion and table["key"].equals(champion[task]["key"]))
    return {task: compare(new[task], champion[task]) for task in same}
