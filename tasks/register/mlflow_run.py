"""Record one registration in MLflow: the run, its artefacts, its logged model, its child runs, and the version.

Each of these is found again by a tag, and each call is skipped or harmless if an earlier attempt made it, so that a killed
registration can be repeated. The order matters (MLflow 3.17): first the run's own metrics, then the logged model, then the
metrics that name both the model and a dataset. In any other order the pages of the model list no datasets, or MLflow links
a metric twice (a UNIQUE error).
"""

import logging
from typing import TYPE_CHECKING, Any

from tasks.register.artefacts import log_artefacts
from tasks.register.model import log_model, log_results
from tasks.register.registration import Registration
from tasks.register.version import write_version
from tasks.tracking import client as tracking
from tasks.tracking import run_metadata
from tasks.tracking.child_runs import log_child_runs, log_datasets

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

logger = logging.getLogger(__name__)


def record_registration(registration: Registration) -> "ModelVersion":
    """Write all that an earlier attempt has not written, and return the complete version."""
    work, client = registration.work, registration.client
    context, key = work.context, work.draft.key
    tags = registration.tags | run_metadata.SOURCE_TAGS
    tags["mlflow.note.content"] = registration.render_description({})
    name = context.run_id or f"register-{key}"
    run = tracking.open_run(client, context.run_name, key, name, tags, pipeline_run=context.run_id)
    try:
        version = _fill_run(registration, run)
    except BaseException:
        _mark_failed(registration, run)
        raise
    tracking.finish(client, run, "FINISHED")
    return version


def _fill_run(registration: Registration, run: "Run") -> "ModelVersion":
    work, client, curve, time_ms = registration.work, registration.client, registration.curve, registration.trained_ms
    tracking.log_params(client, run, run_metadata.build_params(work.inputs, work.config.key_config(), work.seed))
    tracking.log_curves(client, run, curve, time_ms)
    datasets = _build_datasets(registration)
    log_datasets(client, run, datasets)
    log_artefacts(registration, run)
    model_id = log_model(registration, run)
    log_results(registration, run, model_id, datasets)
    log_child_runs(client, run, work.context.run_name, work.inputs, curve, registration.rows, datasets, time_ms)
    return write_version(registration, run, model_id)


def _build_datasets(registration: Registration) -> dict[str, Any]:
    """Return the training set as "" and each task of the suite by its name, as MLflow datasets."""
    from mlflow.entities import Dataset

    uri, inputs = registration.work.draft.store.uri, registration.work.inputs
    fields = {"": run_metadata.describe_training_dataset(inputs["pack"], uri)}
    fields |= run_metadata.describe_evaluation_datasets(inputs["evaluate"], registration.metrics, uri)
    return {task: Dataset(**values) for task, values in fields.items()}


def _mark_failed(registration: Registration, run: "Run") -> None:
    from mlflow.exceptions import MlflowException

    try:
        tracking.finish(registration.client, run, "FAILED")
    except MlflowException as error:  # probably the same failure of the server that ended the registration
        logger.warning(
            "MLflow run %s has the status RUNNING until the next attempt: %s", run.info.run_id, type(error).__name__
        )
