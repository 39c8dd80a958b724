"""Write MLflow runs through its client. Each call may be repeated after a crash without duplicates.

The fluent interface (`mlflow.start_run`, `log_model`) is not used: it keeps the run in global
state, and its calls append when repeated. MLflow is imported inside functions, because the import
takes two seconds.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from dataops.errors import ConfigError, ServiceError
from dataops.redaction import redact, remove_credentials

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.store.entities.paged_list import PagedList

T = TypeVar("T")
logger = logging.getLogger(__name__)

DATASETS_TAG = "dataset_keys"
"""Tag with the keys of the datasets of a training that has several; `snapshot.pack` is that of its run."""
KEY_TAG = "pairmill.register_key"
"""Tag of runs, logged models and versions: the key of their register snapshot."""
PIPELINE_TAG = "pairmill.pipeline_run"
"""Tag of the run that tasks/tracking/parent_run.py writes for an unregistered pipeline run: the pipeline run's id."""
RUN_TAG = "pairmill.run_id"
"""Tag of all runs that a pipeline run has made: its id."""
PARAMS_AT_ONCE, METRICS_AT_ONCE = 100, 1000  # MLflow's limits of one request
PARAM_LENGTH, TAG_LENGTH, NAME_LENGTH = 6000, 8000, 250  # MLflow's limits of one value or name
CLIENT_DEFAULTS = {
    # with MLflow's own retries, a server that is down blocks a run for minutes
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # stdout is reserved for --json
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_MODEL_CATALOG_URI": "",
    # otherwise a uv.lock in the current folder, whoever owns it, becomes part of the model
    "MLFLOW_UV_AUTO_DETECT": "false",
}
"""Environment variables and their defaults, set before the first import of MLflow."""


def tracking_uri() -> str:
    """Return the URI of the MLflow server.

    Raises: ConfigError if none is set: MLflow would create a database in the current folder.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not uri:
        raise ConfigError(
            "MLFLOW_TRACKING_URI is not set; start the local servers with `pairmill up`, or set your server's URL"
        )
    return uri


@contextmanager
def mlflow_errors() -> Iterator[None]:
    """Convert MLflow's errors, without credentials in their messages.

    Raises: ConfigError if the server refuses the request (rights, names), where a retry cannot help; ServiceError if it
        fails or does not answer.
    """
    from mlflow.exceptions import MlflowException, RestException
    from requests.exceptions import RequestException

    uri = remove_credentials(tracking_uri())
    try:
        yield
    except RestException as error:
        reason = redact(str(error))
        if error.get_http_status_code() in (400, 401, 403, 404, 409):
            is_unknown = "Model" in reason and "not found" in reason
            remedy = "; `pairmill models` lists the registered models" if is_unknown else ""
            raise ConfigError(f"MLflow at {uri} refused the request: {reason}{remedy}") from error
        raise ServiceError(f"MLflow at {uri} failed: {reason}") from error
    except (MlflowException, RequestException) as error:
        reason = redact(str(error)).splitlines()[0][:500]
        raise ServiceError(
            f"MLflow at {uri} does not answer ({reason}); see `pairmill status`, or check MLFLOW_TRACKING_URI"
        ) from error


def connect() -> "MlflowClient":
    """Return a client of the server that the environment names, without a request to it."""
    uri = tracking_uri()
    os.environ.update(CLIENT_DEFAULTS | os.environ)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def read_pages(search: Callable[[str | None], "PagedList[T]"]) -> Iterator[T]:
    """Yield what a search finds on all of its pages; `search` takes the token of one."""
    page = search(None)
    yield from page
    while page.token:
        page = search(page.token)
        yield from page


def find_aliased_version(client: "MlflowClient", name: str, alias: str) -> "ModelVersion | None":
    """Return the version of a registered model that has the alias; None if there is none."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def open_run(
    client: "MlflowClient",
    experiment: str,
    key: str,
    name: str,
    tags: Mapping[str, str],
    pipeline_run: str | None = None,
) -> "Run":
    """Return the run of a key, with status RUNNING: the run of an earlier attempt if there is one, else a new run.

    Args:
        pipeline_run: id of the pipeline run; the run that it wrote before its registration is used for this key.
    """
    experiment_id = _open_experiment(client, experiment)
    found = find_run(client, experiment_id, key, pipeline_run)
    if found is not None:
        logger.debug("%s resumes MLflow run %s", key, found.info.run_id)
        client.set_tag(found.info.run_id, KEY_TAG, key)
        client.update_run(found.info.run_id, status="RUNNING")
    run = found or client.create_run(experiment_id, tags={KEY_TAG: key}, run_name=name)
    log_tags(client, run, tags)
    return client.get_run(run.info.run_id)


def find_run(client: "MlflowClient", experiment_id: str, key: str, pipeline_run: str | None = None) -> "Run | None":
    """Return the run of a key, else the unregistered run of the pipeline run; None if there is neither."""

    def search(tag: str, value: str) -> list["Run"]:
        return list(client.search_runs([experiment_id], f"tags.`{tag}` = '{value}'", order_by=["start_time"]))

    found = search(KEY_TAG, key)
    if not found and pipeline_run:
        found = [run for run in search(PIPELINE_TAG, pipeline_run) if KEY_TAG not in run.data.tags]
    return found[0] if found else None


def _open_experiment(client: "MlflowClient", name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name)
        except MlflowException:  # another run created it first, or the server failed: the next request shows which
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise ConfigError(
            f"MLflow experiment {name!r} was deleted; restore it, delete it permanently (mlflow gc), or rename the run"
        )
    return found.experiment_id


def log_tags(client: "MlflowClient", run: "Run", tags: Mapping[str, str]) -> None:
    """Set tags, truncated to MLflow's limits."""
    from mlflow.entities import RunTag

    items = [RunTag(name[:NAME_LENGTH], value[:TAG_LENGTH]) for name, value in sorted(tags.items())]
    _log_batches(client, run, "tags", items, PARAMS_AT_ONCE)


def log_params(client: "MlflowClient", run: "Run", params: Mapping[str, str]) -> None:
    """Log the params that the run does not have yet: MLflow refuses to change a param."""
    from mlflow.entities import Param

    items = [Param(name, value) for name, value in params.items() if name not in run.data.params]
    _log_batches(client, run, "params", items, PARAMS_AT_ONCE)


def log_curves(client: "MlflowClient", run: "Run", rows: Sequence[Mapping[str, Any]], timestamp_ms: int) -> None:
    """Log rows that hold `step` and numbers, as `train/<name>`.

    Args:
        timestamp_ms: time of all points, the same at each attempt, so that MLflow recognises a repeated point.
    """
    from mlflow.entities import Metric

    points = [
        Metric(f"train/{name}"[:NAME_LENGTH], float(value), timestamp_ms, int(row["step"]))
        for row in rows
        for name, value in row.items()
        if name != "step" and isinstance(value, int | float) and not isinstance(value, bool)
    ]
    log_metrics(client, run, points)


def log_metrics(client: "MlflowClient", run: "Run", points: Sequence["Metric"]) -> None:
    """Log points of metrics in batches: one request for each takes 17 ms."""
    _log_batches(client, run, "metrics", points, METRICS_AT_ONCE)


def _log_batches(client: "MlflowClient", run: "Run", kind: str, items: Sequence[object], size: int) -> None:
    for start in range(0, len(items), size):
        batch: dict[str, Any] = {kind: items[start : start + size]}
        client.log_batch(run.info.run_id, **batch)


def finish(client: "MlflowClient", run: "Run", status: str) -> None:
    """End the run with the status FINISHED or FAILED."""
    client.set_terminated(run.info.run_id, status=status, end_time=int(time.time() * 1000))
