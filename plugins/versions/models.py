"""`pairmill models` and `pairmill diff` of two models: print versions of models, and what differs between two."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.types import PositiveInt

from dataops.errors import ConfigError
from dataops.formatting import format_percent, format_quantity, format_share
from dataops.store import Store
from flows.commands.options import Json, OptionalName
from flows.commands.output import console, new_table, print_json, text
from flows.records import find_snapshot
from plugins.versions.comparison import (
    VersionComparison,
    VersionSide,
    compare_versions,
    load_side,
)
from plugins.versions.datasets import describe_settings
from plugins.versions.history import VersionRow, format_metric, list_metrics, read_models, read_versions
from tasks.models.find import get_version
from tasks.tracking.registry import MODEL, RegisteredVersion

METRICS = 5
"""Maximum number of metrics in a table on the terminal."""


def models(
    name: OptionalName = None,
    *,
    limit: Annotated[PositiveInt, Parameter(help="Number of the newest versions to list.")] = 20,
    json: Json = False,
) -> int:
    """List the versions of a registered model: aliases, metrics, dataset, what changed, and the gate's verdict.

    Args:
        name: A registered model; by default all of them are listed by name.
    """
    if name is None:
        return _show_names(as_json=json)
    model, version = parse_model(name)
    if version is not None:
        raise ConfigError(f"{name} names one version: write {model}, or pairmill trace {name}")
    rows = read_versions(model, limit)
    if json:
        print_json({"model": model, "versions": [asdict(row) for row in reversed(rows)]})
        return 0
    out = console()
    if not rows:
        out.write(f"{model} has no version")
        return 0
    _print_versions(model, rows)
    if len(rows) > 1:
        command = f"pairmill diff {model}/{rows[-2].version} {model}/{rows[-1].version}"
        out.message(f"what differs between the newest two: {command}")
    return 0


def _print_versions(model: str, rows: list[VersionRow]) -> None:
    """Print a table of metrics, and one of the data, the changes and the gate."""
    out, names = console(), [name for name in list_metrics(rows) if name != "pairs"]
    newest, shown = [*zip([None, *rows], rows, strict=False)][::-1], names[:METRICS]
    heads = {name: name.replace("/", "\n", 1) for name in shown}
    title = f"Versions of {model}, with the change from the version before"
    table = new_table(title, "version", "alias", *heads.values(), right=[*heads.values()])
    for before, row in newest:
        metrics = (format_metric(name, row, before) for name in shown)
        table.add_row(*map(text, (row.version, ", ".join(row.aliases), *metrics)))
    out.print(table)
    if len(names) > len(shown):
        out.write(f"and {format_quantity(len(names) - len(shown), 'metric')} more: --json shows all")
    out.print()
    columns = ("version", "registered", "pairs", "dataset", "changed", "why")
    table = new_table("What changed from the version before, and the gate", *columns, right=["pairs"])
    for before, row in newest:
        registered, changed = row.registered[:16].replace("T", " "), ", ".join(row.changes) or "-"
        pairs = format_metric("pairs", row, before)
        table.add_row(*map(text, (row.version, registered, pairs, row.dataset, changed, row.gate)))
    out.print(table)


def _show_names(*, as_json: bool) -> int:
    found = read_models()
    if as_json:
        print_json({"models": found})
        return 0
    table = new_table("Registered models", "model", "newest version", "aliases", right=["newest version"])
    for model in found:
        aliases = ", ".join(f"{alias}: {version}" for alias, version in model["aliases"].items())
        table.add_row(text(model["name"]), text(model["newest"] or "-"), text(aliases or "-"))
    console().print(table)
    return 0


def show_model_diff(a: str, b: str, home: Path, store_uri: str | None, *, as_json: bool) -> int:
    """Compare two registered versions.

    Raises: ConfigError if there is no such version, or none of its snapshots is in a known store; ServiceError if MLflow
        does not answer.
    """
    versions = _find_version(a), _find_version(b)
    first, second = (_find_side(version, home, store_uri) for version in versions)
    comparison = compare_versions(first, second)
    if as_json:
        print_json(as_value(comparison, versions))
    else:
        _print_comparison(comparison)
    return 0


def _find_side(version: RegisteredVersion, home: Path, store_uri: str | None) -> VersionSide:
    """Return the side of a version, from the store that has its evaluation, else its training or its dataset."""
    name = f"{version.name} version {version.version}"
    stores: list[Store] = []
    for stage in ("evaluate", "train", "pack"):
        if (key := version.tags.get(f"snapshot.{stage}")) and (found := find_snapshot(key, home, store_uri)):
            stores.append(found[1])
            break
    if not stores:
        raise ConfigError(f"no known store has the snapshots of {name}; name its store with --store")
    return load_side(name, version.tags, stores[0])


def as_value(comparison: VersionComparison, versions: tuple[RegisteredVersion, RegisteredVersion]) -> dict[str, Any]:
    """Return the comparison as JSON values."""
    return {
        "a": versions[0].as_json(),
        "b": versions[1].as_json(),
        "metrics": comparison.metrics,
        "stages": comparison.stages,
        "pairs": comparison.pairs and comparison.pairs.count(),
        "note": comparison.note,
        "settings": {name: list(values) for name, values in comparison.settings.items()},
    }


def _print_comparison(comparison: VersionComparison) -> None:
    out = console()
    out.write(f"A: {comparison.a}")
    out.write(f"B: {comparison.b}")
    out.print()
    numbers = ["A", "B", "difference", "99.5% interval", "p"]
    table = new_table("Metrics (%)", "task", "metric", *numbers, "B is", right=numbers)
    for row in comparison.metrics:
        table.add_row(text(row["task"]), text(row["metric"]), *_metric_cells(row))
    out.print(table)
    out.print()
    numbers = ["A kept", "A share", "B kept", "B share"]
    table = new_table("Data", "stage", *numbers, "snapshot", right=numbers)
    for row in comparison.stages:
        cells = [cell for side in "ab" for cell in _stage_cells(row, side)]
        same = "the same" if row["a_key"] and row["a_key"] == row["b_key"] else ""
        table.add_row(row["stage"], *cells, same)
    out.print(table)
    if comparison.pairs is None:
        out.write(comparison.note)
    else:
        pairs = comparison.pairs
        counts = f"{pairs.added.rows.height:,} added, {pairs.removed.rows.height:,} removed"
        both = format_quantity(pairs.common, "pair")
        out.write(f"{both} in both datasets, {counts}")
    if comparison.settings:
        out.write("\nDifferent settings of the stages", "bold")
        for line in describe_settings(comparison.settings):
            out.write(line)


def _metric_cells(row: Mapping[str, Any]) -> list[str]:
    values = [format_percent(row[side], sign="") for side in "ab"]
    if (found := row["comparison"]) is None:
        return [*values, "", "", "", "not tested"]
    p_value = "" if found["p_value"] is None else f"{found['p_value']:.2g}"
    interval = f"{100 * found['low']:+.2f} to {100 * found['high']:+.2f}"
    return [*values, f"{100 * found['difference']:+.2f}", interval, p_value, found["verdict"]]


def _stage_cells(row: Mapping[str, Any], side: str) -> list[str]:
    kept = row[f"{side}_kept"]
    return ["-", "-"] if kept is None else [f"{kept:,}", format_share(kept, row[f"{side}_input"])]


def _find_version(model: str) -> RegisteredVersion:
    """Return the version that models:/name/3, name/3 or name@alias names.

    Raises: ConfigError if there is none; ServiceError if MLflow does not answer.
    """
    found = get_version(f"models:/{model.removeprefix('models:/')}")
    return RegisteredVersion(found.name, str(found.version), found.run_id, tuple(found.aliases), dict(found.tags))


def parse_model(text: str) -> tuple[str, str | None]:
    """Return the model's name and, if given, its version. Raises: ConfigError for an alias or anything else."""
    found = MODEL.fullmatch(text)
    name = text.removeprefix("models:/") if found is None else found["name"]
    if (found is not None and found["alias"]) or not name or "/" in name:
        raise ConfigError(f"{text!r} is no model: write models:/name/3, name/3, or a name alone")
    return name, found["version"] if found else None
