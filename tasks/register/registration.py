"""Record one registration in MLflow: the run, its artefacts, its logged model, its child runs, and the version.

Each of these is found again by a tag, and each call is skipped or harmless if an earlier attempt
made it, so that a killed registration can be repeated. The order matters (MLflow 3.17): first the
run's own metrics, then the logged model, then the metrics of the child runs, which name both the
model and a dataset. In any other order the pages of the model list no datasets, or MLflow links a
metric twice (a UNIQUE error).
"""

import json
import logging
import math
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from dataops import plugins
from dataops.facts import RegisteredPages, RegisterFacts, TrainFacts
from dataops.home import CHECKOUT
from dataops.snapshot import UNDIGESTED, Manifest, load_ancestors, local_parts
from dataops.trace.sources import TrainingDataset, list_training_datasets, stored_manifests
from tasks.engine.scratch_folders import scratch_folder
from tasks.engine.stage import Work, code_version
from tasks.evaluate.stage import PAGE
from tasks.models.packaging import write_model
from tasks.register.card import Card, stage_pages
from tasks.register.config import CANDIDATE, RegisterConfig
from tasks.register.gate import Verdict, describe_model, move_alias
from tasks.tracking import client as tracking
from tasks.tracking import pages, run_metadata
from tasks.tracking.child_runs import log_child_runs, log_datasets
from training.model_config import MODEL_FILES

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

logger = logging.getLogger(__name__)

CURVE_POINTS = 2000
"""Maximum number of steps of a training curve in MLflow; the artefact metrics.jsonl has all."""


@dataclass(frozen=True)
class Registration:
    """One registration: the snapshots and metrics of a model, the gate's verdict, and a client of MLflow."""

    work: Work[RegisterConfig]
    client: "MlflowClient"
    metrics: dict[str, Any]
    """The content of the evaluation's metrics.json."""
    rows: list[dict[str, Any]]
    """The `flatten_metrics` of the metrics."""
    verdict: Verdict

    @cached_property
    def tags(self) -> dict[str, str]:
        """Tags of the run, the logged model and the version."""
        context = self.work.context
        tags = run_metadata.build_lineage_tags(self.work.inputs, context.run_config, code_version(), self.datasets)
        return tags | run_metadata.build_run_tags(context.run_id, context.flow_run_id, context.flow_run_url)

    @cached_property
    def datasets(self) -> list[TrainingDataset]:
        """The datasets that the model was trained on, that of its run first."""
        return list_training_datasets(self.work.inputs["train"], self.work.draft.store, self.work.inputs["pack"])

    @property
    def other_datasets(self) -> list[Manifest]:
        """Manifests of the datasets of the training that are not that of its run, without deleted ones."""
        return stored_manifests(one for one in self.datasets if not one.is_own)

    @cached_property
    def lineage(self) -> list[Manifest]:
        """The manifests of all inputs, and of the other datasets of the training with their ancestors, each once."""
        chains = (load_ancestors(self.work.draft.store, pack).values() for pack in self.other_datasets)
        found = [*self.work.inputs.values(), *(manifest for chain in chains for manifest in chain)]
        return list({(manifest.stage, manifest.key): manifest for manifest in found}.values())

    @cached_property
    def trained_ms(self) -> int:
        """Unix time of the train snapshot in milliseconds: the time of all metrics, the same at each attempt."""
        return int(datetime.fromisoformat(self.work.inputs["train"].created_at).timestamp() * 1000)

    @cached_property
    def curve(self) -> list[dict[str, Any]]:
        """Rows of metrics.jsonl, evenly thinned to CURVE_POINTS, with the last row."""
        rows = [json.loads(line) for line in self.read("train", "metrics.jsonl").splitlines() if line.strip()]
        stride = max(1, math.ceil(len(rows) / CURVE_POINTS))
        return rows[(len(rows) - 1) % stride :: stride]

    @property
    def last_step(self) -> int:
        """The last step of the training, or 0 without a curve."""
        return int(self.curve[-1]["step"]) if self.curve else 0

    def read(self, stage: str, name: str) -> bytes:
        """Return a part of an input snapshot."""
        return self.work.draft.store.read(self.work.inputs[stage].path(name))

    def log_files(self, run: "Run", files: Mapping[str, bytes | str]) -> None:
        """Write artefacts of the run, by their path in it; a repeated call replaces them."""
        with scratch_folder("register") as folder:
            for name, data in files.items():
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "replace"))
            self.client.log_artifacts(run.info.run_id, str(folder))

    @property
    def main_metrics(self) -> dict[str, float]:
        """The few metrics that lists of runs show, by name: the number of pairs, and the main metric of each task."""
        values = {row["key"]: row["value"] for row in self.rows}
        main = [  # evaluations of earlier versions name no main metric
            f"{task}/{result.get('main_metric') or next(iter(result['metrics']))}"
            for task, result in self.metrics.items()
        ]
        found = {key: values[key] for key in main if values.get(key) is not None}
        return {"pairs": float(run_metadata.count_training_pairs(self.work.inputs)), **found}

    def card(self, link: Callable[[str], str], version: str = "", registered: str = "") -> Card:
        """Return the card of the model.

        Args:
            link: returns what leads to a file of the model's MLflow run.
            version: number of the registered version, if there is one yet.
            registered: date of its registration.
        """
        config, verdict = self.work.config, self.verdict
        return Card(
            config.model_name,
            self.work.inputs,
            self.rows,
            str(verdict),
            config.description,
            config.license,
            self.datasets,
            version,
            registered,
            self.tags["config_hash"],
            find_commit_url(self.tags["git_commit"]),
            verdict.comparisons,
            config.decided_by,
            link,
        )

    def describe(self, run: "Run", links: Mapping[str, str]) -> str:
        """Return the Markdown description of the run, the logged model and the version."""
        if url := self.tags.get("prefect_flow_run_url"):
            links = {**links, "Prefect flow run": url}
        experiment, run_id = run.info.experiment_id, run.info.run_id
        return self.card(lambda artefact: pages.run_path(experiment, run_id, artefact)).summary(
            links, self.main_metrics
        )


_REMOTE = re.compile(
    r"(?:https?://|ssh://|git://)?(?:[^@/\s]+@)?(?P<host>[A-Za-z0-9.-]+\.[A-Za-z]+)(?::\d+)?[:/](?P<path>[\w./~-]+?)(?:\.git)?/?"
)


def find_commit_url(commit: str) -> str:
    """Return the URL of a commit's page, or "" if the checkout has no remote `origin` on a server."""
    command = ["git", "-C", str(CHECKOUT), "remote", "get-url", "origin"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""
    return build_commit_url(done.stdout.strip(), commit)


def build_commit_url(remote: str, commit: str) -> str:
    """Return the URL of a commit's page, as GitHub, GitLab and Gitea have it; "" for a remote that is a folder."""
    found = _REMOTE.fullmatch(remote)
    is_commit = re.fullmatch(r"[0-9a-f]{7,64}", commit)
    return f"https://{found['host']}/{found['path']}/commit/{commit}" if found and is_commit else ""


GATE_TAG = "gate"
"""The last tag that is set on a version: its presence means that the registration is complete."""
REPORTS = ("filter", "download")
"""Stages to whose pages a version's description links."""


def find_version(client: "MlflowClient", name: str, key: str) -> "ModelVersion | None":
    """Return the version of a register snapshot; the first if there are several."""
    found = client.search_model_versions(f"name = '{name}' and tags.`{tracking.KEY_TAG}` = '{key}'")
    return min(found, key=lambda version: int(version.version), default=None)


def write_version(registration: Registration, run: "Run", model_id: str) -> "ModelVersion":
    """Create or complete the version, and return it."""
    client, config, key = registration.client, registration.work.config, registration.work.draft.key
    name, verdict = config.model_name, registration.verdict
    version = find_version(client, name, key) or _create_version(registration, run, model_id)
    number = str(version.version)
    versions = json.dumps([{"name": name, "version": number}])
    created = datetime.fromtimestamp((version.creation_timestamp or 0) / 1000, UTC).date().isoformat()
    card = registration.card(quote, number, created)
    registration.log_files(run, {"model_card.html": card.html(), "model_card.md": card.markdown()})
    client.set_logged_model_tags(model_id, {"mlflow.modelVersions": versions})
    info = run.info
    paths = page_paths(
        RegisteredPages(model_name=name, version=number, run_id=info.run_id, experiment_id=info.experiment_id)
    )
    titles = {name: name.capitalize() for name in linked_artefacts()} | {"run": "MLflow run", "runs": "All runs"}
    links = {title: paths[page] for page, title in titles.items()}
    client.update_model_version(name, number, registration.describe(run, links))
    if verdict.comparisons:
        compared = "; ".join(verdict.comparisons)[: tracking.TAG_LENGTH]
        client.set_model_version_tag(name, number, "champion_test", compared)
    alias = config.alias if verdict.gets_alias else CANDIDATE
    move_alias(client, name, alias, number, f"run {registration.work.context.run_id or key}", verdict.sentence)
    describe_model(client, name)
    client.set_model_version_tag(name, number, GATE_TAG, str(verdict)[: tracking.TAG_LENGTH])
    logger.info("register %s: %s version %s, %s", key, name, number, verdict.sentence)
    return client.get_model_version(name, number)


def _create_version(registration: Registration, run: "Run", model_id: str) -> "ModelVersion":
    from mlflow.exceptions import MlflowException

    client, name = registration.client, registration.work.config.model_name
    try:
        client.create_registered_model(name, tags={"pairmill": "CLIP"})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {tracking.KEY_TAG: registration.work.draft.key, **registration.tags}
    return client.create_model_version(name, f"models:/{model_id}", run.info.run_id, tags, model_id=model_id)


def linked_artefacts() -> dict[str, str]:
    """Return the artefacts of a run that have a link, by the name of the page."""
    found = stage_pages()
    reports = {f"{stage} report": found[stage] for stage in REPORTS if stage in found}
    cards = {"model card": "model_card.html", "evaluation": "evaluation.html", "dataset": "dataset.html"}
    return cards | reports | {"config": "config.json"}


def page_paths(facts: RegisteredPages) -> dict[str, str]:
    """Return the paths in the MLflow UI of a run and a version, by the name of the page."""
    experiment_id, run_id = facts.experiment_id, facts.run_id
    return {
        "run": pages.run_path(experiment_id, run_id),
        "runs": pages.runs_path(experiment_id),
        "model version": pages.version_path(facts.model_name, facts.version),
        **{name: pages.run_path(experiment_id, run_id, artefact) for name, artefact in linked_artefacts().items()},
    }


def page_urls(facts: RegisterFacts) -> dict[str, str]:
    """Return the URLs of the same pages; none if the tracking URI is no HTTP server."""
    base = tracking.remove_credentials(facts.tracking_uri).rstrip("/")
    if not base.startswith(("http://", "https://")):
        return {}
    return {name: f"{base}/{path}" for name, path in page_paths(facts).items()}


NOTE = "mlflow.note.content"
"""Tag with the description of a run or a logged model."""


def record_registration(registration: Registration) -> "ModelVersion":
    """Write all that an earlier attempt has not written, and return the complete version."""
    work, client = registration.work, registration.client
    context, key = work.context, work.draft.key
    tags = registration.tags | run_metadata.SOURCE_TAGS
    tags["gate"] = str(registration.verdict)
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
    client.set_tag(run.info.run_id, NOTE, registration.describe(run, {}))
    registration.log_files(run, _list_artefacts(registration))
    model_id = _log_model(registration, run)
    holdout = TrainFacts.of(work.inputs["train"]).holdout
    rows = [*curve, *(holdout.curve if holdout else ())]
    children = log_child_runs(client, run, work.context.run_name, work.inputs, rows, datasets, time_ms)
    _log_results(registration, children, model_id, datasets)
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


def _list_artefacts(registration: Registration) -> dict[str, bytes | str]:
    """Return the artefacts that do not name the version: pages, metrics, config, and the manifests of all ancestors."""
    work, inputs = registration.work, registration.work.inputs
    store = work.draft.store
    others = [one for one in registration.lineage if one not in inputs.values()]
    documents = [part.name for part in inputs["pack"].parts if part.name in UNDIGESTED]
    config = run_metadata.redact_values(work.context.run_config)
    return {
        "config.json": json.dumps(config, indent=2, ensure_ascii=False),
        **{name: plugins.load("pages")[stage](inputs[stage], store) for stage, name in stage_pages().items()},
        "evaluation.html": registration.read("evaluate", PAGE),
        "metrics.json": json.dumps(registration.metrics, indent=2, ensure_ascii=False),
        "metrics.jsonl": registration.read("train", "metrics.jsonl"),
        **{f"manifests/{stage}.json": manifest.summarise().encode() for stage, manifest in inputs.items()},
        **{f"manifests/{one.stage}-{one.key}.json": one.summarise().encode() for one in others},
        **{name: registration.read("pack", name) for name in documents},
    }


def _log_model(registration: Registration, run: "Run") -> str:
    """Return the id of the run's logged model: the complete one of an earlier attempt, or a new one."""
    from mlflow.entities import LoggedModelOutput

    client, key = registration.client, registration.work.draft.key
    run_id, experiment_id = run.info.run_id, run.info.experiment_id
    for earlier in client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'"):
        if str(earlier.status) == "READY" and earlier.tags.get(tracking.KEY_TAG) == key:
            return earlier.model_id
        client.delete_logged_model(earlier.model_id)
    params = run_metadata.flatten_params({"train": registration.work.inputs["train"].config})
    note = registration.describe(run, {})
    tags = {tracking.KEY_TAG: key, NOTE: note, **registration.tags}
    model = client.create_logged_model(experiment_id, "clip", run_id, tags, params, model_type="CLIP")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, registration.last_step)])
    _log_model_files(registration, run, model)
    client.finalize_logged_model(model.model_id, "READY")
    return model.model_id


def _log_model_files(registration: Registration, run: "Run", model: Any) -> None:
    from mlflow.models import Model

    train, store = registration.work.inputs["train"], registration.work.draft.store
    with scratch_folder("register") as folder:
        weights = local_parts(store, train, MODEL_FILES)
        mlflow_model = Model(
            model.artifact_location, run.info.run_id, model_uuid=model.model_id, model_id=model.model_id
        )
        write_model(folder / "model", weights, mlflow_model)
        registration.client.log_model_artifacts(model.model_id, str(folder / "model"))


def _log_results(
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
            yield task, f"{task}/clean_{row['metric']}", row["clean"]
