"""Runs the parent flow in this process for the command, and turns its end into output and an exit code."""

import asyncio
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from dataops.errors import ConfigError, PairmillError
from dataops.escaping import visible
from dataops.redaction import redact
from dataops.stages import STAGES
from infra.local import services
from tasks.download.failure_classes import checked

logger = logging.getLogger(__name__)


def execute(
    run_id: str,
    *,
    until: str | None = None,
    force: Sequence[str] = (),
    retry: Sequence[str] = (),
    verify: bool = False,
    as_json: bool = False,
) -> int:
    """Run the flow on a run record, starting the local servers where none are given; its exit code.

    With `as_json`, standard output gets exactly one JSON object, also where the run fails.
    """
    services.up()
    services.apply_environment()
    from flows.commands.output import show_run
    from flows.pipeline import pipeline  # imports prefect, which reads the environment once
    from flows.prefect_errors import named
    from flows.records import load_run

    failure: BaseException | None = None
    quiet_expected_errors()
    try:
        pipeline(run_id=run_id, until=until, force=tuple(force), retry=tuple(retry), verify=verify)
    except (
        Exception
    ) as error:  # the process's boundary: it becomes output and an exit code; Prefect logged its traceback
        failure = named(error)
    code = 0 if failure is None else failure.exit_code if isinstance(failure, PairmillError) else 1
    record, store = load_run(run_id, services.home())
    if as_json:
        result = record.model_dump(mode="json", include={"run_id", "stages", "model_version"})
        if failure is not None:
            result["error"] = {"type": type(failure).__name__, "message": redact(str(failure)), "exit_code": code}
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        show_run(record, store)
    if failure is not None:
        again = f"\n`pairmill rerun {run_id}` goes on from here" if code in (1, 75) else ""
        sys.stderr.write(visible(redact(f"pairmill: {type(failure).__name__}: {failure}{again}\n")))
    return code


def rerun(run_id: str, *, from_stage: str | None, retry: str | None, store_uri: str | None, as_json: bool) -> int:
    """Continue a run: its former flow run, where Prefect still believes it alive, is marked Crashed first.

    A run whose record says `running` on another machine goes on there for as long as it renews its lease. It goes to where
    the unfinished try was to go; a finished one goes on to the last stage. With `retry`, classes of failure, nothing that
    is there is made again: `download` fetches what failed so, and what stands below it follows from what comes of that.

    Raises: ConfigError when the run is not known or still goes on, or `retry` is no list of classes.
    """
    classes = _classes(from_stage, retry)
    from flows.records import is_alive, load_run, remember

    home: Path = services.home()
    record, store = load_run(run_id, home, store_uri)
    if is_alive(record, store):
        attempt = record.tries[-1]
        raise ConfigError(f"{run_id} still runs on {attempt.host} as process {attempt.pid}; stop it first")
    remember(run_id, store, home)
    services.up()
    services.apply_environment()
    for attempt in record.attempts:
        over = attempt in record.tries or attempt.is_gone()  # a training on a work pool may go on without its parent
        if over and attempt.ended_at is None and attempt.flow_run_id:
            asyncio.run(_mark_crashed(attempt.flow_run_id))
    until = record.goal
    if until and from_stage and STAGES.index(until) < STAGES.index(from_stage):
        until = None  # what is to be made again lies beyond it
    force = STAGES[STAGES.index(from_stage) :] if from_stage and not classes else ()
    return execute(run_id, until=until, force=force, retry=classes, as_json=as_json)


def _classes(from_stage: str | None, retry: str | None) -> tuple[str, ...]:
    if retry is None:
        return ()
    if from_stage != "download":
        raise ConfigError("--retry tries failed downloads again: give --from download with it")
    try:
        return checked(part.strip() for part in retry.split(","))
    except ValueError as error:
        raise ConfigError(f"--retry: {error}") from error


async def _mark_crashed(flow_run_id: str) -> None:
    """A killed process leaves its flow run `Running` for ever, and Prefect refuses to retry it: say what happened."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Crashed

    async with get_client() as client:
        try:
            flow_run = await client.read_flow_run(flow_run_id)  # pyright: ignore[reportArgumentType]
        except ObjectNotFound:  # the Prefect database was lost: the store alone is enough
            return
        if flow_run.state is None or not flow_run.state.is_final():
            crashed = Crashed(message="its process is gone; continued by pairmill rerun")
            await client.set_flow_run_state(flow_run.id, crashed, force=True)


class _Untraced(logging.Filter):
    """Takes the traceback off deliberate errors, and where Prefect is gone: the message says it all. Others keep theirs."""

    def filter(self, record: logging.LogRecord) -> bool:
        from flows.prefect_errors import named

        if record.exc_info and (error := record.exc_info[1]) and isinstance(named(error), PairmillError):
            record.exc_info = None
        return True


def quiet_expected_errors() -> None:
    """Keep deliberate errors to one line on the console."""
    for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.flow_engine", "prefect.task_engine"):
        logger_ = logging.getLogger(name)
        if not any(isinstance(f, _Untraced) for f in logger_.filters):
            logger_.addFilter(_Untraced())
