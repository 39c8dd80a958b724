"""Open the run of a flow run: by its record, or a new one by its config."""

import logging
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import httpx
from prefect.client.orchestration import get_client
from prefect.runtime import deployment, flow_run
from prefect.settings import PREFECT_UI_URL

from dataops.config import SCHEDULED
from dataops.digest import text_sha256
from dataops.errors import ConfigError
from dataops.process import count_cores
from dataops.redaction import remove_credentials
from dataops.store import Store, open_store
from flows.abandoned_runs import close_killed_attempts, close_task_runs
from flows.allowed_stores import check_store
from flows.config import RunConfig, check_config, config_name, load_config, with_growth
from flows.interruption import rearm
from flows.listeners.base import LiveRun
from flows.records import (
    RUN_ID,
    Continuation,
    RunRecord,
    check_not_alive,
    create_run,
    find_run,
    load_run,
    new_run_id,
    remember_store,
)
from flows.run import Run
from infra.local.services import client_environment, home, make_home
from tasks.engine.context import Context, TaskLimits
from tasks.engine.process_guard import guard_process

TIMEOUT_SECONDS = 20


def flow_run_url(flow_run_id: str) -> str | None:
    """Return the URL of a flow run's page, or None if the UI's URL is not known."""
    base = ui_url()
    return f"{base}/runs/flow-run/{flow_run_id}" if base else None


def ui_url() -> str:
    """Return the URL under which the default UI has its pages, without a slash at its end; empty if it is not known."""
    return _find_default_ui(remove_credentials(PREFECT_UI_URL.value() or "").rstrip("/"))


@cache
def _find_default_ui(ui: str) -> str:
    """Return the URL of the default UI; that of the setting if the server names none, as older ones and Prefect Cloud."""
    if not ui:
        return ui
    try:
        settings = httpx.get(f"{ui}/ui-settings", timeout=TIMEOUT_SECONDS).raise_for_status().json()  # noqa: TID251  asks the Prefect server that the environment names
        first, default = settings["v1_base_url"], settings[f"{settings['default_ui']}_base_url"]
        return f"{ui}/{default.removeprefix(first or '').strip('/')}".rstrip("/")
    except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError):
        return ui


logger = logging.getLogger(__name__)


def open_new(
    path: str,
    until: str | None,
    *,
    verify: bool = False,
    grow: bool = False,
    setting: str | None = None,
    flow: str | None = None,
) -> Run:
    """Open the run of a scheduled flow run.

    The run's id is the flow run's name, so a retried flow run finds its record again. It keeps the config of the
    record, even if the file has changed since.

    Args:
        setting: a setting `a.b=value` of one of several runs of the flow run; its digest is then a part of the run's id.
        flow: name of the flow that begins the run; by default that of the flow run.
    """
    run_id, settings = str(flow_run.name), with_growth(Path(path)) if grow else []
    if setting is not None:
        settings.append(setting)
        run_id = f"{run_id[:-4]}{text_sha256(run_id + setting)[:4]}"
    if (found := find_run(run_id, home())) is None:
        scheduled = SCHEDULED.set(flow_run.scheduled_start_time)
        try:
            config = load_config(Path(path), settings, until).with_recorded_base()
        finally:
            SCHEDULED.reset(scheduled)
        check_store(config.store.uri, home())
        if (found := find_run(run_id, home(), config.store.uri)) is None:
            record = create_run(config, home(), run_id, flow=flow or str(flow_run.flow_name), until=until)
            store = open_store(config.store.uri)
            return _open(record, config, store, until, is_scheduled=True, verify=verify, flow=flow)
    record, store = found
    config = _recorded_config(record, store, until)
    return _open(record, config, store, until, is_scheduled=True, verify=verify, flow=flow)


def open_recorded(
    run_id: str, store_uri: str | None, until: str | None, *, sources: bool = True, verify: bool = False
) -> Run:
    """Open an existing run, on any machine that can read its store.

    Args:
        sources: whether the files that `extract` reads must be on this machine.
        verify: compare the sha256 of every part before a snapshot is reused.

    Raises: ConfigError if the store is unknown on this machine.
    """
    if store_uri is not None:
        check_store(store_uri, home())
    record, store = load_run(run_id, home(), store_uri)
    config = _recorded_config(record, store, until, sources=sources)
    return _open(record, config, store, until, is_scheduled=False, verify=verify)


def continue_run(
    run_id: str, from_stage: str | None, until: str | None, retry: Sequence[str], *, verify: bool = False
) -> tuple[Run, Continuation]:
    """Open an existing run to continue it, as `pairmill rerun` does, and return how.

    Raises: ConfigError if the options do not fit each other, or if a deployment starts it while its process still works.
    """
    record, store = load_run(run_id, home())
    if deployment.id is None:  # the command has checked the run, and closed what was killed
        how = Continuation(until, (), tuple(retry))
    else:
        how = Continuation.of(record, from_stage, until, retry)
        if str(flow_run.id) not in {attempt.flow_run_id for attempt in record.attempts}:
            check_not_alive(record, store)
            close_killed_attempts(record)
    return open_recorded(run_id, None, how.until, verify=verify), how


def _open(
    record: RunRecord,
    config: RunConfig,
    store: Store,
    until: str | None,
    *,
    is_scheduled: bool,
    verify: bool,
    flow: str | None = None,
) -> Run:
    flow_run_id = str(flow_run.id)
    context = Context(
        store=store,
        home=home(),
        verify=verify,
        run_id=record.run_id,
        run_name=record.name,
        flow_run_id=flow_run_id,
        flow_run_url=flow_run_url(flow_run_id),
        run_config=record.config,
        workers=config.execution.workers or count_cores(),
        executor=config.execution.executor(),
        task_limits=TaskLimits(timeout=config.execution.task_timeout),
    )
    if url := context.flow_run_url:
        logger.info("watch this run at %s", url)
    remember_store(record.run_id, store, home())
    is_retried = any(attempt.flow_run_id == flow_run_id for attempt in record.attempts)
    record.begin(flow or str(flow_run.flow_name), until, flow_run_id)
    record.save(store)
    with get_client(sync_client=True) as client:  # only flow runs of a deployment get its tags from Prefect
        client.update_flow_run(flow_run.id, tags={*flow_run.tags, f"config:{record.name}"})
        if is_retried:
            close_task_runs(client, flow_run_id)
    return Run(LiveRun(record, config, context, until, is_scheduled))


def _recorded_config(record: RunRecord, store: Store, until: str | None, *, sources: bool = True) -> RunConfig:
    """Validate a record's config again, with the URI of the store in which the record was found."""
    values = {**record.config, "store": {"uri": store.uri}}
    return check_config(values, f"run {record.run_id}", sources=sources, until=until)


def name_flow_run() -> str:
    """Return the id of the run that this flow run works on, as the flow run's name.

    So its name in the UI is what `pairmill show` and `pairmill rerun` take. A scheduled flow run creates a run whose id is
    made of the config's name and the scheduled time. A retried flow run keeps its name, and so its run.
    """
    parameters = flow_run.parameters
    if parameters.get("run_id"):
        return str(parameters["run_id"])
    if RUN_ID.fullmatch(str(flow_run.name)):
        return str(flow_run.name)
    path = Path(str(parameters.get("config")))
    try:
        name = config_name(path)
    except ConfigError:
        name = path.stem  # the flow itself reports what is wrong with the file
    return new_run_id(name, flow_run.scheduled_start_time)


def prepare_process() -> None:
    """Set this process up to run a flow: a worker's environment may lack the URL of the local MLflow server."""
    for name, value in client_environment().items():
        os.environ.setdefault(name, value)
    guard_process()
    rearm()
    make_home()
