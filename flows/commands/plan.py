"""`pairmill plan`: print which stages a run reuses and makes, why, and what it takes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dataops import plugins
from dataops.errors import ConfigError, NothingLeft
from dataops.formatting import format_bytes, format_quantity, format_seconds
from dataops.process import count_cores
from dataops.stages import StageName
from flows.commands.options import Json, Settings
from flows.commands.output import console, new_table, print_json, text
from flows.config import load_config
from flows.planning.plan import PlannedStage, RunPlan, plan_run
from infra.local import services

MAX_REASONS = 8
"""Maximum number of lines with the reasons of one stage."""


def plan(
    path: Path,
    /,
    *,
    set_: Settings = (),
    until: Annotated[StageName | None, Parameter(help="The last stage.")] = None,
    force: Annotated[tuple[StageName, ...], Parameter(help="Plan to make this stage again. May be repeated.")] = (),
    target: Annotated[
        str | None, Parameter(help="Show what reaches it, by experiments: `TASK METRIC = VALUE`, such as 60%.")
    ] = None,
    json: Json = False,
) -> int:
    """Show what a run would reuse and make, why, and what it takes by earlier runs of this kind.

    Args:
        path: TOML file.
    """
    config = load_config(path, set_, until, writes=False)
    workers = config.execution.workers or count_cores()
    try:
        found = plan_run(config, services.home(), workers, until=until, force=force)
    except NothingLeft as nothing:  # a dataset that grows
        found = RunPlan(config.name, config.store.uri, workers, [])
        if not json:
            console().message(f"nothing to do: {nothing}")
            return 0
    expected = [one for describe in plugins.load("forecasts").values() for one in describe(config, found, target)]
    if target is not None and not expected:
        raise ConfigError(
            "--target: no experiment with a ladder trained this kind of data in this way, so nothing shows what it takes"
        )
    if json:
        print_json({**found.as_dict(), "expected": expected})
        return 0
    _print(found)
    for one in expected:
        console().write(one["text"])
    return 0


def _print(plan: RunPlan) -> None:
    out = console()
    numbers = ("rows in", "kept", "time", "stored")
    table = new_table(f"Plan of {plan.name} in {plan.store}", "stage", "", "key", *numbers, right=numbers)
    for one in plan.stages:
        found, is_made = one.estimate, one.action != "reuse"
        about = "~" if is_made else ""
        bound = "≤ " if found.at_most else about
        table.add_row(
            text(one.stage),
            text(one.action, "bold" if is_made else ""),
            text(one.key or "(by its inputs)", "" if one.key else "dim"),
            "" if found.rows is None else f"{about}{format_rows(found.rows)}",
            "" if found.kept is None else f"{about}{format_rows(found.kept)}",
            "" if found.seconds is None else f"{bound}{format_seconds(found.seconds)}",
            "" if found.stored_bytes is None else f"{about}{format_bytes(found.stored_bytes, 'B')}",
        )
    out.print(table)
    for one in plan.stages:
        if one.action == "reuse" and one.why:
            out.write(f"{one.stage}: {one.why[0]}; --force {one.stage} makes it again")
    made = [one for one in plan.stages if one.action != "reuse"]
    if not made:
        out.message("\nnothing to do: every stage is reused")
        return
    out.write("\nWhy", "bold")
    for one in made:
        for number, why in enumerate(_reasons(one)):
            out.write(f"{one.stage if not number else '':<10}{why}")
    _print_total(plan, made)
    for one in made:
        if one.warning:
            out.write(f"{one.stage}: {one.warning}", "bold")


def _print_total(plan: RunPlan, made: Sequence[PlannedStage]) -> None:
    out, total = console(), plan.total()
    out.write("\nWhat it takes", "bold")
    for run in dict.fromkeys(one.estimate.run for one in made if one.estimate.run):
        stages = ", ".join(one.stage for one in made if one.estimate.run == run)
        out.write(f"{stages}: estimated by run {run}")
    if total["unknown"]:
        out.write(f"{', '.join(total['unknown'])}: not known, as no run of this kind made it here")
    if len(total["unknown"]) < len(made):
        about = "at most " if total["at_most"] else "~"
        time, stored = format_seconds(total["seconds"]), format_bytes(total["stored_bytes"], "B")
        workers = format_quantity(plan.workers, "worker")
        out.write(f"total: {about}{time} with {workers}, ~{stored} in the store")


def _reasons(one: PlannedStage) -> list[str]:
    found = list(one.why) if len(one.why) <= MAX_REASONS else [*one.why[: MAX_REASONS - 1], _rest(one.why)]
    if one.finished_tasks:
        found.append(f"{format_quantity(one.finished_tasks, 'task')} of an unfinished attempt are kept")
    if one.extracted_before:
        found.append(f"{one.extracted_before:,} of {format_quantity(one.files, 'source file')} were extracted before")
    return found


def _rest(why: Sequence[str]) -> str:
    return f"and {len(why) - MAX_REASONS + 1} more differences (--json has all)"


def format_rows(rows: float) -> str:
    """Return a number of rows, with three digits if it is an estimate of many."""
    return f"{rows:,.0f}" if rows < 1000 or rows == int(rows) else f"{float(f'{rows:.3g}'):,.0f}"
