"""The values that all parts of one registration share."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dataops.snapshot import Manifest, load_ancestors
from dataops.trace.training_datasets import TrainingDataset, list_training_datasets, stored_manifests
from tasks.engine.stage import Work, code_version
from tasks.evaluate.run_suite import Evaluation
from tasks.register.commit_page import find_commit_url
from tasks.register.config import RegisterConfig
from tasks.register.gate import Verdict
from tasks.tracking import run_metadata

if TYPE_CHECKING:
    from mlflow import MlflowClient

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
    champion: Evaluation | None = None
    """The evaluation of the version that has the alias."""

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

    @property
    def main_metrics(self) -> dict[str, float]:
        """The few metrics that lists of runs show, by name: the number of pairs, and the main metric of each task."""
        values = {row["key"]: row["value"] for row in self.rows}
        main = [  # evaluations of earlier versions name no main metric
            f"{task}/{result.get('main_metric') or next(iter(result['metrics']))}".replace("@", "_at_")
            for task, result in self.metrics.items()
        ]
        found = {key: values[key] for key in main if values.get(key) is not None}
        return {"pairs": float(run_metadata.count_training_pairs(self.work.inputs)), **found}

    def render_description(self, links: Mapping[str, str]) -> str:
        """Return the Markdown description of the run, the logged model and the version."""
        inputs, verdict = self.work.inputs, self.verdict.sentence
        intro = run_metadata.render_intro(inputs, f"{verdict[0].upper()}{verdict[1:]}")
        if url := self.tags.get("prefect_flow_run_url"):
            links = {**links, "Prefect flow run": url}
        dirty = ", with changes" if self.tags["code_dirty"] == "true" else ""
        page = find_commit_url(self.tags["git_commit"])
        commit = f"`{self.tags['git_commit'][:12]}`"
        commit = f"[{commit}]({page})" if page else commit
        code = f"Code: git commit {commit}{dirty}. Config: `{self.tags['config_hash']}`."
        head = [self.work.config.description, intro]
        return run_metadata.render_description(inputs, self.rows, head, links, tail=code, datasets=self.datasets)
