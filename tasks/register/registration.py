"""The calls to MLflow that make one run, one logged model and one registered version of a register snapshot.

Each is found again by its tag, and each call is skipped or harmless where an earlier try made it, so that a killed
registration goes on where it stood. The order matters (MLflow 3.17): the run's own metrics, then the logged model, then the
metrics that name both the model and a dataset. Only then do the model's pages list the datasets, and no metric is linked
twice (a UNIQUE error).
"""

import json
import logging
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from dataops.funnel import funnel_rows, funnel_stages
from dataops.snapshot import UNDIGESTED, read_table
from tasks.download.report import report_html as download_html
from tasks.engine.scratch_folders import scratch_folder
from tasks.engine.stage import Work, code_version
from tasks.evaluate.run_suite import Evaluation
from tasks.filter.report import report_html as filter_html
from tasks.models.packaging import MODEL_FILES, write_model
from tasks.register.config import CANDIDATE, RegisterConfig
from tasks.register.model_card import Card
from tasks.register.openlineage import render_events
from tasks.register.promotion import move_alias
from tasks.register.svg_lineage import graph_svg
from tasks.reports.svg_charts import curve_svg
from tasks.tracking import client as tracking
from tasks.tracking import run_metadata as ancestry
from tasks.tracking.child_runs import log_datasets, nest

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

logger = logging.getLogger(__name__)

GATE_TAG = "gate"
"""Set last on a version: its presence means that registration is complete."""
CURVE_POINTS = 2000
"""Most steps of a training curve that MLflow gets; metrics.jsonl, an artefact, has all."""
SAMPLED_PREDICTIONS = 100


@dataclass(frozen=True)
class Verdict:
    """What the gate says of a model."""

    refusals: tuple[str, ...]
    comparisons: tuple[str, ...] = ()
    """With the champion, a sentence each."""

    @classmethod
    def parsed(cls, said: str) -> "Verdict":
        """The verdict that a version's tag holds."""
        return cls(()) if said == "passed" else cls((said.removeprefix("refused: "),))

    @property
    def passed(self) -> bool:
        """Whether no metric is below its floor, and the model no worse than the champion."""
        return not self.refusals

    def __str__(self) -> str:
        return "passed" if self.passed else f"refused: {'; '.join(self.refusals)}"


def find_version(client: "MlflowClient", name: str, key: str) -> "ModelVersion | None":
    """The version of a register key; the first where there are several."""
    found = client.search_model_versions(f"name = '{name}' and tags.`{tracking.KEY_TAG}` = '{key}'")
    return min(found, key=lambda version: int(version.version), default=None)


def pages(facts: Mapping[str, Any]) -> dict[str, str]:
    """Paths in the MLflow UI of the run and the version that facts name."""
    # workflowType opens the classic sidebar, not that for chat applications
    name, suffix = quote(str(facts["model_name"]), safe=""), "?workflowType=machine_learning"
    run = f"#/experiments/{facts['experiment_id']}/runs/{facts['run_id']}"
    return {
        "run": f"{run}{suffix}",
        "model card": f"{run}/artifacts/model_card.html{suffix}",
        "evaluation": f"{run}/artifacts/evaluation.html{suffix}",
        "lineage": f"{run}/artifacts/lineage.svg{suffix}",
        "model version": f"#/models/{name}/versions/{facts['version']}{suffix}",
    }


@dataclass
class Registration:
    """The calls that make one version, each safe to make again."""

    work: Work[RegisterConfig]
    client: "MlflowClient"
    metrics: dict[str, Any]
    rows: list[dict[str, Any]]
    verdict: Verdict
    champion: Evaluation | None = None
    """Of the version that has the alias."""

    def __post_init__(self) -> None:
        context = self.work.context
        self.tags = ancestry.lineage_tags(self.work.inputs, context.run_config, code_version())
        self.tags |= ancestry.run_tags(context.run_id, context.flow_run_id, context.flow_run_url)
        self.trained_ms = int(datetime.fromisoformat(self.work.inputs["train"].created_at).timestamp() * 1000)

    def version(self) -> "ModelVersion":
        """Record everything, or the rest of it, and return the version, complete."""
        context, key = self.work.context, self.work.draft.key
        note = self._description({})
        tags = {**self.tags, **ancestry.SOURCE_TAGS, "mlflow.note.content": note}
        name = context.run_id or f"register-{key}"
        run = tracking.open_run(self.client, context.run_name, key, name, tags, pipeline_run=context.run_id)
        try:
            curve = self._curve()
            params = ancestry.stage_params(self.work.inputs, self.work.config.key_config(), self.work.seed)
            tracking.log_params(self.client, run, params)
            tracking.log_curves(self.client, run, curve, self.trained_ms)
            datasets = self._log_datasets(run)
            self._log_artifacts(run, curve)
            last = int(curve[-1]["step"]) if curve else 0
            model_id = self._log_model(run, last)
            self._log_results(run, model_id, datasets, curve)
            nest(self.client, run, context.run_name, self.work.inputs, curve, self.rows, datasets, self.trained_ms)
            version = self._register(run, model_id)
        except BaseException:
            self._fail(run)
            raise
        tracking.finish(self.client, run, "FINISHED")
        return version

    def _fail(self, run: "Run") -> None:
        from mlflow.exceptions import MlflowException

        try:
            tracking.finish(self.client, run, "FAILED")
        except MlflowException as error:  # most likely the very server whose silence brought us here
            logger.warning("MLflow run %s stays RUNNING until the next try: %s", run.info.run_id, type(error).__name__)

    def _read(self, stage: str, name: str) -> bytes:
        return self.work.draft.store.read(self.work.inputs[stage].path(name))

    def _curve(self) -> list[dict[str, Any]]:
        """Rows of metrics.jsonl, thinned evenly to CURVE_POINTS; the last one always."""
        rows = [json.loads(line) for line in self._read("train", "metrics.jsonl").splitlines() if line.strip()]
        stride = max(1, math.ceil(len(rows) / CURVE_POINTS))
        return rows[(len(rows) - 1) % stride :: stride]

    def _log_datasets(self, run: "Run") -> dict[str, Any]:
        """The training set and each task of the suite as inputs of the run: MLflow knows again those that it has."""
        from mlflow.entities import Dataset

        uri, inputs = self.work.draft.store.uri, self.work.inputs
        fields = {"": ancestry.training_dataset(inputs["pack"], uri)}
        fields |= ancestry.evaluation_datasets(inputs["evaluate"], self.metrics, uri)
        datasets = {task: Dataset(**values) for task, values in fields.items()}
        log_datasets(self.client, run, datasets)
        return datasets

    def _log_artifacts(self, run: "Run", curve: Sequence[Mapping[str, Any]]) -> None:
        with scratch_folder("register") as folder:
            for name, data in self._artifacts(curve).items():
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "replace"))
            self.client.log_artifacts(run.info.run_id, str(folder))

    def _artifacts(self, curve: Sequence[Mapping[str, Any]]) -> dict[str, bytes | str]:
        from tasks.register.evaluation_page import render_evaluation_page, values_by_key
        from tasks.reports import figures as plots

        inputs = self.work.inputs
        funnel = funnel_rows(inputs.values())
        config = self.work.config
        card = Card(config.model_name, inputs, self.rows, str(self.verdict), config.description, config.license)
        files: dict[str, bytes | str] = {
            "config.json": json.dumps(ancestry.redacted(self.work.context.run_config), indent=2, ensure_ascii=False),
            "funnel.json": json.dumps(funnel, indent=2),
            "funnel.html": ancestry.html_page("Funnel", funnel, "Rows of each stage, and why they were dropped."),
            "funnel.png": plots.png(plots.funnel_figure(funnel_stages(inputs.values()))),
            "filter.html": filter_html(inputs["filter"]),
            "download.html": download_html(inputs["download"], self.work.draft.store),
            "lineage.svg": graph_svg(inputs, self.work.config.model_name),
            "lineage.jsonl": render_events(inputs.values(), self.work.draft.store.uri),
            "model_card.html": card.html(),
            "model_card.md": card.markdown(),
            "evaluation.html": render_evaluation_page(self.work, self.champion),
            "zero_shot.png": plots.png(plots.accuracy_figure(self.rows, values_by_key(self.champion))),
            "metrics.json": json.dumps(self.metrics, indent=2, ensure_ascii=False),
            "metrics.jsonl": self._read("train", "metrics.jsonl"),
        }
        if balance := inputs["filter"].facts.get("balance"):
            files["balance.svg"] = curve_svg(balance["curve"])
        if curve:
            files["training_curves.png"] = plots.png(plots.curves_figure(curve))
        for part in inputs["pack"].parts:
            if part.name in UNDIGESTED:
                files[part.name] = self._read("pack", part.name)
        for stage, manifest in inputs.items():
            files[f"manifests/{stage}.json"] = manifest.model_dump_json(indent=2)
        return files | self._sampled_predictions()

    def _sampled_predictions(self) -> dict[str, str]:
        """A page per task with some of its predictions: the same ones for the same seed."""
        store, manifest = self.work.draft.store, self.work.inputs["evaluate"]
        pages: dict[str, str] = {}
        for part in manifest.named("predictions-", ".parquet"):
            table = read_table(store, manifest.path(part.name))
            count = min(SAMPLED_PREDICTIONS, table.num_rows)
            rows = ancestry.sample_rows(table, random.Random(self.work.seed).sample(range(table.num_rows), count))
            name = part.name.removesuffix(".parquet")
            note = f"{count:,} of {table.num_rows:,} rows, drawn at random (seed {self.work.seed})."
            pages[f"predictions/{name}.html"] = ancestry.html_page(name, rows, note)
        return pages

    def _log_model(self, run: "Run", step: int) -> str:
        """The id of the run's logged model: that of an earlier try when it is whole, else a new one."""
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import Model

        run_id, experiment_id, key = run.info.run_id, run.info.experiment_id, self.work.draft.key
        for earlier in self.client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'"):
            if str(earlier.status) == "READY" and earlier.tags.get(tracking.KEY_TAG) == key:
                return earlier.model_id
            self.client.delete_logged_model(earlier.model_id)
        params = ancestry.flat_params({"train": self.work.inputs["train"].config})
        tags = {tracking.KEY_TAG: key, "mlflow.note.content": self._description({}), **self.tags}
        model = self.client.create_logged_model(experiment_id, "clip", run_id, tags, params, model_type="CLIP")
        self.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step)])
        train, store = self.work.inputs["train"], self.work.draft.store
        with scratch_folder("register") as folder:
            target = folder / "model"
            weights = {name: store.local(train.path(name)) for name in MODEL_FILES}
            ours = Model(model.artifact_location, run_id, model_uuid=model.model_id, model_id=model.model_id)
            write_model(target, weights, ours)
            self.client.log_model_artifacts(model.model_id, str(target))
        self.client.finalize_logged_model(model.model_id, "READY")
        return model.model_id

    def _log_results(
        self, run: "Run", model_id: str, datasets: Mapping[str, Any], curve: Sequence[Mapping[str, Any]]
    ) -> None:
        """Metrics that name the model and the dataset that they were measured on."""
        from mlflow.entities import Metric

        step = int(curve[-1]["step"]) if curve else 0
        values = [
            ("", f"train/final_{name}", value)
            for name, value in (curve[-1] if curve else {}).items()
            if name in ("loss", "logit_scale") and isinstance(value, int | float)
        ]
        for row in self.rows:
            values += [(row["task"], row["key"], row["value"])]
            values += [
                (row["task"], f"{row['key']}_{end}", row[end]) for end in ("low", "high") if row[end] is not None
            ]
        for task, result in self.metrics.items():
            if row := result.get("contamination"):
                values += [(task, f"{task}/overlap_with_training", row["overlap"] / row["n"])]
                values += [(task, f"{task}/clean_{row['metric'].replace('@', '_at_')}", row["clean"])]
        known = {metric.key for metric in self.client.get_logged_model(model_id).metrics or []}
        points = [
            Metric(key, value, self.trained_ms, step, model_id, data.name, data.digest, run_id=run.info.run_id)
            for task, key, value in values
            if key not in known and value is not None and (data := datasets[task])
        ]
        for start in range(0, len(points), tracking.METRICS_AT_ONCE):
            self.client.log_batch(run.info.run_id, metrics=points[start : start + tracking.METRICS_AT_ONCE])

    def _register(self, run: "Run", model_id: str) -> "ModelVersion":
        """The version, with description, alias and, last, the gate's verdict."""
        config, client, key = self.work.config, self.client, self.work.draft.key
        version = find_version(client, config.model_name, key)
        if version is None:
            self._ensure_registered_model(config.model_name)
            tags = {tracking.KEY_TAG: key, **self.tags}
            source = f"models:/{model_id}"
            version = client.create_model_version(config.model_name, source, run.info.run_id, tags, model_id=model_id)
        number = str(version.version)
        named = json.dumps([{"name": config.model_name, "version": number}])
        client.set_logged_model_tags(model_id, {"mlflow.modelVersions": named})
        place = {"experiment_id": run.info.experiment_id, "run_id": run.info.run_id, "version": number}
        there = pages({**place, "model_name": config.model_name})
        links = {
            "Model card": there["model card"],
            "Evaluation": there["evaluation"],
            "Lineage": there["lineage"],
            "MLflow run": there["run"],
        }
        client.update_model_version(config.model_name, number, self._description(links))
        alias = config.alias if self.verdict.passed else CANDIDATE
        if self.verdict.comparisons:
            compared = "; ".join(self.verdict.comparisons)[: tracking.TAG_LENGTH]
            client.set_model_version_tag(config.model_name, number, "champion_test", compared)
        by = f"run {self.work.context.run_id or key}"
        move_alias(client, config.model_name, alias, number, by, f"gate {self.verdict}")
        client.set_model_version_tag(config.model_name, number, GATE_TAG, str(self.verdict)[: tracking.TAG_LENGTH])
        logger.info("register %s: %s version %s, gate %s", key, config.model_name, number, self.verdict)
        return client.get_model_version(config.model_name, number)

    def _ensure_registered_model(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(name, tags={"pairmill": "CLIP"})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _description(self, links: Mapping[str, str]) -> str:
        url = self.tags.get("prefect_flow_run_url")
        head = [self.work.config.description, f"**Gate: {self.verdict}**"]
        links = {**links, **({"Prefect flow run": url} if url else {})}
        return ancestry.describe(self.work.inputs, self.rows, head, links)
