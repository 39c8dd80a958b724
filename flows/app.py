"""The commands of `pairmill`: parses arguments, calls the command's function, and turns errors into exit codes.

Exit codes: 0 done; 2 config or usage; 3 data contract broken; 4 training diverged; 5 gate refused the model;
75 retryable (network, storage, pre-emption); 1 anything else.
"""

import json as json_
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter

from dataops.command_name import name_command, set_command_name
from dataops.errors import PairmillError
from dataops.escaping import escape_controls
from dataops.stages import RunState, StageName
from dataops.standard_streams import use_utf8
from flows.commands.before.commands import config, init, plan, try_
from flows.commands.data import build, diff, promote, publish, takedown, takedowns, trace
from flows.commands.documents.commands import bom, summary
from flows.commands.identity import create, directory
from flows.commands.models import evaluate, export, fetch, models, sign, verify
from flows.commands.options import Json, Settings, StoreUri, Yes
from flows.commands.servers import deploy, down, status, up
from infra.doctor.diagnose import diagnose
from infra.doctor.installation import refuse_on_clash
from infra.local import services
from tasks.engine.process_guard import guard_process

# Prefect reads these when it is imported; the imports above do not import it.
LOGGING = {
    "PREFECT_LOGGING_LOGGERS_PREFECT_FLOW_RUNS_LEVEL": "WARNING",
    "PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL": "WARNING",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FORMAT": "%(asctime)s %(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": "%(asctime)s %(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": "%(asctime)s %(message)s",
}

app = App(
    name="pairmill",
    help="Mill web archives into a registered CLIP model: crawl, filter, train, evaluate, register.",
    version=lambda: version("pairmill"),
    version_flags=["--version"],
    default_parameter=Parameter(negative_iterable=()),
    suppress_keyboard_interrupt=False,
)
app.register_install_completion_command(
    help="Install completion of commands and options for the current shell (bash, zsh or fish)."
)


@app.command
def demo(
    *,
    set_: Settings = (),
    quick: Annotated[
        bool,
        Parameter(negative="", help="Take a small part of the data and train for seconds, to see every stage run."),
    ] = False,
    from_scratch: Annotated[
        bool, Parameter(negative="", help="Train without weights that others trained (configs/demo-from-scratch.toml).")
    ] = False,
    json: Json = False,
) -> int:
    """Run the whole pipeline on real data without a network: from a small web archive to a registered model."""
    from flows.commands.demo import run_demo

    return run_demo(set_, quick=quick, from_scratch=from_scratch, as_json=json)


@app.command
def run(
    config: Path,
    *,
    set_: Settings = (),
    until: Annotated[StageName | None, Parameter(help="Stop after this stage.")] = None,
    force: Annotated[
        tuple[StageName, ...], Parameter(help="Make the snapshot of this stage again. May be repeated.")
    ] = (),
    verify: Annotated[bool, Parameter(negative="", help="Verify the sha256 of every reused part.")] = False,
    dry_run: Annotated[
        bool, Parameter(negative="", help="Only show what would be done, as `pairmill plan` does.")
    ] = False,
    json: Json = False,
) -> int:
    """Run the pipeline with a config file: make missing snapshots, reuse complete ones.

    Args:
        config: TOML file.
    """
    if dry_run:
        return plan(config, set_=set_, until=until, force=force, json=json)
    from flows.commands.run import run_record, start_servers
    from flows.config import load_config
    from flows.records import create_run

    checked = load_config(config, set_, until)
    start_servers()  # before there is a record: a run without servers never began
    record = create_run(checked, services.make_home())
    return run_record(record.run_id, until=until, force=force, verify=verify, as_json=json)


@app.command
def backfill(
    config: Path,
    *,
    crawl: Annotated[
        tuple[str, ...], Parameter(help="Make a version of this crawl of Common Crawl. May be repeated.")
    ] = (),
    each: Annotated[
        tuple[str, ...],
        Parameter(help="Make a version with this key: --each source.edition=2026-11. May be repeated."),
    ] = (),
    set_: Settings = (),
    parallel: Annotated[
        int, Parameter(help="Number of versions at a time: while one is made, the next ones run `extract`.")
    ] = 1,
    dry_run: Annotated[bool, Parameter(negative="", help="Only print what would be done.")] = False,
    json: Json = False,
) -> int:
    """Make a dataset version for each crawl, or for each value of a key; each leaves out the pairs of those before it.

    Complete versions are reused, so the same command continues after a failure or a kill.

    Args:
        config: TOML file.
    """
    from flows.backfill.command import backfill as make_versions

    options = {"crawls": crawl, "each": each, "parallel": parallel, "dry_run": dry_run, "as_json": json}
    return make_versions(config, set_, **options)


@app.command
def rerun(
    run_id: str,
    *,
    from_: Annotated[
        StageName | None, Parameter(name="--from", help="Make this stage and all later ones again.")
    ] = None,
    until: Annotated[
        StageName | None, Parameter(help="Stop after this stage; default: the stage at which the run was to stop.")
    ] = None,
    retry: Annotated[
        str | None,
        Parameter(help="With --from download: fetch only the rows again that failed in these ways: timeout,http_5xx."),
    ] = None,
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """Continue a failed, crashed or killed run with its own config, or a completed one to a later stage.

    Args:
        run_id: A run id; `pairmill runs` lists them.
    """
    from flows.commands.run import rerun as continue_run

    return continue_run(run_id, from_stage=from_, until=until, retry=retry, store_uri=store, as_json=json)


@app.command
def runs(
    *,
    limit: Annotated[int | None, Parameter(help="List only so many of the newest runs.")] = None,
    state: Annotated[tuple[RunState, ...], Parameter(help="List only runs in this state. May be repeated.")] = (),
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """List the runs of the known stores, oldest first, and close in Prefect and MLflow those that were killed."""
    from flows.commands.show import select_runs, show_runs
    from flows.records import list_runs, no_runs

    records = list_runs(services.home(), store)
    if_empty = "no run is in this state" if records else no_runs(services.home())
    code = show_runs(select_runs(records, limit, state), if_empty, as_json=json)
    if os.environ.get("PREFECT_API_URL") and any(record.actual_state() != record.state for record in records):
        from flows.abandoned_runs import close_killed_runs

        close_killed_runs(records, services.home())
    return code


@app.command
def show(
    run_or_key: str | None = None,
    *,
    page: Annotated[
        Path | None, Parameter(help="Also write the HTML page of a dataset, a download or a filter to this file.")
    ] = None,
    open_: Annotated[bool, Parameter(name="--open", negative="", help="Also open that page in a browser.")] = False,
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """Show one run, or one snapshot by its key.

    Args:
        run_or_key: A run id, or the 16 hex digits of a snapshot's key; by default the newest run.
    """
    from flows.commands.page import open_page, write_stage_page
    from flows.commands.show import show_run_or_key
    from flows.records import newest_run

    name = run_or_key or newest_run(services.home(), store)
    code = show_run_or_key(name, services.home(), store, as_json=json)
    if page is not None or open_:
        written = write_stage_page(name, services.home(), store, page)
        if open_:
            open_page(written)
    return code


@app.command
def browse(
    run_or_key: str | None = None,
    *,
    with_: Annotated[
        str | None, Parameter(name="--with", help="A second version to compare with: the key of a dataset, or a run.")
    ] = None,
    model: Annotated[
        str | None,
        Parameter(
            help="Model to search by meaning with (default: the newest model of the store, preferably of this data)."
        ),
    ] = None,
    port: Annotated[int, Parameter(help="Port of the page; 0: a free one.")] = 0,
    open_: Annotated[bool, Parameter(name="--open", negative="--no-open", help="Open the page in a browser.")] = True,
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """Look at the rows and images of a dataset in the browser, until Ctrl-C. It needs the extra `browse`.

    Args:
        run_or_key: A run id, or the 16 hex digits of a snapshot's key; by default the newest run.
    """
    from flows.browse.command import browse as serve_pages

    options = {"other": with_, "model": model, "port": port, "open_browser": open_, "as_json": json}
    return serve_pages(run_or_key, services.home(), store, **options)


@app.command
def gc(
    *,
    keep_runs: Annotated[
        int | None, Parameter(help="Number of newest runs to keep of each name (default: 10).")
    ] = None,
    older_than: Annotated[
        str | None, Parameter(help="Instead: keep the runs below this age, such as 12h, 30d or 8w.")
    ] = None,
    store: StoreUri = None,
    yes: Annotated[Yes, Parameter(help="Delete; without it, only list.")] = False,
    json: Json = False,
) -> int:
    """Delete the snapshots that no kept run and no registered model needs, and leftovers of killed processes."""
    from flows.commands.gc import Policy, collect_garbage

    policy = Policy.from_options(keep_runs, older_than)
    return collect_garbage(services.home(), store, policy, delete=yes, as_json=json)


@app.command
def doctor(
    config: Path | None = None,
    *,
    store: Annotated[str | None, Parameter(help="The store to check; default: the store in the home.")] = None,
    json: Json = False,
) -> int:
    """Check this installation and print the remedy for each problem. Exits with 2 if a check fails.

    Args:
        config: A config file, to check also what it needs (Ray).
    """
    from flows.commands.output import show_checks

    return show_checks(diagnose(store, config), as_json=json)


for command in (
    init,
    plan,
    trace,
    takedown,
    takedowns,
    publish,
    promote,
    diff,
    models,
    export,
    summary,
    bom,
    sign,
    verify,
    deploy,
    up,
    down,
    status,
):
    app.command(command)
app.command(evaluate, name="eval")
app.command(try_, name="try")
queries = App(name="queries", help="Lists of queries, for filter.balance.")
queries.command(build)
datasets = App(name="datasets", help="Evaluation sets of suites.")
datasets.command(fetch)
identity = App(name="identity", help="The key with which requests are signed (Web Bot Auth).")
identity.command(create)
identity.command(directory)
app.command(config)
app.command(queries)
app.command(identity)
app.command(datasets)


def use_process_settings() -> None:
    """Use UTF-8, for which the process may start again, and name the command as the user typed it."""
    use_utf8()
    set_command_name()


def run_command(arguments: list[str]) -> int:
    """Run one command line and return its exit code; a deliberate error is printed as one message on standard error."""
    for name, value in LOGGING.items():
        os.environ.setdefault(name, value)
    guard_process()
    try:
        services.apply_environment()
        if arguments[:1] != ["doctor"]:
            refuse_on_clash()
        result: Any = app(arguments, exit_on_error=False, print_error=True, result_action="return_value")
    except CycloptsError:
        return 2
    except PairmillError as error:
        message = name_command(str(error))
        sys.stderr.write(escape_controls(f"pairmill: {message}\n"))
        if "--json" in arguments:
            failure = {"type": type(error).__name__, "message": message, "exit_code": error.exit_code}
            sys.stdout.write(json_.dumps({"error": failure}) + "\n")
        return error.exit_code
    return result if isinstance(result, int) else 0
