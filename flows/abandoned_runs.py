"""Closes the flow runs and task runs of a process that was killed: Prefect would show them as running for ever."""

from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

MESSAGE = "its process has ended; a later attempt of the run continues its work"


def close_flow_run(client: SyncPrefectClient, flow_run_id: str) -> None:
    """Set a flow run and its task runs to Crashed, unless they have ended; Prefect refuses to retry a running one.

    A flow run that the server does not have is skipped: its database was lost, and the store alone is enough.
    """
    try:
        flow_run = client.read_flow_run(UUID(flow_run_id))
    except ObjectNotFound:
        return
    if flow_run.state is None or not flow_run.state.is_final():
        client.set_flow_run_state(flow_run.id, Crashed(message=MESSAGE), force=True)
    close_task_runs(client, flow_run_id)


def close_task_runs(client: SyncPrefectClient, flow_run_id: str) -> None:
    """Set the task runs of a flow run to Crashed that have not ended."""
    query = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(flow_run_id)]))
    for task_run in client.read_task_runs(flow_run_filter=query):
        if task_run.state is None or not task_run.state.is_final():
            client.set_task_run_state(task_run.id, Crashed(message=MESSAGE), force=True)
