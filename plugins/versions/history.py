"""Read the versions of a registered model from MLflow, with their metrics and what changed from one to the next."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tasks.tracking import client as tracking

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

SHOWN = 50
"""Number of the newest versions that a history has: each needs a request for its metrics."""
HIDDEN_METRICS = ("train/", "checks/", "system/")
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
    tags: dict[str, str] = field(default_factory=dict)
    changes: tuple[str, ...] = ()
    """What differs from the version before it: those of PARTS."""

    def as_json(self) -> dict[str, Any]:
        """Return its fields without its tags."""
        fields = asdict(self) | {"aliases": list(self.aliases), "changes": list(self.changes)}
        return {name: value for name, value in fields.items() if name != "tags"}


def read_history(client: "MlflowClient", name: str, limit: int = SHOWN) -> list[VersionRow]:
    """Return the newest versions of a model, oldest first.

    Raises: MlflowException if there is no such model, or the server does not answer (see `tracking.mlflow_errors`).
    """
    by_version: dict[str, list[str]] = {}
    for alias, version in client.get_registered_model(name).aliases.items():
        by_version.setdefault(str(version), []).append(alias)
    # One version more, with which the oldest one is compared.
    found = client.search_model_versions(f"name = '{name}'", max_results=limit + 1, order_by=["version_number DESC"])
    rows = [_read_row(client, version, by_version.get(str(version.version), [])) for version in reversed(found)]
    changed = [_with_changes(before, after) for before, after in pairwise(rows)]
    return [*rows[:1], *changed][-limit:]


def _read_row(client: "MlflowClient", version: "ModelVersion", aliases: Sequence[str]) -> VersionRow:
    created = datetime.fromtimestamp((version.creation_timestamp or 0) / 1000, UTC)
    return VersionRow(
        version=str(version.version),
        registered=created.isoformat(timespec="seconds"),
        aliases=tuple(sorted(aliases)),
        gate=version.tags.get("gate", ""),
        dataset=version.tags.get("dataset_key", ""),
        run_id=version.run_id,
        metrics=_read_metrics(client, version.run_id),
        tags=dict(version.tags),
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


def _with_changes(before: VersionRow, after: VersionRow) -> VersionRow:
    changes = tuple(part for part, tag in PARTS.items() if before.tags.get(tag) != after.tags.get(tag))
    return VersionRow(**{**vars(after), "changes": changes})


def list_metrics(rows: Sequence[VersionRow]) -> list[str]:
    """Return the names of all metrics, those of the newest version first; the number of pairs is last."""
    names = dict.fromkeys(name for row in reversed(rows) for name in row.metrics)
    return [name for name in names if name != "pairs"] + [name for name in names if name == "pairs"]


def table_rows(rows: Sequence[VersionRow]) -> list[dict[str, Any]]:
    """Return the rows of a table for people, newest first; a metric has its change from the version before it."""
    names = list_metrics(rows)
    found = []
    for before, row in zip([None, *rows], rows, strict=False):
        metrics = {name: format_metric(name, row.metrics, before.metrics if before else {}) for name in names}
        found.append(
            {
                "version": row.version,
                "alias": ", ".join(row.aliases),
                "registered": row.registered[:16].replace("T", " "),
                **metrics,
                "dataset": row.dataset,
                "changed": ", ".join(row.changes),
                "gate": row.gate,
            }
        )
    return found[::-1]


def format_metric(name: str, values: Mapping[str, float], before: Mapping[str, float]) -> str:
    """Return a count, or a share as a percentage, with its change in brackets."""
    if name not in values:
        return "-"
    value, change = values[name], values[name] - before.get(name, values[name])
    if name == "pairs":
        return f"{value:,.0f}" + (f" ({change:+,.0f})" if change else "")
    return f"{100 * value:.2f}%" + (f" ({100 * change:+.2f})" if change else "")


def read_versions(name: str, limit: int = SHOWN) -> list[VersionRow]:
    """Return the newest versions of a model, oldest first.

    Raises: ConfigError if there is no such model; ServiceError if MLflow does not answer.
    """
    client = tracking.connect()
    with tracking.mlflow_errors():
        return read_history(client, name, limit)


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
