"""`pairmill diff A B`: what dataset B has more and less than A, and why, for people or as JSON, and the rows as a file."""

from pathlib import Path
from typing import Any

import polars as pl

from dataops.errors import ConfigError
from dataops.snapshot import Manifest
from dataops.stages import PAIR_STAGES
from dataops.store import Store
from flows.commands.output import console, find_snapshot, load_manifests, new_table, print_json, text
from flows.records import load_run
from tasks.lineage.diff import Difference, Side, compare_datasets

SHOWN = 60
"""Characters of a setting."""


def show_diff(a: str, b: str, home: Path, store_uri: str | None, rows: Path | None, *, as_json: bool) -> int:
    """Compare two datasets, each named by its key or by a run.

    Raises: ConfigError where there is no such dataset, the two are of different stages, or the file cannot be written.
    """
    first, second = (find_dataset(name, home, store_uri) for name in (a, b))
    if first[0].stage != second[0].stage:
        raise ConfigError(f"{a} is a snapshot of {first[0].stage}, {b} one of {second[0].stage}: name two of one stage")
    found = compare_datasets(first, second)
    if rows is not None:
        write_rows(found, rows)
    if as_json:
        print_json(as_value(first[0], second[0], found))
    else:
        _print(first[0], second[0], found)
    return 0


def find_dataset(name: str, home: Path, store_uri: str | None) -> tuple[Manifest, Store]:
    """The snapshot of a key, or the packed dataset of a run."""
    if found := find_snapshot(name, home, store_uri):
        if found[0].stage not in PAIR_STAGES:
            raise ConfigError(
                f"{name} is a snapshot of {found[0].stage}, which holds no pairs; name one of {', '.join(PAIR_STAGES)}"
            )
        return found
    record, store = load_run(name, home, store_uri)
    packed = [manifest for manifest in load_manifests(record, store) if manifest.stage == "pack"]
    if not packed:
        raise ConfigError(f"run {name} has no complete dataset (stage pack); name a snapshot by its key")
    return packed[0], store


def as_value(a: Manifest, b: Manifest, found: Difference) -> dict[str, Any]:
    """The difference as plain values."""
    return {
        **{name: {"stage": m.stage, "key": m.key, "rows": m.counts.kept} for name, m in (("a", a), ("b", b))},
        "common": found.common,
        "changed": found.changed,
        "added": _side(found.added),
        "removed": _side(found.removed),
        "settings": {name: list(values) for name, values in found.settings.items()},
    }


def _side(side: Side) -> dict[str, Any]:
    why = [{"stage": stage, "reason": reason, "rows": number} for (stage, reason), number in side.why.items()]
    return {"rows": side.rows.height, "why": why}


def write_rows(found: Difference, path: Path) -> None:
    """Each added and removed pair: `change, uid, url, caption, stage, reason`.

    Raises: ConfigError when the file's name says no format, or it cannot be written.
    """
    sides = (("added", found.added), ("removed", found.removed))
    table = pl.concat([side.rows.select(pl.lit(change).alias("change"), pl.all()) for change, side in sides])
    writers = {".parquet": table.write_parquet, ".csv": table.write_csv}
    if path.suffix not in writers:
        raise ConfigError(f"--rows {path}: its name must end in {' or '.join(writers)}")
    try:
        writers[path.suffix](path)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error


def _print(a: Manifest, b: Manifest, found: Difference) -> None:
    out = console()
    out.print(text(f"A: {a.stage}/{a.key}, {a.counts.kept:,} pairs. B: {b.stage}/{b.key}, {b.counts.kept:,} pairs."))
    changed = f", {found.changed:,} of them with another picture" if found.changed else ""
    out.print(text(f"{found.common:,} pairs are in both{changed}."))
    for change, side, other in (("added", found.added, "A"), ("removed", found.removed, "B")):
        out.print()
        if side.rows.is_empty():
            out.print(text(f"none {change}"))
            continue
        title = f"{side.rows.height:,} {change}: why {other} has them not"
        table = new_table(title, "stage", "reason", "pairs", right=["pairs"])
        for (stage, reason), number in side.why.items():
            table.add_row(text(stage or "?"), text(reason), f"{number:,}")
        out.print(table)
    if found.settings:
        out.print()
        table = new_table("What the stages were told", "setting", "A", "B")
        for name, values in found.settings.items():
            table.add_row(text(name), *(text(str(value)[:SHOWN]) for value in values))
        out.print(table)
