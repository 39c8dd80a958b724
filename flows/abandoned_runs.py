"""Closes the runs of a process that was killed: Prefect and MLflow would show them as running for ever."""

import logging
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

from flows.records import RunRecord, load_run
from tasks.tracking import parent_run

logger = logging.getLogger(__name__)

MESSAGE = "its process has ended; a later attempt of the run continues its work"


def close_killed_runs(records: Sequence[RunRecord], home: Path) -> None:
    """Close what Prefect and MLflow show as running of the runs whose processes on this machine were killed.

    Their records then have the state `crashed`. If a server does not answer, the next call closes them.
    """
    for killed in records:
        if killed.state != "running" or killed.actual_state() != "crashed":
            continue
        try:
            record, store = load_run(killed.run_id, home)
            if record.actual_state() == record.state:  # another process has closed or continued it
                continue
            parent_run.end_killed(record.name, record.run_id)
            with get_client(sync_client=True) as client:
                for attempt in record.own_attempts:
                    if attempt.flow_run_id and attempt.ended_at is None:
                        close_flow_run(client, attempt.flow_run_id)
        except Exception as error:  # what servers show must not fail the list of runs
            logger.info("the runs of %s are not closed: %s: %s", killed.run_id, type(error).__name__, error)
            continue
        record.state = "crashed"
        record.save(store)


def close_killed_attempts(record: RunRecord) -> None:
    """Close the flow runs and task runs of earlier attempts that their processes have not closed."""
    with get_client(sync_client=True) as client:
        for attempt in record.attempts:
            # A training on a work pool may still run after its parent has died.
            if attempt.flow_run_id and (attempt in record.own_attempts or attempt.has_died()):
                # One that ended itself was killed before Prefect knew, or waits for Prefect to retry it.
                close_flow_run(client, attempt.flow_run_id, only_running=attempt.ended_at is not None)


def close_flow_run(client: SyncPrefectClient, flow_run_id: str, *, only_running: bool = False) -> None:
    """Set a flow run and its task runs to Crashed, unless they have ended; Prefect refuses to retry a running one.

    A flow run that the server does not have is skipped: its database was lost, and the store alone is enough.
    """
    try:
        flow_run = client.read_flow_run(UUID(flow_run_id))
    except ObjectNotFound:
        return
    state = flow_run.state
    if state is None or state.is_running() or not (only_running or state.is_final()):
        client.set_flow_run_state(flow_run.id, Crashed(message=MESSAGE), force=True)
    close_task_runs(client, flow_run_id)


def close_task_runs(client: SyncPrefectClient, flow_run_id: str) -> None:
    """Set the task runs of a flow run to Crashed that have not ended."""
    query = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(flow_run_id)]))
    for task_run in client.read_task_runs(flow_run_filter=query):
        if task_run.state is None or not task_run.state.is_final():
            client.set_task_run_state(task_run.id, Crashed(message=MESSAGE), force=True)
