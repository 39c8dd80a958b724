"""Write the MLflow run of a pipeline run that ended before its registration: how it ended, its stages, and its error.

The run is written by REST after the flow run has ended. A rerun of the pipeline run updates the same MLflow run, and
`register` continues it as the run of the version (tasks/tracking/client.py, open_run): a pipeline run has one parent run,
however many attempts it takes. The run is for display only: a failure of MLflow never fails a pipeline run.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dataops.errors import ServiceError
from dataops.escaping import escape_markdown
from dataops.redaction import redact
from dataops.snapshot import Manifest
from tasks.engine.context import Context
from tasks.engine.stage import code_version
from tasks.tracking import client as tracking
from tasks.tracking import rest, run_metadata
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


def record_outcome(context: Context, manifests: Mapping[str, Manifest], outcome: RunOutcome) -> str | None:
    """Write the outcome of a pipeline run into its MLflow run; return the URL of its page.

    Args:
        manifests: snapshots that it made or reused, by stage.

    Returns: None if nothing was written: the registration has a run, no server is set, or the request failed, which is
        logged.
    """
    if not context.run_id or not rest.is_supported():
        return None
    try:
        return _write_run(context, manifests, outcome)
    except Exception as error:  # a run that cannot be displayed must not fail
        logger.warning("MLflow does not show %s: %s: %s", context.run_id, type(error).__name__, redact(str(error)))
        return None


def _write_run(context: Context, manifests: Mapping[str, Manifest], outcome: RunOutcome) -> str | None:
    experiment = _open_experiment(context.run_name)
    reached = {str(stage["stage"]): str(stage["key"]) for stage in outcome.stages}
    tag = {"key": tracking.PIPELINE_TAG, "value": str(context.run_id)}
    unregistered = [run for run in _find_runs(experiment, **tag) if tracking.KEY_TAG not in _tags(run)]
    if not unregistered and "register" in reached and _find_runs(experiment, tracking.KEY_TAG, reached["register"]):
        return None
    start = {"run_name": context.run_id, "start_time": outcome.began_ms, "tags": [tag]}
    run = unregistered[0] if unregistered else _post("runs/create", experiment_id=experiment, **start)["run"]
    run_id = run["info"]["run_id"]
    _post("runs/log-batch", run_id=run_id, tags=_build_tags(context, manifests, outcome))
    if "pack" in manifests:
        dataset = run_metadata.describe_training_dataset(manifests["pack"], context.store.uri)
        entry = {"dataset": dataset, "tags": [{"key": "mlflow.data.context", "value": "training"}]}
        _post("runs/log-inputs", run_id=run_id, datasets=[entry])
    if "train" in reached:
        for training in _find_runs(experiment, tracking.KEY_TAG, f"train-{reached['train']}"):
            if PARENT_TAG not in _tags(training):  # a reused training stays the child of the run of its model
                _post("runs/set-tag", run_id=training["info"]["run_id"], key=PARENT_TAG, value=run_id)
    _post("runs/update", run_id=run_id, status=outcome.status, end_time=int(time.time() * 1000))
    base = tracking.tracking_uri().rstrip("/")
    return f"{base}/#/experiments/{experiment}/runs/{run_id}?workflowType=machine_learning"


def _open_experiment(name: str) -> str:
    found = rest.get("experiments/get-by-name", experiment_name=name)
    return str(
        found["experiment"]["experiment_id"] if found else _post("experiments/create", name=name)["experiment_id"]
    )


def _find_runs(experiment: str, key: str, value: str) -> list[dict[str, Any]]:
    """Return the runs with a tag, oldest first."""
    query = {"filter": f"tags.`{key}` = '{value}'", "order_by": ["attributes.start_time"], "max_results": 100}
    return _post("runs/search", experiment_ids=[experiment], **query).get("runs", [])


def _tags(run: Mapping[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in run["data"].get("tags", [])}


def _post(endpoint: str, **fields: Any) -> dict[str, Any]:
    response = rest.post(endpoint, **fields)
    if response is None:
        raise ServiceError(f"MLflow refused {endpoint}")
    return response


def _build_tags(context: Context, manifests: Mapping[str, Manifest], outcome: RunOutcome) -> list[dict[str, str]]:
    tags = run_metadata.build_lineage_tags(manifests, context.run_config, code_version())
    tags |= run_metadata.build_run_tags(context.run_id, context.flow_run_id, context.flow_run_url)
    tags |= run_metadata.SOURCE_TAGS | {"mlflow.note.content": _render_note(context, manifests, outcome)}
    return [{"key": name, "value": value[: tracking.TAG_LENGTH]} for name, value in tags.items()]


def _render_note(context: Context, manifests: Mapping[str, Manifest], outcome: RunOutcome) -> str:
    """Return the Markdown of the run's page: the outcome, and a table of the stages."""
    blocks = [f"**{outcome.status.capitalize()}**: {escape_markdown(redact(outcome.summary)[:ERROR_LENGTH])}"]
    lines = [
        run_metadata.format_table_row("stage", "snapshot", "state", "rows in", "kept", "seconds"),
        "|:--|:--|:--|--:|--:|--:|",
    ]
    for stage in outcome.stages:
        counts = manifests[stage["stage"]].counts if stage["stage"] in manifests else None
        rows = (f"{counts.input:,}", f"{counts.kept:,}") if counts is not None and counts.input else ("-", "-")
        state = (str(stage["stage"]), f"`{stage['key']}`", str(stage["state"]))
        lines.append(run_metadata.format_table_row(*state, *rows, f"{stage['seconds']:,.1f}"))
    blocks += ["\n".join(lines), run_metadata.SPACE] if outcome.stages else []
    if outcome.status != "FAILED":  # the summary of a failed run says what to do
        blocks.append(f"`pairmill rerun {context.run_id}` continues it")
    return "\n\n".join(blocks)
