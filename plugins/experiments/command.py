"""`pairmill experiment`: train the variants of a config with several seeds, and print which of them is better."""

import json as json_
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from dataops.command_name import format_message
from dataops.errors import ConfigError
from dataops.formatting import format_bytes, format_quantity, format_seconds
from dataops.store import Store
from flows.commands.options import Json, Name, StoreUri
from flows.commands.output import console, new_table, print_json
from flows.commands.run import run_record, start_servers
from flows.interruption import EXIT_CODES
from flows.records import create_run, known_stores, load_run
from infra.local import services
from plugins.experiments.config import Experiment, load_experiment
from plugins.experiments.decide import NUMBERS, Result, list_differences, list_variants, read_result
from plugins.experiments.ladder import FACTORS, list_forecasts
from plugins.experiments.page import describe_adoption, write_page
from plugins.experiments.record import Cell, Record, load_record
from plugins.experiments.run import Outcome, Work, find_first

Page = Annotated[Path | None, Parameter(help="Also write the page with the forest plot to this file.")]


def experiment(
    file: Path,
    *,
    dry_run: Annotated[bool, Parameter(negative="", help="Only show what would be made, and what it takes.")] = False,
    page: Page = None,
    json: Json = False,
) -> int:
    """Run each variant of a config with each seed, and print which variant is better, with intervals.

    Equal snapshots are made once. The same command continues after a failure or a kill.

    Args:
        file: TOML file of the experiment.
    """
    found = load_experiment(file, writes=not dry_run)
    if dry_run:
        return _show_plan(found, as_json=json)
    start_servers()
    services.apply_environment()
    from plugins.experiments.servers import run_in_flow, show_in_mlflow  # reads the environment of the servers

    work = Work(found, services.make_home(), run_cell, _print_cell)
    work.check_ladder()
    with redirect_stdout(sys.stderr):  # what runs print
        code = run_in_flow(work.record, work.store, work.make)
        result = read_result(work.record, work.store)
        if code not in EXIT_CODES.values():  # a signal leaves no time for it
            show_in_mlflow(result, work.record, work.store)
    return _show_result(result, work.record, work.store, page, as_json=json) or code


def show(name: Name, *, page: Page = None, store: StoreUri = None, json: Json = False) -> int:
    """Print the result of an experiment: the decision, the differences, and what each variant dropped.

    Args:
        name: its name.
    """
    for one in known_stores(services.home(), store):
        if (record := load_record(name, one)) is not None:
            return _show_result(read_result(record, one), record, one, page, as_json=json)
    raise ConfigError(
        f"no known store has an experiment {name!r}; `pairmill experiment FILE` makes one, and --store names a store"
    )


def run_cell(run_id: str, config: Path, settings: tuple[str, ...], until: str) -> Outcome:
    """Run a config in this process, as `pairmill run` does."""
    from flows.config import load_config

    checked = load_config(config, settings, until)
    create_run(checked, services.make_home(), run_id, until=until)
    code = run_record(run_id, until=until)
    return Outcome(code, stopped=bool(code) and load_run(run_id, services.home())[0].state == "stopped")


def _print_cell(cell: Cell) -> None:
    scale = f", {cell.samples:,.0f} samples" if cell.samples is not None else ""
    line = f"{cell.variant}, seed {cell.seed}{scale}: {cell.state}{f': {cell.error}' if cell.error else ''}\n"
    sys.stderr.write(format_message(line))


def _show_plan(found: Experiment, *, as_json: bool) -> int:
    """Print what each run makes that none before it makes, with rows, time and bytes as `pairmill plan` has them."""
    from flows.commands.plan import format_rows  # imports Prefect

    work = Work(found, services.home(), run_cell)
    work.check_ladder()
    plans = list(find_first(work.plan()))
    estimates = [one.estimate for _, _, made in plans for one in made]
    seconds, stored = (sum(getattr(one, key) or 0.0 for one in estimates) for key in ("seconds", "stored_bytes"))
    unknown = sorted({one.stage for _, _, made in plans for one in made if one.estimate.seconds is None})
    if as_json:
        runs = [
            {"variant": cell.variant, "seed": cell.seed, "make": [one.stage for one in made], **planned.as_dict()}
            for cell, planned, made in plans
        ]
        total = {"stages": len(estimates), "seconds": seconds, "stored_bytes": stored, "unknown": unknown}
        print_json({"name": found.name, "runs": runs, "total": total})
        return 0
    out = console()
    table = new_table(
        f"Plan of {found.name}", "variant", "seed", "makes", "pairs", "time", right=["seed", "pairs", "time"]
    )
    for cell, planned, made in plans:
        pairs = next((one.estimate.kept for one in planned.stages if one.stage == "pack"), None)
        time = sum(one.estimate.seconds or 0.0 for one in made)
        known = made and any(one.estimate.seconds is not None for one in made)
        table.add_row(
            cell.variant,
            str(cell.seed),
            ", ".join(one.stage for one in made) or "nothing",
            "" if pairs is None else format_rows(pairs),
            f"~{format_seconds(time)}" if known else "",
        )
    out.print(table)
    stages = f"{format_quantity(len(estimates), 'stage')} to make in {format_quantity(len(plans), 'run')}"
    out.write(f"{stages}: ~{format_seconds(seconds)}, ~{format_bytes(stored, 'B')} in the store")
    if unknown:
        out.write(f"not known, as no run of this kind made it here: {', '.join(unknown)}")
    return 0


def _show_result(result: Result, record: Record, store: Store, page: Path | None, *, as_json: bool) -> int:
    if page is not None:
        write_page(result, store, page)
    if as_json:
        print_json(as_dict(result, record))
        return 0
    out = console()
    table = new_table(f"{result.name}: {result.metric}", "variant", "state", *NUMBERS, right=NUMBERS)
    for row in list_variants(result):
        table.add_row(*row[:-1])
    out.print(table)
    if result.comparisons:
        out.print()
        names = ("difference", "interval", "p, corrected")
        table = new_table("Differences in points", "variants", *names, "verdict", right=names)
        for row in list_differences(result):
            table.add_row(*row)
        out.print(table)
    if result.forecasts:
        out.print()
        names = [f"{factor} times the samples" for factor in FACTORS]
        table = new_table("Forecast", "variant", "metric", "largest training", *names)
        for row in list_forecasts(result.forecasts):
            table.add_row(*row)
        out.print(table)
    out.print()
    out.message(result.decision, "bold")
    if result.adopt:
        out.message(f"adopt it: {describe_adoption(result)}")
    for note in result.notes:
        out.message(note)
    return 0


def as_dict(result: Result, record: Record) -> dict[str, Any]:
    """Return a result as JSON values, with the state of each run."""
    values = asdict(result)
    for key in ("comparisons", "clean"):
        for one in values[key]:
            one["first"], one["second"] = result.compared[one["first"]], result.compared[one["second"]]
    return json_.loads(json_.dumps({**values, "runs": [asdict(cell) for cell in record.cells]}))
