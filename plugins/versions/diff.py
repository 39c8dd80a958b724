"""`pairmill diff A B`: prints which pairs dataset B has more and less than A, and why, and writes the rows to a file."""

import os
from io import BytesIO
from pathlib import Path
from typing import Annotated

import polars as pl
from cyclopts import Parameter

from dataops.errors import ConfigError, writing
from dataops.formatting import format_quantity
from flows.commands.options import Json, Name, StoreUri
from flows.commands.output import console, new_table, print_json, text
from flows.records import find_dataset, find_named_version
from infra.local import services
from plugins.versions.datasets import Dataset, Difference, compare_datasets, describe_settings, of_snapshot, of_version
from plugins.versions.spreadsheets import write_csv
from tasks.tracking.registry import is_model


def diff(
    a: Name,
    b: Name,
    *,
    rows: Annotated[
        Path | None,
        Parameter(
            help="Of datasets: also write each added and removed pair, and why, to this file (.parquet or .csv)."
        ),
    ] = None,
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """Show what differs between two datasets (pairs, and why) or two registered models (metrics, data and settings).

    Args:
        a: The key of a dataset (a snapshot of pack), a run that made or reused one, a version of a dataset that grows
            (NAME-DIGEST/NUMBER), or a model: NAME/VERSION, NAME@ALIAS.
        b: Another one; `added` pairs are in B and not in A.
    """
    from plugins.versions.models import show_model_diff

    models = [is_model(name) and not find_named_version(name, services.home(), store) for name in (a, b)]
    if models[0] != models[1]:
        raise ConfigError(f"{a} and {b}: name two datasets, or two registered models")
    if all(models):
        if rows is not None:
            raise ConfigError("--rows is for two datasets: name the keys that `pairmill models` lists")
        return show_model_diff(a, b, services.home(), store, as_json=json)
    first, second = (_find(name, services.home(), store) for name in (a, b))
    if first.stage != second.stage:
        raise ConfigError(
            f"{a} is a snapshot of {first.stage}, {b} a snapshot of {second.stage}: name two of one stage"
        )
    difference = compare_datasets(first, second)
    if rows is not None:
        write_rows(difference, rows)
    if json:
        sides = {
            name: {"stage": one.stage, "key": one.name, "rows": one.pairs}
            for name, one in (("a", first), ("b", second))
        }
        settings = {name: list(values) for name, values in difference.settings.items()}
        print_json({**sides, **difference.count(), "settings": settings})
    else:
        _print(first, second, difference)
    return 0


def _find(name: str, home: Path, store_uri: str | None) -> Dataset:
    if found := find_named_version(name, home, store_uri):
        return of_version(*found)
    return of_snapshot(*find_dataset(name, home, store_uri))


def write_rows(difference: Difference, path: Path) -> None:
    """Write each added and removed pair with the columns `change, uid, url, caption, stage, reason`.

    A Parquet file has the exact texts; in a CSV file, spreadsheet programs find no formulas.

    Raises: ConfigError if the file's name does not end in a known format, or it cannot be written.
    """
    sides = (("added", difference.added), ("removed", difference.removed))
    table = pl.concat([side.rows.select(pl.lit(change).alias("change"), pl.all()) for change, side in sides])
    writers = {".parquet": pl.DataFrame.write_parquet, ".csv": write_csv}
    if path.suffix not in writers:
        raise ConfigError(f"--rows {path}: its name must end in {' or '.join(writers)}")
    data = BytesIO()  # the errors of Polars have no number by which `writing` finds a full disk
    writers[path.suffix](table, data)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        try:
            unfinished.write_bytes(data.getbuffer())
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


def _print(a: Dataset, b: Dataset, difference: Difference) -> None:
    out = console()
    for name, dataset in (("A", a), ("B", b)):
        out.write(f"{name}: {dataset.stage}/{dataset.name}, {format_quantity(dataset.pairs, 'pair')}")
    are = "is" if difference.common == 1 else "are"
    changed = f", {difference.changed:,} of them with another image" if difference.changed else ""
    out.write(f"{format_quantity(difference.common, 'pair')} {are} in both{changed}.")
    for change, side, other in (("added", difference.added, "A"), ("removed", difference.removed, "B")):
        out.print()
        if side.rows.is_empty():
            out.write(f"no pair was {change}")
            continue
        title = f"{format_quantity(side.rows.height, 'pair')} {change}: why absent from {other}"
        table = new_table(title, "stage", "reason", "pairs", right=["pairs"])
        for (stage, reason), number in side.why.items():
            table.add_row(text(stage or "?"), text(reason), f"{number:,}")
        out.print(table)
    if difference.settings:
        out.write("\nDifferent settings of the stages", "bold")
        for line in describe_settings(difference.settings):
            out.write(line)
