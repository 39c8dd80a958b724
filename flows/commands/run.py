"""`pairmill run` and `pairmill rerun`: run the flow in this process, print the result and return an exit code."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from dataops.command_name import format_message, name_command
from dataops.errors import PairmillError, describe_error
from dataops.redaction import redact
from dataops.stages import StageName
from flows.commands.options import Json, Name, Settings, StoreUri
from flows.commands.output import first_page, print_json, print_waits
from flows.interruption import IS_OUTCOME, Interruption
from infra.local import services

NAMES = {"prefect": "Prefect", "mlflow": "MLflow"}


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
        from flows.commands.plan import plan

        return plan(config, set_=set_, until=until, force=force, json=json)
    from flows.config import load_config
    from flows.records import create_run

    checked = load_config(config, set_, until)
    start_servers()  # before there is a record: a run without servers never began
    record = create_run(checked, services.make_home(), until=until)
    return run_record(record.run_id, until=until, remake=force, verify=verify, as_json=json)


def run_record(
    run_id: str,
    *,
    until: str | None = None,
    remake: Sequence[str] = (),
    retry: Sequence[str] = (),
    verify: bool = False,
    as_json: bool = False,
) -> int:
    """Run the flow on a run record and return its exit code; local servers are started where no others are set.

    With `as_json`, one JSON object is printed on standard output and nothing else, even if the run fails.
    """
    interruption = Interruption(run_id, f"pairmill rerun {run_id}", as_json=as_json)
    interruption.install()
    try:
        code = _run_flow(run_id, interruption, until, remake, retry, verify, as_json=as_json)
    except BaseException:  # Prefect raises its own exception for SIGTERM
        if interruption.signal is None:
            raise
        code = interruption.exit_code
    if interruption.signal is not None:
        interruption.report()
        code = interruption.exit_code
    return code


def _run_flow(
    run_id: str,
    interruption: Interruption,
    until: str | None,
    remake: Sequence[str],
    retry: Sequence[str],
    verify: bool,
    *,
    as_json: bool,
) -> int:
    show_where_to_watch(run_id, start_servers())
    services.apply_environment()
    from flows.commands.show import show_run
    from flows.pipeline import pipeline  # imports prefect, which reads the environment only then
    from flows.records import load_run
    from flows.task_run import next_step, translate_error

    failure: BaseException | None = None
    quiet_expected_errors()
    try:
        stages: Any = {"until": until, "remake": tuple(remake)}
        pipeline(run_id=run_id, retry=tuple(retry), verify=verify, **stages)
    except Exception as error:  # a boundary of the process; Prefect has logged the traceback
        failure = translate_error(error)
    if interruption.signal is not None:
        return interruption.exit_code
    code = 0 if failure is None else getattr(failure, "exit_code", 1)
    record, store = load_run(run_id, services.home())
    if as_json:
        result = record.summary()
        if failure is not None:
            message = name_command(redact(str(failure)))
            result["error"] = {"type": type(failure).__name__, "message": message, "exit_code": code}
        print_json(result)
    else:
        show_run(record, store, with_error=False)  # which follows on standard error, with what to do
    if failure is not None:
        message = f"pairmill: {describe_error(failure)}\n{next_step(failure, run_id)}\n"
        sys.stderr.write(format_message(message, "ERROR"))
    return code


def start_servers() -> list[services.ServiceStatus]:
    """Start the local servers unless they run, and print what is being waited for."""
    with print_waits():
        return services.up()


def show_where_to_watch(run_id: str, servers: Sequence[services.ServiceStatus]) -> None:
    """Print the run's id and the servers' pages on standard error, before the import of Prefect, which takes seconds."""
    lines = [f"run {run_id}"]
    for server in servers:
        login = "  (its login: `pairmill status --show-login`)" if server.login_file else ""
        lines += [f"  {NAMES[server.name]:<8} {first_page(server)}{login}"] if server.ui_url else []
    sys.stderr.write(format_message("\n".join(lines) + "\n"))


def rerun(
    run_id: Name,
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
    from flows.records import Continuation, check_not_alive, load_run, remember_store

    home = services.home()
    record, found_in = load_run(run_id, home, store)
    how = Continuation.of(record, from_, until, () if retry is None else retry.split(","))
    with print_waits():
        check_not_alive(record, found_in)
    remember_store(run_id, found_in, home)
    start_servers()
    services.apply_environment()
    from flows.abandoned_runs import close_killed_attempts  # imports prefect, which reads the environment only then

    close_killed_attempts(record)
    return run_record(run_id, until=how.until, remake=how.remake, retry=how.retry, as_json=json)


class _WithoutTraceback(logging.Filter):
    """Removes the traceback from deliberate errors and lost servers, whose message is enough; others keep it."""

    def filter(self, record: logging.LogRecord) -> bool:
        from flows.task_run import translate_error

        if record.exc_info and (error := record.exc_info[1]) and isinstance(translate_error(error), PairmillError):
            record.exc_info = None
        return True


def _is_not_repeated(record: logging.LogRecord) -> bool:
    """Return whether the console should print a record: the command itself prints how the run ended, once."""
    is_outcome = record.name.startswith(("prefect.flow_runs", "prefect.task_runs")) or getattr(
        record, IS_OUTCOME, False
    )
    return bool(record.exc_info) or not is_outcome


def quiet_expected_errors() -> None:
    """Log deliberate errors without a traceback, and let the console leave out what the command prints at its end."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(_is_not_repeated)
    for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.flow_engine", "prefect.task_engine"):
        logger = logging.getLogger(name)
        if not any(isinstance(f, _WithoutTraceback) for f in logger.filters):
            logger.addFilter(_WithoutTraceback())
