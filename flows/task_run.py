"""Run a stage as a Prefect task run, which retries it."""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import httpx
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL
from prefect.states import Completed

from dataops.errors import (
    DISK_FULL,
    CorruptPart,
    DatasetBlocked,
    PairmillError,
    SchemaError,
    ServiceError,
    StorageError,
)
from dataops.messages.waiting import waiting
from dataops.redaction import redact, scrub_errors
from dataops.snapshot import Manifest
from dataops.stages import SOURCE
from tasks.engine.stage import Plan

logger = logging.getLogger(__name__)

LABELLED_INPUTS = 3
"""Maximum number of inputs in the name of a task run."""


def run_task(
    name: str,
    label: str,
    reuse: Callable[[], Manifest | None],
    make: Callable[[], Manifest],
    upstream: Sequence[State],
    flow_run_id: str | None = None,
    retry_delays: Sequence[float] = (),
) -> tuple[State, Manifest]:
    """Run one stage as a Prefect task run.

    Args:
        name: the stage.
        label: name of the task run.
        reuse: returns the manifest of a complete snapshot, or None.
        make: makes the snapshot.
        upstream: completed states of the task runs whose snapshots this one reads.
        flow_run_id: this flow run; a snapshot that another one made counts as reused.
        retry_delays: seconds to wait before each retry after a retryable error.

    Returns: the final state, named "Reused" or "Completed", and the manifest.
    """
    found: list[Manifest] = []
    delays, retry_wait = iter(retry_delays), ExitStack()

    @scrub_errors()  # Prefect stores the errors that leave this function
    def body() -> State:
        retry_wait.close()
        try:
            return attempt()
        except PairmillError as error:
            if error.retryable and (delay := next(delays, None)) is not None:  # Prefect sleeps until the retry
                logger.warning("%s failed and is retried in %g s: %s", name, delay, error)
                reason = f"{name} failed ({str(error).partition(chr(10))[0]})"
                retry_wait.enter_context(waiting(reason, until=time.time() + delay))
            raise

    def attempt() -> State:
        if (manifest := reuse()) is not None:
            found.append(manifest)
            return Completed(name="Reused", message=f"{name}/{manifest.key} was complete")
        found.append(manifest := make())
        if manifest.prefect_flow_run_id != flow_run_id:  # another run made it while this one waited
            return Completed(name="Reused", message=f"another run made {name}/{manifest.key}")
        return Completed(message=f"made {name}/{manifest.key}")

    decorate: Any = task(
        name=name,
        task_run_name=label,
        retries=len(retry_delays),
        retry_delay_seconds=list(retry_delays) or None,
        retry_condition_fn=_is_retryable,
        cache_policy=NO_CACHE,
        persist_result=False,
    )
    with retry_wait:
        state: State = decorate(body)(return_state=True, wait_for=list(upstream))
    if not state.is_completed():
        state.result(raise_on_failure=True)
    return state, found[-1]


def label_task(planned: Plan) -> str:
    """Return the task run's name: the stage and its inputs."""
    sources = [redact(i.key) for i in planned.inputs if i.stage == SOURCE]
    inputs = [f"{i.stage}/{i.key}" for i in planned.inputs if not i.stage.startswith("source")]
    if len(sources) > 2:
        inputs.insert(0, f"{len(sources):,} source files, {sources[0]} to {sources[-1]}")
    else:
        inputs[:0] = sources
    more = [f"{len(inputs) - LABELLED_INPUTS} more"] if len(inputs) > LABELLED_INPUTS else []
    return f"{planned.stage.name} of {' + '.join([*inputs[:LABELLED_INPUTS], *more])}"


def _is_retryable(_task: object, _run: object, state: State) -> bool:
    # the result of a failed state is its error
    return getattr(state.result(raise_on_failure=False), "retryable", False)


_NEW_RUN = {
    **dict.fromkeys((2, 3), "Correct what the message names and start a new run."),
    4: "Change [train] and start a new run.",
    5: "The version is registered as candidate. Start a new run with another recipe, or lower the floor.",
}
"""What to do by exit code, for errors that a rerun with the same config would raise again."""


def describe_failure(error: BaseException, stage: str, run_id: str) -> str:
    """Return the message of a flow run's state: the stage, the kind of error, what to do, and the error itself."""
    failed = "the dataset is blocked" if isinstance(error, DatasetBlocked) else f"{stage} failed"
    return f"{failed}: {type(error).__name__}. {next_step(error, run_id)}\n{error}"


def next_step(error: BaseException, run_id: str) -> str:
    """Return one sentence; it names `pairmill rerun` only if that can help."""
    if isinstance(error, DatasetBlocked):
        return (
            f"Correct the source, or change [checks], and start a new run. `pairmill show {run_id}` prints the checks."
        )
    if isinstance(error, CorruptPart | SchemaError):
        return f"Rebuild the damaged stage: `pairmill rerun {run_id} --from STAGE`"
    return _NEW_RUN.get(getattr(error, "exit_code", 1), f"Continue this run: `pairmill rerun {run_id}`")


def translate_error(error: BaseException) -> BaseException:
    """Return an error with exit code 75 if the Prefect server or what it knows of this run is lost, or a disk is full.

    Only Prefect's client uses httpx in this process. It fails to reach the API also of a server that is no Prefect server.
    """
    if getattr(error, "errno", None) in DISK_FULL:
        return StorageError(f"{error}; free disk space, also of PAIRMILL_HOME, then rerun")
    if isinstance(error, ObjectNotFound):
        problem = "has no record of this run any more: its database was lost, or another server has its URL now"
    elif isinstance(error, httpx.TransportError) or str(error).startswith("Failed to reach API"):
        problem = f"does not answer ({type(error).__name__}: {error})"
    elif isinstance(error, httpx.HTTPStatusError) and error.response.status_code in (401, 403):
        problem = (
            f"refuses the login of this run (HTTP {error.response.status_code}): it was stopped during the run (`pairmill"
            " down`) and has a new login, or its login was changed"
        )
    else:
        return error
    return ServiceError(
        f"the Prefect server at {PREFECT_API_URL.value()} {problem}. Finished work is in the store: start the server again "
        "(`pairmill up`) or correct PREFECT_API_URL, then rerun"
    )
