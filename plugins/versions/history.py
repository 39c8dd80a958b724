"""Read the versions of a registered model from MLflow, with their metrics and what changed from one to the next."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tasks.tracking import client as tracking

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

HIDDEN_METRICS = ("train/", "checks/", "system/", "version/")
"""Beginnings of the names of metrics that are not results of the evaluation."""
PARTS = {"data": "dataset_digest", "weights": "snapshot.train", "config": "config_hash", "code": "git_commit"}
"""What may change from a version to the next one, and the tag that shows it."""


@dataclass(frozen=True)
class VersionRow:
    """One version of a registered model."""

    version: str
    registered: str
    """Time of the registration, in UTC."""
    aliases: tuple[str, ...]
    gate: str
    """The gate's verdict; empty while the registration is not complete."""
    dataset: str
    """Key of the dataset."""
    run_id: str | None
    metrics: dict[str, float]
    """The number of pairs, and the main metric of each task."""
    changes: tuple[str, ...] = ()
    """What differs from the version before it: those of PARTS."""


def read_versions(name: str, limit: int) -> list[VersionRow]:
    """Return the newest versions of a model, oldest first.

    Raises: ConfigError if there is no such model; ServiceError if MLflow does not answer.
    """
    client, by_version = tracking.connect(), dict[str, list[str]]()
    with tracking.mlflow_errors():
        for alias, version in client.get_registered_model(name).aliases.items():
            by_version.setdefault(str(version), []).append(alias)
        # One version more, with which the oldest one is compared.
        found = client.search_model_versions(
            f"name = '{name}'", max_results=limit + 1, order_by=["version_number DESC"]
        )
        pairs = pairwise([None, *reversed(found)])
        rows = [_read_row(client, one, by_version.get(str(one.version), []), before) for before, one in pairs if one]
    return rows[-limit:]


def _read_row(
    client: "MlflowClient", version: "ModelVersion", aliases: Sequence[str], before: "ModelVersion | None"
) -> VersionRow:
    created = datetime.fromtimestamp((version.creation_timestamp or 0) / 1000, UTC)
    return VersionRow(
        version=str(version.version),
        registered=created.isoformat(timespec="seconds"),
        aliases=tuple(sorted(aliases)),
        gate=version.tags.get("gate", ""),
        dataset=version.tags.get("dataset_key", ""),
        run_id=version.run_id,
        metrics=_read_metrics(client, version.run_id),
        changes=tuple(part for part, tag in PARTS.items() if before and before.tags.get(tag) != version.tags.get(tag)),
    )


def _read_metrics(client: "MlflowClient", run_id: str | None) -> dict[str, float]:
    """Return the metrics of a version's run; none if the run was deleted for good."""
    from mlflow.exceptions import MlflowException

    try:
        metrics = client.get_run(run_id).data.metrics if run_id else {}
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        metrics = {}
    return {name: value for name, value in sorted(metrics.items()) if not name.startswith(HIDDEN_METRICS)}


def list_metrics(rows: Sequence[VersionRow]) -> list[str]:
    """Return the names of all metrics, those of the newest version first; the number of pairs is last."""
    names = dict.fromkeys(name for row in reversed(rows) for name in row.metrics)
    return [name for name in names if name != "pairs"] + [name for name in names if name == "pairs"]


def format_metric(name: str, row: VersionRow, before: VersionRow | None) -> str:
    """Return a count, or a share as a percentage, with its change from the version before in brackets."""
    if name not in row.metrics:
        return "-"
    value = row.metrics[name]
    change = value - (before.metrics.get(name, value) if before else value)
    if name == "pairs":
        return f"{value:,.0f}" + (f" ({change:+,.0f})" if change else "")
    return f"{100 * value:.2f}%" + (f" ({100 * change:+.2f})" if change else "")


def read_models() -> list[dict[str, Any]]:
    """Return `name, newest, aliases` of each registered model, by name; `newest` is None without a version.

    Raises: ServiceError if MLflow does not answer.
    """
    client = tracking.connect()
    found: list[dict[str, Any]] = []
    with tracking.mlflow_errors():
        for model in tracking.read_pages(lambda token: client.search_registered_models(page_token=token)):
            numbers = [int(version.version) for version in model.latest_versions or ()]
            newest = str(max(numbers)) if numbers else None
            aliases = {alias: str(version) for alias, version in sorted(model.aliases.items())}
            found.append({"name": model.name, "newest": newest, "aliases": aliases})
    return sorted(found, key=lambda model: model["name"])
