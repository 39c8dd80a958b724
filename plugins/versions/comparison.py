"""Compare two versions of a model: metrics with their significance, the data of both, and the settings of all stages."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from dataops.errors import PairmillError
from dataops.facts import TrainFacts
from dataops.snapshot import Manifest, find_manifest, read_table
from dataops.stages import PAIR_STAGES, STAGES
from dataops.store import Store
from plugins.versions.datasets import Difference, compare_datasets, compare_settings, of_snapshot
from tasks.evaluate.run_suite import read_evaluation
from tasks.tracking import run_metadata
from training.evaluation.comparison import compare
from training.evaluation.intervals import flatten_metrics

logger = logging.getLogger(__name__)

ANSWERS = {"rank", "image_to_text_rank", "jaccard"}
"""Columns of predictions of which a comparison needs one."""


@dataclass(frozen=True)
class VersionSide:
    """One of the two versions: its name, and those of its snapshots that are still in the store."""

    name: str
    store: Store
    manifests: Mapping[str, Manifest]


@dataclass(frozen=True)
class VersionComparison:
    """What differs in version B from version A."""

    a: str
    b: str
    metrics: list[dict[str, Any]]
    """`task, metric, key, a, b` (values), and `comparison`: None, or as in training/evaluation/comparison.py, B first."""
    stages: list[dict[str, Any]]
    """`stage`, and for each side `KEY, INPUT, KEPT`: a_key, a_input, a_kept, b_key, ...; None without the snapshot."""
    pairs: Difference | None
    """The pairs that only one of them has; None if they were not compared."""
    note: str = ""
    """Why the pairs were not compared."""
    settings: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    """Settings of A and of B that differ, by `stage.field`, without credentials."""


def load_side(name: str, tags: Mapping[str, str], store: Store) -> VersionSide:
    """Return a side by the tags of a version; snapshots that are damaged or not in the store are left out."""
    found: dict[str, Manifest] = {}
    for stage in STAGES:
        try:
            key = tags.get(f"snapshot.{stage}")
            manifest = find_manifest(store, stage, key) if key else None
        except PairmillError as error:
            logger.warning("%s: %s", name, error)
            continue
        if manifest is not None:
            found[stage] = manifest
    return VersionSide(name, store, found)


def compare_versions(a: VersionSide, b: VersionSide) -> VersionComparison:
    """Compare two versions."""
    pairs, note = _compare_pairs(a, b)
    return VersionComparison(
        a.name, b.name, _compare_metrics(a, b), _compare_stages(a, b), pairs, note, _compare_settings(a, b)
    )


def _compare_metrics(a: VersionSide, b: VersionSide) -> list[dict[str, Any]]:
    rows = {side.name: _read_metrics(side) for side in (a, b)}
    keys = dict.fromkeys([*rows[b.name], *rows[a.name]])
    compared = _compare_predictions(a, b)
    found = []
    for key in keys:
        in_a, in_b = rows[a.name].get(key), rows[b.name].get(key)
        either = in_b or in_a or {}
        values = {"a": in_a and in_a["value"], "b": in_b and in_b["value"]}
        comparison = compared.get(either["task"], {}).get(either["metric"])
        found.append(
            {"task": either["task"], "metric": either["metric"], "key": key, **values, "comparison": comparison}
        )
    return found


def _read_metrics(side: VersionSide) -> dict[str, dict[str, Any]]:
    if (evaluated := side.manifests.get("evaluate")) is None:
        return {}
    return {row["key"]: row for row in flatten_metrics(read_evaluation("", side.store, evaluated).metrics)}


def _compare_predictions(a: VersionSide, b: VersionSide) -> dict[str, dict[str, dict[str, Any]]]:
    """Return a comparison of each task in which both were evaluated on the same examples."""
    ours, theirs = _read_predictions(b), _read_predictions(a)
    tasks = (task for task in ours if task in theirs and ours[task]["key"].equals(theirs[task]["key"]))
    return {task: compare(ours[task], theirs[task]) for task in tasks}


def _read_predictions(side: VersionSide) -> dict[str, pa.Table]:
    if (evaluated := side.manifests.get("evaluate")) is None:
        return {}
    parts = evaluated.named("predictions-", ".parquet")
    tables = {p.name[len("predictions-") : -len(".parquet")]: evaluated.path(p.name) for p in parts}
    read = {task: read_table(side.store, path) for task, path in tables.items()}
    return {task: table for task, table in read.items() if ANSWERS & {*table.column_names}}


def _compare_stages(a: VersionSide, b: VersionSide) -> list[dict[str, Any]]:
    rows = []
    for stage in PAIR_STAGES:
        row: dict[str, Any] = {"stage": stage}
        for letter, side in (("a", a), ("b", b)):
            manifest = side.manifests.get(stage)
            counts = manifest.counts if manifest else None
            row |= {
                f"{letter}_key": manifest.key if manifest else None,
                f"{letter}_input": counts.input if counts else None,
                f"{letter}_kept": counts.kept if counts else None,
            }
        rows.append(row)
    return rows


def _compare_pairs(a: VersionSide, b: VersionSide) -> tuple[Difference | None, str]:
    first, second = a.manifests.get("pack"), b.manifests.get("pack")
    if first is None or second is None:
        missing = a.name if first is None else b.name
        return None, f"The dataset of {missing} is not in the store."
    if first.content_digest == second.content_digest:
        return None, "Both were trained on the same dataset."
    return compare_datasets(of_snapshot(first, a.store), of_snapshot(second, b.store)), ""


def _compare_settings(a: VersionSide, b: VersionSide) -> dict[str, tuple[Any, Any]]:
    stages = [stage for stage in STAGES if stage != "register"]
    found = compare_settings(_without_secrets(a.manifests), _without_secrets(b.manifests), stages)
    ours, theirs = (_name_processor(side) for side in (a, b))
    return found | ({"train.processor": (ours, theirs)} if ours != theirs else {})


def _name_processor(side: VersionSide) -> str | None:
    """Return the processor of a training, on which its bits depend; None if it is not known."""
    return TrainFacts.of(side.manifests["train"]).processor or None if "train" in side.manifests else None


def _without_secrets(manifests: Mapping[str, Manifest]) -> dict[str, Manifest]:
    values = run_metadata.redact_values
    return {stage: one.model_copy(update={"config": values(one.config)}) for stage, one in manifests.items()}
