"""Write the MLflow run of a pipeline run: it begins with the first stage that is made, and ends when the flow run ends.

The run is written by REST, without the import of MLflow. A rerun of the pipeline run updates the
same MLflow run, and `register` continues it as the run of the version (tasks/tracking/client.py,
open_run): a pipeline run has one parent run, however many attempts it takes. The run is for display
only: a failure of MLflow never fails a pipeline run.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from dataops.errors import ServiceError
from dataops.escaping import escape_markdown
from dataops.redaction import redact
from dataops.snapshot import Manifest
from dataops.trace.sources import TrainingDataset, list_training_datasets, stored_manifests
from tasks.engine.context import Context
from tasks.engine.stage import code_version
from tasks.tracking import client as tracking
from tasks.tracking import pages, rest, run_metadata
from tasks.tracking.child_runs import PARENT_TAG

logger = logging.getLogger(__name__)

Status = Literal["FINISHED", "FAILED", "KILLED"]
ERROR_LENGTH = 2000


@dataclass(frozen=True)
class RunOutcome:
    """The outcome of a pipeline run."""

    status: Status
    summary: str
    """One sentence, or the error."""
    stages: Sequence[Mapping[str, Any]]
    """`stage`, `key`, `state` and `seconds` of each stage that it reached."""
    began_ms: int
    """Unix time of its start, in milliseconds."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Further tags: the results of the checks of its dataset, and of a dataset that grows, on one line each."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Metrics."""


def record_outcome(context: Context, manifests: Mapping[str, Manifest], outcome: RunOutcome) -> str | None:
    """Write the outcome of a pipeline run into its MLflow run; return the URL of its page.

    Args:
        manifests: snapshots that it made or reused, by stage.

    Returns: None if nothing was written: all was reused from another pipeline run, no server is set, or the request
        failed, which is logged.
    """
    return _try_to_write(context, lambda: _write_run(context, manifests, outcome))


def open_run(context: Context, began_ms: int) -> str | None:
    """Begin the MLflow run of a pipeline run, or continue it, and return the URL of its page.

    Args:
        began_ms: Unix time of the pipeline run's start, in milliseconds.

    Returns: None if no server is set or a request failed, which is logged.
    """
    return _try_to_write(context, lambda: _begin_run(context, began_ms))


def end_killed(run_name: str, run_id: str) -> None:
    """Give the MLflow runs of a pipeline run whose process was killed the status KILLED, unless they have ended.

    Raises: ServiceError if MLflow does not answer, or refuses.
    """
    if not rest.is_supported() or (experiment := rest.get("experiments/get-by-name", experiment_name=run_name)) is None:
        return
    for run in _find_runs(str(experiment["experiment"]["experiment_id"]), tracking.RUN_TAG, run_id):
        if run["info"]["status"] == "RUNNING":
            _end_run(run, "KILLED")


def _try_to_write(context: Context, write: Callable[[], str | None]) -> str | None:
    if not context.run_id or not rest.is_supported():
        return None
    try:
        return write()
    except Exception as error:  # a run that cannot be displayed must not fail
        logger.warning("MLflow does not show %s: %s: %s", context.run_id, type(error).__name__, redact(str(error)))
        return None


def _begin_run(context: Context, began_ms: int) -> str:
    experiment = _open_experiment(context.run_name)
    if not (runs := _find_runs(experiment, tracking.PIPELINE_TAG, str(context.run_id))):
        run = _create_run(context, experiment, began_ms)
    elif unregistered := [run for run in runs if tracking.KEY_TAG not in _tags(run)]:
        run = unregistered[0]
        _post("runs/update", run_id=run["info"]["run_id"], status="RUNNING")
    else:  # a version was registered from it; another registration may get a run of its own
        run = runs[-1]
    return _page_url(experiment, run)


def _create_run(context: Context, experiment: str, began_ms: int) -> dict[str, Any]:
    name = run_metadata.name_run(context.run_id, str(context.run_id))
    tags = run_metadata.build_run_tags(context.run_id, context.flow_run_id, context.flow_run_url)
    tags |= run_metadata.SOURCE_TAGS | {tracking.PIPELINE_TAG: str(context.run_id)}
    fields = {"run_name": name, "start_time": began_ms, "tags": _list_tags(tags)}
    return _post("runs/create", experiment_id=experiment, **fields)["run"]


def _write_run(context: Context, manifests: Mapping[str, Manifest], outcome: RunOutcome) -> str | None:
    experiment = _open_experiment(context.run_name)
    reached = {str(stage["stage"]): str(stage["key"]) for stage in outcome.stages}
    runs = _find_runs(experiment, tracking.PIPELINE_TAG, str(context.run_id))
    unregistered = [run for run in runs if tracking.KEY_TAG not in _tags(run)]
    if unregistered:
        run = unregistered[0]
    elif "register" in reached and _find_runs(experiment, tracking.KEY_TAG, reached["register"]):
        return _end_registered(experiment, runs, reached["register"], outcome)
    else:
        run = _create_run(context, experiment, outcome.began_ms)
    run_id = run["info"]["run_id"]
    _post("runs/log-batch", run_id=run_id, tags=_build_tags(context, manifests, outcome))
    _log_figures(run_id, outcome)
    if packs := stored_manifests(_list_datasets(context, manifests)) or [m for m in [manifests.get("pack")] if m]:
        tags = [{"key": "mlflow.data.context", "value": "training"}]
        described = [run_metadata.describe_training_dataset(pack, context.store.uri) for pack in packs]
        _post("runs/log-inputs", run_id=run_id, datasets=[{"dataset": one, "tags": tags} for one in described])
    if "train" in reached:
        for training in _find_runs(experiment, tracking.KEY_TAG, f"train-{reached['train']}"):
            if PARENT_TAG not in _tags(training):  # a reused training stays the child of the run of its model
                _post("runs/set-tag", run_id=training["info"]["run_id"], key=PARENT_TAG, value=run_id)
    _end_run(run, outcome.status)
    return _page_url(experiment, run)


def _end_registered(experiment: str, runs: Sequence[Mapping[str, Any]], key: str, outcome: RunOutcome) -> str | None:
    """End the run of a registration, which has written all else; None if another pipeline run registered the version."""
    for run in runs:
        if _tags(run).get(tracking.KEY_TAG) == key:
            _log_figures(run["info"]["run_id"], outcome)
            _end_run(run, outcome.status)
            return _page_url(experiment, run)
    return None


def _log_figures(run_id: str, outcome: RunOutcome) -> None:
    if outcome.tags:
        now = int(time.time() * 1000)
        metrics = [
            {"key": name, "value": value, "timestamp": now, "step": 0} for name, value in outcome.figures.items()
        ]
        _post("runs/log-batch", run_id=run_id, tags=_list_tags(outcome.tags), metrics=metrics)


def _end_run(run: Mapping[str, Any], status: Status) -> None:
    _post("runs/update", run_id=run["info"]["run_id"], status=status, end_time=int(time.time() * 1000))


def _page_url(experiment: str, run: Mapping[str, Any]) -> str:
    server = tracking.remove_credentials(tracking.tracking_uri()).rstrip("/")
    return f"{server}/{pages.run_path(experiment, run['info']['run_id'])}"


def _open_experiment(name: str) -> str:
    """Return the id of the experiment; a new one gets the view of its list of runs, which `register` completes."""
    if found := rest.get("experiments/get-by-name", experiment_name=name):
        return str(found["experiment"]["experiment_id"])
    view = [{"key": pages.VIEW_TAG, "value": pages.render_view(["train/loss"])}]
    return str(_post("experiments/create", name=name, tags=view)["experiment_id"])


def _find_runs(experiment: str, key: str, value: str) -> list[dict[str, Any]]:
    """Return the runs with a tag, oldest first."""
    query = {"filter": f"tags.`{key}` = '{value}'", "order_by": ["attributes.start_time"], "max_results": 100}
    return _post("runs/search", experiment_ids=[experiment], **query).get("runs", [])


def _tags(run: Mapping[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in run["data"].get("tags", [])}


def _post(endpoint: str, **fields: object) -> dict[str, Any]:
    response = rest.post(endpoint, **fields)
    if response is None:
        raise ServiceError(f"MLflow refused {endpoint}")
    return response


def _list_datasets(context: Context, manifests: Mapping[str, Manifest]) -> list[TrainingDataset]:
    train = manifests.get("train")
    return [] if train is None else list_training_datasets(train, context.store, manifests.get("pack"))


def _build_tags(context: Context, manifests: Mapping[str, Manifest], outcome: RunOutcome) -> list[dict[str, str]]:
    datasets = _list_datasets(context, manifests)
    tags = run_metadata.build_lineage_tags(manifests, context.run_config, code_version(), datasets)
    tags |= run_metadata.build_run_tags(context.run_id, context.flow_run_id, context.flow_run_url)
    tags |= run_metadata.SOURCE_TAGS | {"mlflow.note.content": _render_note(context, manifests, outcome)}
    return _list_tags(tags)


def _list_tags(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": name, "value": value[: tracking.TAG_LENGTH]} for name, value in tags.items()]


def _render_note(context: Context, manifests: Mapping[str, Manifest], outcome: RunOutcome) -> str:
    """Return the Markdown of the run's page: the outcome, and a table of the stages."""
    blocks = [f"**{outcome.status.capitalize()}**: {escape_markdown(redact(outcome.summary)[:ERROR_LENGTH])}"]
    blocks += [f"{name.capitalize()}: {escape_markdown(value)}" for name, value in outcome.tags.items()]
    blocks += [run_metadata.render_stages(outcome.stages, manifests), run_metadata.SPACE] if outcome.stages else []
    if outcome.status != "FAILED":  # the summary of a failed run has the remedy
        blocks.append(f"`pairmill rerun {context.run_id}` continues it")
    return "\n\n".join(blocks)
