"""The MLflow run of a pipeline run that ended before its registration: how it ended, what it made, what stopped it.

It is written once the flow run has ended, by REST. Where the pipeline run is taken further the same MLflow run is: a next
end is written over this one, and `register` makes it the run of the version (tasks/tracking.open_run). So a pipeline run
has one parent run, however often it was tried. It is sight alone: what MLflow does not take never fails a run.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dataops.errors import ServiceError
from dataops.escaping import markdown
from dataops.redaction import redact
from dataops.snapshot import Manifest
from tasks.engine.context import Context
from tasks.engine.stage import code_version
from tasks.tracking import client as tracking
from tasks.tracking import rest as mlflow_rest
from tasks.tracking import run_metadata as ancestry
from tasks.tracking.child_runs import PARENT_TAG

logger = logging.getLogger(__name__)

Status = Literal["FINISHED", "FAILED", "KILLED"]
ERROR_LENGTH = 2000


@dataclass(frozen=True)
class RunOutcome:
    """How a pipeline run ended."""

    status: Status
    said: str
    """In one sentence; the error, where there was one."""
    stages: Sequence[Mapping[str, Any]]
    """`stage`, `key`, `state` and `seconds` of each stage that it reached."""
    began_ms: int


def record_outcome(context: Context, manifests: Mapping[str, Manifest], end: RunOutcome) -> str | None:
    """Write the end of a pipeline run into its MLflow run; the address of its page.

    Args:
        manifests: what it has made or found, by stage.

    Returns: None where nothing was written: the registration has a run, there is no server, or it does not take it, which
        is logged.
    """
    if not context.run_id or not mlflow_rest.reachable():
        return None
    try:
        return _record(context, manifests, end)
    except Exception as error:  # a lost picture of a run must not become the run's end
        logger.warning("MLflow shows no end of %s: %s: %s", context.run_id, type(error).__name__, redact(str(error)))
        return None


def _record(context: Context, manifests: Mapping[str, Manifest], end: RunOutcome) -> str | None:
    experiment = _experiment(context.run_name)
    reached = {str(stage["stage"]): str(stage["key"]) for stage in end.stages}
    tag = {"key": tracking.PIPELINE_TAG, "value": str(context.run_id)}
    unregistered = [run for run in _find(experiment, **tag) if tracking.KEY_TAG not in _tags(run)]
    if not unregistered and "register" in reached and _find(experiment, tracking.KEY_TAG, reached["register"]):
        return None
    begin = {"run_name": context.run_id, "start_time": end.began_ms, "tags": [tag]}
    run = unregistered[0] if unregistered else _post("runs/create", experiment_id=experiment, **begin)["run"]
    run_id = run["info"]["run_id"]
    _post("runs/log-batch", run_id=run_id, tags=_told(context, manifests, end))
    if "pack" in manifests:
        dataset = ancestry.training_dataset(manifests["pack"], context.store.uri)
        entry = {"dataset": dataset, "tags": [{"key": "mlflow.data.context", "value": "training"}]}
        _post("runs/log-inputs", run_id=run_id, datasets=[entry])
    if "train" in reached:
        for training in _find(experiment, tracking.KEY_TAG, f"train-{reached['train']}"):
            if PARENT_TAG not in _tags(training):  # one that is reused stays under the model that came of it
                _post("runs/set-tag", run_id=training["info"]["run_id"], key=PARENT_TAG, value=run_id)
    _post("runs/update", run_id=run_id, status=end.status, end_time=int(time.time() * 1000))
    base = tracking.tracking_uri().rstrip("/")
    return f"{base}/#/experiments/{experiment}/runs/{run_id}?workflowType=machine_learning"


def _experiment(name: str) -> str:
    found = mlflow_rest.get("experiments/get-by-name", experiment_name=name)
    return str(
        found["experiment"]["experiment_id"] if found else _post("experiments/create", name=name)["experiment_id"]
    )


def _find(experiment: str, key: str, value: str) -> list[dict[str, Any]]:
    """The runs with a tag, oldest first."""
    wanted = {"filter": f"tags.`{key}` = '{value}'", "order_by": ["attributes.start_time"], "max_results": 100}
    return _post("runs/search", experiment_ids=[experiment], **wanted).get("runs", [])


def _tags(run: Mapping[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in run["data"].get("tags", [])}


def _post(what: str, **asked: Any) -> dict[str, Any]:
    told = mlflow_rest.post(what, **asked)
    if told is None:
        raise ServiceError(f"it refused {what}")
    return told


def _told(context: Context, manifests: Mapping[str, Manifest], end: RunOutcome) -> list[dict[str, str]]:
    tags = ancestry.lineage_tags(manifests, context.run_config, code_version())
    tags |= ancestry.run_tags(context.run_id, context.flow_run_id, context.flow_run_url)
    tags |= ancestry.SOURCE_TAGS | {"mlflow.note.content": _note(context, manifests, end)}
    return [{"key": name, "value": value[: tracking.TAG_LENGTH]} for name, value in tags.items()]


def _note(context: Context, manifests: Mapping[str, Manifest], end: RunOutcome) -> str:
    """What the run's page shows: the error, and a line a stage."""
    blocks = [f"**{end.status.capitalize()}**: {markdown(redact(end.said)[:ERROR_LENGTH])}"]
    lines = [
        ancestry.table_line("stage", "snapshot", "state", "rows in", "kept", "seconds"),
        "|:--|:--|:--|--:|--:|--:|",
    ]
    for stage in end.stages:
        counts = manifests[stage["stage"]].counts if stage["stage"] in manifests else None
        rows = (f"{counts.input:,}", f"{counts.kept:,}") if counts is not None and counts.input else ("-", "-")
        state = (str(stage["stage"]), f"`{stage['key']}`", str(stage["state"]))
        lines.append(ancestry.table_line(*state, *rows, f"{stage['seconds']:,.1f}"))
    blocks += ["\n".join(lines), ancestry.SPACE] if end.stages else []
    blocks.append(f"`pairmill rerun {context.run_id}` takes it further")
    return "\n\n".join(blocks)
