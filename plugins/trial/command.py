"""`pairmill try`: print what other settings change in a stage, with examples."""

from collections.abc import Sequence
from typing import Annotated, Any

import polars as pl
from cyclopts import Parameter
from cyclopts.types import NonNegativeInt

from dataops.formatting import format_quantity
from dataops.stages import StageName
from flows.commands.options import Json, Settings, StoreUri
from flows.commands.output import Output, console, new_table, print_json, print_waits, text
from infra.local import services
from plugins.trial.trial import Trial, try_stage

JSON_EXAMPLES = 50
"""Rows of each kind in the JSON value."""


def try_(
    stage: StageName,
    /,
    *,
    set_: Settings = (),
    rows: Annotated[int, Parameter(help="Number of rows of the sample.")] = 10_000,
    examples: Annotated[NonNegativeInt, Parameter(help="Number of examples of each kind.")] = 5,
    run: Annotated[str | None, Parameter(help="The run whose config is changed; default: the newest.")] = None,
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """Run extract, filter or curate with other settings on a sample of a finished run, and show what changes.

    The sample and the results are in a temporary store: no snapshot is made.

    Args:
        stage: extract, filter or curate.
    """
    with print_waits():
        trial = try_stage(stage, set_, rows, services.home(), store, run)
    if json:
        print_json(_as_dict(trial, set_))
    else:
        _print(trial, set_, examples)
    return 0


def _as_dict(trial: Trial, settings: Sequence[str]) -> dict[str, Any]:
    return {
        "stage": trial.stage,
        "run_id": trial.run_id,
        "settings": list(settings),
        "rows": trial.rows,
        "of_rows": trial.of_rows,
        "seconds": round(trial.seconds, 3),
        "before": dict(trial.before),
        "after": dict(trial.after),
        "changed": trial.changed.height,
        "newly_dropped": _rows(_newly(trial, dropped=True)),
        "newly_kept": _rows(_newly(trial, dropped=False)),
        "kept": _rows(trial.unchanged.filter(pl.col("after") == "kept")),
        "dropped": _rows(trial.unchanged.filter(pl.col("after") != "kept")),
        "notes": list(trial.notes),
    }


def _rows(frame: pl.DataFrame) -> list[dict[str, Any]]:
    return frame.head(JSON_EXAMPLES).to_dicts()


def _newly(trial: Trial, *, dropped: bool) -> pl.DataFrame:
    """Return the rows that were kept and are dropped now, or the reverse."""
    column = "before" if dropped else "after"
    return trial.changed.filter(pl.col(column) == "kept")


def _print(trial: Trial, settings: Sequence[str], examples: int) -> None:
    out = console()
    what = f"{trial.rows:,} of {format_quantity(trial.of_rows, 'row')}"
    out.write(f"{trial.stage} of {trial.run_id} on {what}, in {trial.seconds:.1f} s", "bold")
    for note in trial.notes:
        out.write(note)
    out.print()
    numbers = ("before", "after", "change") if settings else ("rows",)
    table = new_table("", "outcome", *numbers, right=numbers)
    names = sorted({*trial.before, *trial.after} - {"kept"}, key=lambda name: -trial.before[name] - trial.after[name])
    for name in ("kept", *names):
        old, new = trial.before[name], trial.after[name]
        change = f"{new - old:+,}" if new != old else ""
        style = "" if new == old else "bold"
        cells = (f"{old:,}", f"{new:,}", change) if settings else (f"{new:,}",)
        table.add_row(text(name, style), *(text(cell, style) for cell in cells))
    out.print(table)
    if settings:
        _examples(out, "Dropped now", _newly(trial, dropped=True), "after", examples)
        _examples(out, "Kept now", _newly(trial, dropped=False), "before", examples)
        others = trial.changed.filter((pl.col("before") != "kept") & (pl.col("after") != "kept"))
        _examples(out, "Dropped for another reason now", others, "after", examples)
        if not trial.changed.height:
            out.message("\nno row of the sample has another outcome")
    _examples(out, "Kept", trial.unchanged.filter(pl.col("after") == "kept"), None, examples)
    dropped = trial.unchanged.filter(pl.col("after") != "kept")
    varied = dropped.group_by("after", maintain_order=True).head(2)
    _examples(out, "Dropped", varied, "after", 2 * examples, dropped.height)


def _examples(out: Output, title: str, frame: pl.DataFrame, column: str | None, examples: int, of: int = 0) -> None:
    """Print some rows of a frame: the reason, the caption and the URL.

    Args:
        of: number of rows from which those of the frame were taken; by default they are all.
    """
    if not frame.height or not examples:
        return
    out.print()
    shown, total = frame.head(examples), of or frame.height
    some = f", {shown.height:,} of them" if shown.height < total else ""
    reason = {"before": "was", "after": "reason"}.get(column or "")
    table = new_table(f"{title}: {format_quantity(total, 'row')}{some}", *filter(None, (reason,)), "caption", "URL")
    width = max((out.width - 20) // 2, 20)
    for row in shown.to_dicts():
        cells = [row[column]] if column else []
        table.add_row(*(text(_shorten(str(cell), width)) for cell in (*cells, row["caption"], row["url"])))
    out.print(table)


def _shorten(line: str, width: int) -> str:
    flat = " ".join(line.split())
    return flat if len(flat) <= width else f"{flat[: width - 1]}…"
