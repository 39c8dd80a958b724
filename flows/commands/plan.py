"""`pairmill plan`: print which stages a run reuses and makes, why, and what it takes."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dataops.formatting import format_bytes, format_quantity
from dataops.process import count_cores
from dataops.stages import StageName
from flows.commands.options import Json, Settings
from flows.commands.output import console, message, new_table, print_json, text
from flows.config import load_config
from flows.planning.estimate import Estimate
from flows.planning.plan import PlannedStage, RunPlan, plan_run
from infra.local import services

BUSY = 1.5
"""Processes per core that want to run, from which a plan states that the machine is busy."""
AT_MOST = (
    "extract crawls these sites for the first time: it has the rows of source.max_pages at most, a small site has fewer"
)
MAX_REASONS = 8
"""Maximum number of lines with the reasons of one stage."""


def plan(
    path: Path,
    /,
    *,
    set_: Settings = (),
    until: Annotated[StageName | None, Parameter(help="The last stage.")] = None,
    force: Annotated[tuple[StageName, ...], Parameter(help="Plan to make this stage again. May be repeated.")] = (),
    json: Json = False,
) -> int:
    """Show what a run would reuse and make, why, and what it takes: time, bytes, requests, dollars.

    Args:
        path: TOML file.
    """
    config = load_config(path, set_, until, writes=False)
    workers = config.execution.workers or count_cores()
    found = plan_run(config, services.home(), workers, until=until, force=force)
    if json:
        print_json(found.as_dict())
    else:
        _print(found)
    return 0


def _print(plan: RunPlan) -> None:
    out = console()
    numbers = ("rows in", "kept", "time", "stored")
    table = new_table(f"Plan of {plan.name} in {plan.store}", "stage", "", "key", *numbers, right=numbers)
    for one in plan.stages:
        found, is_made = one.estimate, one.action != "reuse"
        about = "" if not is_made else "≤ " if found.at_most else "~"
        table.add_row(
            text(one.stage),
            text(one.action, "bold" if is_made else ""),
            text(one.key or "(by its inputs)", "" if one.key else "dim"),
            f"{about}{format_rows(found.rows)}" if found.rows else "",
            f"{about}{format_rows(found.kept)}" if found.rows else "",
            f"{about}{format_seconds(found.seconds)}" if is_made else "",
            f"{about}{format_bytes(found.stored_bytes, 'B')}" if is_made and found.stored_bytes else "",
        )
    out.print(table)
    made = [one for one in plan.stages if one.action != "reuse"]
    if not made:
        out.print(message("\nnothing to do: every stage is reused"))
        return
    out.print(text("\nWhy", "bold"))
    for one in made:
        for number, why in enumerate(_reasons(one)):
            out.print(text(f"{one.stage if not number else '':<10}{why}"), soft_wrap=True)
    out.print(text("\nEstimated by", "bold"))
    for basis in dict.fromkeys(one.estimate.basis[0] for one in made):
        stages = ", ".join(one.stage for one in made if one.estimate.basis[0] == basis)
        out.print(text(f"{stages}: {basis}"), soft_wrap=True)
    if plan.total().at_most:
        out.print(text(AT_MOST), soft_wrap=True)
    out.print(text("\nTotal", "bold"))
    for name, value in total_lines(plan.total(), plan.workers):
        out.print(text(f"{name:<14}{value}"), soft_wrap=True)


def _reasons(one: PlannedStage) -> list[str]:
    found = list(one.why) if len(one.why) <= MAX_REASONS else [*one.why[: MAX_REASONS - 1], _rest(one.why)]
    if one.finished_tasks:
        found.append(f"{format_quantity(one.finished_tasks, 'task')} of an unfinished attempt are kept")
    if one.extracted_before:
        found.append(f"{one.extracted_before:,} of {format_quantity(one.files, 'source file')} were extracted before")
    return found


def _rest(why: Sequence[str]) -> str:
    return f"and {len(why) - MAX_REASONS + 1} more differences (--json has all)"


def total_lines(total: Estimate, workers: int) -> list[tuple[str, str]]:
    """Return the sums of a plan, each with its name."""
    about = "at most " if total.at_most else "~"
    lines = [
        ("wall time", f"{about}{format_seconds(total.seconds)} with {format_quantity(workers, 'worker')}"),
        (
            "cores",
            f"{about}{total.core_hours:,.2f} core hours, of which they compute {format_seconds(total.cpu_seconds)}",
        ),
    ]
    if total.gpu_hours:
        lines.append(("GPUs", f"{about}{total.gpu_hours:,.2f} GPU hours"))
    lines.append(("from the web", f"{about}{format_bytes(total.web_bytes, 'B')}"))
    lines.append(("in the store", f"{about}{format_bytes(total.stored_bytes, 'B')}"))
    if total.reads or total.writes:
        lines.append(("requests", f"{about}{total.reads:,.0f} GET and {about}{total.writes:,.0f} PUT"))
    if total.model_requests:
        lines.append(("of a model", f"at most ~{format_rows(total.model_requests)} images"))
    if os.getloadavg()[0] > BUSY * (os.cpu_count() or 1):
        lines.append(("this machine", f"is busy with other work (load {os.getloadavg()[0]:.0f}): a run takes longer"))
    return [*lines, ("price", f"{about}${total.dollars:,.2f} (execution.prices)")]


def format_seconds(seconds: float) -> str:
    """Return a duration with a unit that fits."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def format_rows(rows: float) -> str:
    """Return a number of rows, with three digits if it is an estimate of many."""
    return f"{rows:,.0f}" if rows < 1000 or rows == int(rows) else f"{float(f'{rows:.3g}'):,.0f}"
