"""Write the logged model of a registration: the pyfunc, and the metrics that link the model with its datasets."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tasks.engine.scratch_folders import scratch_folder
from tasks.models.packaging import MODEL_FILES, write_model
from tasks.register.registration import Registration
from tasks.tracking import client as tracking
from tasks.tracking import run_metadata

if TYPE_CHECKING:
    from mlflow.entities import Run


def log_model(registration: Registration, run: "Run") -> str:
    """Return the id of the run's logged model: the complete one of an earlier attempt, or a new one."""
    from mlflow.entities import LoggedModelOutput

    client, key = registration.client, registration.work.draft.key
    run_id, experiment_id = run.info.run_id, run.info.experiment_id
    for earlier in client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'"):
        if str(earlier.status) == "READY" and earlier.tags.get(tracking.KEY_TAG) == key:
            return earlier.model_id
        client.delete_logged_model(earlier.model_id)
    params = run_metadata.flatten_params({"train": registration.work.inputs["train"].config})
    note = registration.render_description({})
    tags = {tracking.KEY_TAG: key, "mlflow.note.content": note, **registration.tags}
    model = client.create_logged_model(experiment_id, "clip", run_id, tags, params, model_type="CLIP")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, registration.last_step)])
    _log_files(registration, run, model)
    client.finalize_logged_model(model.model_id, "READY")
    return model.model_id


def _log_files(registration: Registration, run: "Run", model: Any) -> None:
    from mlflow.models import Model

    train, store = registration.work.inputs["train"], registration.work.draft.store
    with scratch_folder("register") as folder:
        weights = {name: store.local(train.path(name)) for name in MODEL_FILES}
        mlflow_model = Model(
            model.artifact_location, run.info.run_id, model_uuid=model.model_id, model_id=model.model_id
        )
        write_model(folder / "model", weights, mlflow_model)
        registration.client.log_model_artifacts(model.model_id, str(folder / "model"))


def log_results(
    registration: Registration, children: "Mapping[str, Run]", model_id: str, datasets: Mapping[str, Any]
) -> None:
    """Log the metrics that name the model and the dataset on which they were measured, but for those it has already.

    Args:
        children: the runs of the training and of the evaluation, to which the metrics belong.
        datasets: MLflow datasets by task; the training set has the name "".
    """
    from mlflow.entities import Metric

    known = {metric.key for metric in registration.client.get_logged_model(model_id).metrics or []}
    for stage, run in children.items():
        points = [
            # At step 0 MLflow draws a bar, at any other a line, which would be a single dot.
            Metric(
                key, value, registration.trained_ms, 0, model_id, datasets[task].name,
                datasets[task].digest, run_id=run.info.run_id,
            )
            for task, key, value in _list_results(registration)
            if key not in known and value is not None and bool(task) == (stage == "evaluate")
        ]  # fmt: skip
        tracking.log_metrics(registration.client, run, points)


def _list_results(registration: Registration) -> Iterator[tuple[str, str, float | None]]:
    """Yield the task, the metric's name and its value; the training set has the name ""."""
    for name, value in (registration.curve[-1] if registration.curve else {}).items():
        if name in ("loss", "logit_scale") and isinstance(value, int | float):
            yield "", f"train/final_{name}", value
    for row in registration.rows:
        yield row["task"], row["key"], row["value"]
        for end in ("low", "high"):
            yield row["task"], f"{row['key']}_{end}", row[end]
    for task, result in registration.metrics.items():
        if row := result.get("contamination"):
            yield task, f"{task}/overlap_with_training", row["overlap"] / row["n"]
            yield task, f"{task}/clean_{row['metric'].replace('@', '_at_')}", row["clean"]
