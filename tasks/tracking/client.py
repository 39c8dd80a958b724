"""MLflow through its client: every call can be made again after a crash without doubling what it wrote.

The fluent interface (`mlflow.start_run`, `log_model`) is not used: it keeps the run in global state and appends on a second
try. MLflow is imported here only when a run is recorded.
"""

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dataops.errors import ConfigError, ServiceError
from dataops.redaction import redact, without_credentials

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

KEY_TAG = "pairmill.register_key"
"""On runs, logged models and versions: the key of the register snapshot that they belong to."""
PIPELINE_TAG = "pairmill.pipeline_run"
"""On the run that a pipeline run which ended before its registration left (tasks/tracking/parent_run.py): the pipeline run's id."""
PARAMS_AT_ONCE, METRICS_AT_ONCE = 100, 1000  # MLflow's limits of one request
PARAM_LENGTH, TAG_LENGTH, NAME_LENGTH = 6000, 8000, 250  # and of one value or name
QUIET = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # else a server that is down holds a run up for minutes
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout is for --json alone
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_MODEL_CATALOG_URI": "",
    "MLFLOW_UV_AUTO_DETECT": "false",  # else the lock file of whoever stands in the current folder goes into the model
}
"""Defaults of the environment, set before MLflow is first imported."""


def tracking_uri() -> str:
    """The address of the MLflow server.

    Raises: ConfigError when none is set: MLflow would write a database into the current folder.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not uri:
        raise ConfigError(
            "MLFLOW_TRACKING_URI is not set; start the local servers with `pairmill up`, or set your server's address"
        )
    return uri


@contextmanager
def mlflow_errors() -> Iterator[None]:
    """Turn MLflow's errors into ours.

    Raises: ConfigError where the server refused for good (rights, names: trying again would not help), ServiceError where
        it did not answer or failed. Neither message holds credentials.
    """
    from mlflow.exceptions import MlflowException, RestException
    from requests.exceptions import RequestException

    where = without_credentials(tracking_uri())
    try:
        yield
    except RestException as error:
        reason = redact(str(error))
        if error.get_http_status_code() in (400, 401, 403, 404, 409):
            raise ConfigError(f"MLflow at {where} refused: {reason}") from error
        raise ServiceError(f"MLflow at {where} failed: {reason}") from error
    except (MlflowException, RequestException) as error:
        reason = redact(str(error)).splitlines()[0][:500]
        raise ServiceError(
            f"MLflow at {where} does not answer ({reason}); see `pairmill status`, or check MLFLOW_TRACKING_URI"
        ) from error


def connect() -> "MlflowClient":
    """A client of the server that the environment names. Nothing is asked of it yet."""
    uri = tracking_uri()
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def open_run(
    client: "MlflowClient",
    experiment: str,
    key: str,
    name: str,
    tags: Mapping[str, str],
    pipeline_run: str | None = None,
) -> "Run":
    """The run of this key in the experiment, running: the one that an earlier try left, or a new one.

    Args:
        pipeline_run: the id of the pipeline run whose parent run this is: what its earlier ends left is taken over.
    """
    experiment_id = _experiment(client, experiment)
    found = find_run(client, experiment_id, key, pipeline_run)
    if found is not None:
        logger.info("%s goes on in MLflow run %s", key, found.info.run_id)
        client.set_tag(found.info.run_id, KEY_TAG, key)
        client.update_run(found.info.run_id, status="RUNNING")
    run = found or client.create_run(experiment_id, tags={KEY_TAG: key}, run_name=name)
    log_tags(client, run, tags)
    return client.get_run(run.info.run_id)


def find_run(client: "MlflowClient", experiment_id: str, key: str, pipeline_run: str | None = None) -> "Run | None":
    """The run of this key, or what earlier ends of the pipeline run left; None where there is neither."""

    def tagged(name: str, value: str) -> list["Run"]:
        return list(client.search_runs([experiment_id], f"tags.`{name}` = '{value}'", order_by=["start_time"]))

    found = tagged(KEY_TAG, key)
    if not found and pipeline_run:
        found = [run for run in tagged(PIPELINE_TAG, pipeline_run) if KEY_TAG not in run.data.tags]
    return found[0] if found else None


def _experiment(client: "MlflowClient", name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name)
        except MlflowException:  # another run was first, or the server failed: the next look tells
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise ConfigError(
            f"MLflow experiment {name!r} was deleted; restore it, delete it for good (mlflow gc), or name the run anew"
        )
    return found.experiment_id


def log_tags(client: "MlflowClient", run: "Run", tags: Mapping[str, str]) -> None:
    """Set tags, cut to MLflow's length."""
    from mlflow.entities import RunTag

    items = [RunTag(name[:NAME_LENGTH], value[:TAG_LENGTH]) for name, value in sorted(tags.items())]
    for start in range(0, len(items), PARAMS_AT_ONCE):
        client.log_batch(run.info.run_id, tags=items[start : start + PARAMS_AT_ONCE])


def log_params(client: "MlflowClient", run: "Run", params: Mapping[str, str]) -> None:
    """Log the params that the run does not have yet: MLflow refuses to change one."""
    from mlflow.entities import Param

    items = [Param(name, value) for name, value in params.items() if name not in run.data.params]
    for start in range(0, len(items), PARAMS_AT_ONCE):
        client.log_batch(run.info.run_id, params=items[start : start + PARAMS_AT_ONCE])


def log_curves(client: "MlflowClient", run: "Run", rows: Sequence[Mapping[str, Any]], timestamp_ms: int) -> None:
    """Log rows that hold `step` and numbers, as `train/<name>`.

    Args:
        timestamp_ms: of all points, the same at every try: MLflow then takes a point that it has for the same point.
    """
    from mlflow.entities import Metric

    points = [
        Metric(f"train/{name}"[:NAME_LENGTH], float(value), timestamp_ms, int(row["step"]))
        for row in rows
        for name, value in row.items()
        if name != "step" and isinstance(value, int | float) and not isinstance(value, bool)
    ]
    for start in range(0, len(points), METRICS_AT_ONCE):
        client.log_batch(run.info.run_id, metrics=points[start : start + METRICS_AT_ONCE])


def finish(client: "MlflowClient", run: "Run", status: str) -> None:
    """End the run: FINISHED or FAILED."""
    client.set_terminated(run.info.run_id, status=status, end_time=int(time.time() * 1000))
