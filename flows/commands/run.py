"""`pairmill run` and `pairmill rerun`: run the flow in this process, print the result and return an exit code."""

import json as json_
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from dataops.command_name import name_command
from dataops.errors import ConfigError, PairmillError, describe_error
from dataops.escaping import escape_controls
from dataops.redaction import redact
from dataops.stages import STAGES, StageName
from flows.commands.options import Json, Name, Settings, StoreUri
from flows.commands.output import first_page, print_waits
from flows.interruption import IS_OUTCOME, Interruption
from infra.local import services
from tasks.download.config import check_patterns

if TYPE_CHECKING:
    from flows.records import RunRecord

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
    record = create_run(checked, services.make_home())
    return run_record(record.run_id, until=until, force=force, verify=verify, as_json=json)


def run_record(
    run_id: str,
    *,
    until: str | None = None,
    force: Sequence[str] = (),
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
        code = _run_flow(run_id, interruption, until, force, retry, verify, as_json=as_json)
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
    force: Sequence[str],
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
        pipeline(run_id=run_id, until=until, force=tuple(force), retry=tuple(retry), verify=verify)
    except Exception as error:  # a boundary of the process; Prefect has logged the traceback
        failure = translate_error(error)
    if interruption.signal is not None:
        return interruption.exit_code
    code = 0 if failure is None else failure.exit_code if isinstance(failure, PairmillError) else 1
    record, store = load_run(run_id, services.home())
    if as_json:
        result = record.summary()
        if failure is not None:
            message = name_command(redact(str(failure)))
            result["error"] = {"type": type(failure).__name__, "message": message, "exit_code": code}
        sys.stdout.write(json_.dumps(result) + "\n")
    else:
        show_run(record, store, with_error=False)  # which follows on standard error, with what to do
    if failure is not None:
        message = f"pairmill: {describe_error(failure)}\n{next_step(failure, run_id)}\n"
        sys.stderr.write(escape_controls(name_command(redact(message))))
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
    sys.stderr.write(escape_controls(name_command(redact("\n".join(lines) + "\n"))))


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
    # With `retry`, no complete snapshot is rebuilt: `download` fetches rows again, and the later stages follow from them.
    if from_ and until and STAGES.index(until) < STAGES.index(from_):
        raise ConfigError(f"--until {until} comes before --from {from_}; name that stage or a later one")
    classes = _parse_classes(from_, retry)
    from flows.records import is_alive, load_run, remember_store

    home = services.home()
    record, found_in = load_run(run_id, home, store)
    with print_waits():
        alive = is_alive(record, found_in)
    if alive:
        attempt = record.own_attempts[-1]
        raise ConfigError(f"{run_id} still runs on {attempt.host} as process {attempt.pid}; stop that process first")
    remember_store(run_id, found_in, home)
    start_servers()
    services.apply_environment()
    close_killed_attempts(record)
    last: str | None = until
    if last is None:
        last = record.last_stage
        if last and from_ and STAGES.index(last) < STAGES.index(from_):
            last = None
    force = STAGES[STAGES.index(from_) :] if from_ and not classes else ()
    return run_record(run_id, until=last, force=force, retry=classes, as_json=json)


def _parse_classes(from_stage: str | None, retry: str | None) -> tuple[str, ...]:
    if retry is None:
        return ()
    if from_stage != "download":
        raise ConfigError("--retry fetches failed rows of download again; add --from download")
    try:
        return check_patterns(part.strip() for part in retry.split(","))
    except ValueError as error:
        raise ConfigError(f"--retry: {error}") from error


def close_killed_attempts(record: "RunRecord") -> None:
    """Close the flow runs and task runs of earlier attempts that their processes have not closed."""
    from prefect.client.orchestration import get_client

    from flows.abandoned_runs import close_flow_run, close_task_runs

    with get_client(sync_client=True) as client:
        for attempt in record.attempts:
            # A training on a work pool may still run after its parent has died.
            is_over = attempt in record.own_attempts or attempt.has_died()
            if not is_over or not attempt.flow_run_id:
                continue
            close = close_flow_run if attempt.ended_at is None else close_task_runs
            close(client, attempt.flow_run_id)


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
        if _is_not_repeated not in handler.filters:
            handler.addFilter(_is_not_repeated)
    for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.flow_engine", "prefect.task_engine"):
        logger = logging.getLogger(name)
        if not any(isinstance(f, _WithoutTraceback) for f in logger.filters):
            logger.addFilter(_WithoutTraceback())
