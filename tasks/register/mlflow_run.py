"""Record one registration in MLflow: the run, its artefacts, its logged model, its child runs, and the version.

Each of these is found again by a tag, and each call is skipped or harmless if an earlier attempt made it, so that a killed
registration can be repeated. The order matters (MLflow 3.17): first the run's own metrics, then the logged model, then the
metrics of the child runs, which name both the model and a dataset. In any other order the pages of the model list no
datasets, or MLflow links a metric twice (a UNIQUE error).
"""

import logging
from typing import TYPE_CHECKING, Any

from tasks.register.artefacts import log_artefacts
from tasks.register.model import log_model, log_results
from tasks.register.registration import Registration
from tasks.register.version import write_version
from tasks.tracking import client as tracking
from tasks.tracking import pages, run_metadata
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
    tags |= {"mlflow.note.content": registration.render_description({}), "gate": str(registration.verdict)}
    name = run_metadata.name_run(context.run_id, f"register-{key}")
    run = tracking.open_run(client, context.run_name, key, name, tags, pipeline_run=context.run_id)
    try:
        version = _fill_run(registration, run)
    except BaseException:
        _mark_failed(registration, run)
        raise
    tracking.finish(client, run, "FINISHED" if registration.verdict.passed else "FAILED")
    return version


def _fill_run(registration: Registration, run: "Run") -> "ModelVersion":
    work, client, curve, time_ms = registration.work, registration.client, registration.curve, registration.trained_ms
    tracking.log_params(client, run, run_metadata.build_params(work.inputs, work.config.key_config(), work.seed))
    _log_main_metrics(registration, run)
    datasets = _build_datasets(registration)
    log_datasets(client, run, datasets)
    log_artefacts(registration, run)
    model_id = log_model(registration, run)
    children = log_child_runs(client, run, work.context.run_name, work.inputs, curve, datasets, time_ms)
    log_results(registration, children, model_id, datasets)
    return write_version(registration, run, model_id)


def _log_main_metrics(registration: Registration, run: "Run") -> None:
    """Log the curve of the loss and the main metrics, and make them the columns of the list of runs.

    The child runs have all other metrics.
    """
    from mlflow.entities import Metric

    client, main = registration.client, registration.main_metrics
    curve = [{"step": row["step"], "loss": row["loss"]} for row in registration.curve if "loss" in row]
    tracking.log_curves(client, run, curve, registration.trained_ms)
    points = [Metric(key, value, registration.trained_ms, 0) for key, value in main.items()]
    tracking.log_metrics(client, run, points)
    client.set_experiment_tag(run.info.experiment_id, pages.VIEW_TAG, pages.render_view([*main, "train/loss"]))


def _build_datasets(registration: Registration) -> dict[str, Any]:
    """Return MLflow datasets: the training set as "", other training sets as pack/KEY, each task of the suite by name."""
    from mlflow.entities import Dataset

    uri, inputs = registration.work.draft.store.uri, registration.work.inputs
    fields = {"": run_metadata.describe_training_dataset(inputs["pack"], uri)}
    fields |= {
        f"pack/{pack.key}": run_metadata.describe_training_dataset(pack, uri) for pack in registration.other_datasets
    }
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
