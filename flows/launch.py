"""Make a snapshot where the config says: in this process, on a cluster, or in a flow run on a work pool.

A flow run on a work pool (`train.launch = "work_pool"`) is found by the snapshot's key.

Prefect's run_deployment starts a new child at each attempt of its parent, and would train twice. Here the child has the key
as a tag: an attempt that finds a running child waits for it, and one that finds the snapshot uses it. Only a failed child
is replaced by another, which resumes from the last checkpoint.
"""

import logging
import re
import time
from contextlib import suppress
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Cancelling

from dataops.errors import ConfigError, ContractError, JobFailed, PairmillError, ServiceError, TrainingDiverged
from dataops.messages.waiting import pause
from dataops.plugins import find
from dataops.snapshot import Manifest, find_manifest
from flows.config import RunConfig
from tasks.engine.context import Context
from tasks.engine.stage import Plan, make
from training.config import TrainConfig

logger = logging.getLogger(__name__)

DEPLOYMENT = "train/gpu"
CHILD_ERRORS: dict[str, type[PairmillError]] = {
    "ConfigError": ConfigError,
    "ContractError": ContractError,
    "TrainingDiverged": TrainingDiverged,
}
"""Errors of a child that its parent raises too."""


def make_snapshot(planned: Plan[Any], context: Context, config: RunConfig) -> Manifest:
    """Make the snapshot of a stage, and train where `train.launch` names. Raises: the errors of the stage."""
    launch = config.train.launch if planned.stage.name == "train" else "local"
    if trains_elsewhere(planned, config):
        return train_on_pool(planned, context)
    if launch in ("local", "work_pool"):
        return make(planned, context)
    return find("executors", launch).train(config.execution.executor(launch), planned, context)


def trains_elsewhere(planned: Plan[Any], config: RunConfig) -> bool:
    """Return whether another flow run trains on the work pool, not this one."""
    is_pool = planned.stage.name == "train" and config.train.launch == "work_pool"
    return is_pool and flow_run.flow_name != "train"


def train_on_pool(
    planned: Plan[TrainConfig], context: Context, *, poll: float = 2.0, patience: float = 120.0
) -> Manifest:
    """Make the snapshot on the work pool of `train/gpu`; cancelling the caller cancels the training.

    Args:
        poll: seconds between two questions for the state of the training.
        patience: seconds in which the server must answer.

    Raises: ConfigError if the deployment does not exist or its jobs get too few GPUs; ServiceError if the server does
        not answer; the error of a failed child if it is one of CHILD_ERRORS; else JobFailed, retryable
        if the child crashed.
    """
    tag = f"train:{planned.key}"
    with get_client(sync_client=True) as client:
        child = _find_running(client, tag) or _start(client, tag, planned, context)
        try:
            child = _wait_until_ended(client, child.id, poll, patience)
        except Exception:
            raise
        except BaseException:  # cancelled, or Ctrl-C
            with suppress(Exception):
                client.set_flow_run_state(child.id, Cancelling())
            raise
    state = child.state
    assert state is not None
    manifest = find_manifest(context.store, planned.stage.name, planned.key)
    if state.is_completed() and manifest is not None:
        return manifest
    message = f"flow run {child.name} of {DEPLOYMENT} ended as {state.name}: {state.message}"
    if (kind := re.search(r"failed: (\w+)\.", state.message or "")) and kind[1] in CHILD_ERRORS:
        raise CHILD_ERRORS[kind[1]](message)
    raise JobFailed(message, exit_code=75 if state.is_crashed() else 1)


def _find_running(client: SyncPrefectClient, tag: str) -> FlowRun | None:
    """Return the newest flow run with this tag that has not ended, or None."""
    query = FlowRunFilter(tags=FlowRunFilterTags(all_=[tag]))
    found = client.read_flow_runs(flow_run_filter=query, sort=FlowRunSort.EXPECTED_START_TIME_DESC)
    running = next((run for run in found if run.state is None or not run.state.is_final()), None)
    if running:
        logger.info("flow run %s already trains on this dataset: waiting for it", running.id)
    return running


def _start(client: SyncPrefectClient, tag: str, planned: Plan[TrainConfig], context: Context) -> FlowRun:
    try:
        deployment = client.read_deployment_by_name(DEPLOYMENT)
    except ObjectNotFound as error:
        raise ConfigError(
            f'train.launch = "work_pool" needs the deployment {DEPLOYMENT}; create it with `pairmill deploy CONFIG`'
        ) from error
    _check_gpus(client, deployment, planned.config)
    return client.create_flow_run_from_deployment(
        deployment.id,
        parameters={"run_id": context.run_id, "store": context.store.uri},
        tags=[*deployment.tags, tag],
    )


def _check_gpus(client: SyncPrefectClient, deployment: DeploymentResponse, config: TrainConfig) -> None:
    """Compare the GPUs of a job of the pool with the ranks that it starts, if the pool's template has a variable `gpus`.

    Raises: ConfigError if there are fewer.
    """
    if config.device == "cpu" or deployment.work_pool_name is None:
        return
    template = client.read_work_pool(deployment.work_pool_name).base_job_template
    default = template.get("variables", {}).get("properties", {}).get("gpus", {}).get("default")
    gpus = (deployment.job_variables or {}).get("gpus", default)
    if isinstance(gpus, int) and gpus < config.nproc:
        raise ConfigError(
            f"train.nproc is {config.nproc}, and a job of the work pool {deployment.work_pool_name} gets {gpus} GPUs: set "
            f"train.nproc = {gpus}, or the job variable `gpus` of the pool or of {DEPLOYMENT} to {config.nproc}"
        )


def _wait_until_ended(client: SyncPrefectClient, child: UUID, poll: float, patience: float) -> FlowRun:
    last_answer = time.monotonic()
    state, since = "", time.time()
    while True:
        try:
            flow_run = client.read_flow_run(child)
        except httpx.HTTPError as error:
            if time.monotonic() - last_answer > patience:
                message = f"the Prefect server has not answered for {patience:.0f} s"
                raise ServiceError(f"{message}; flow run {child} may still run: {error}") from error
        else:
            last_answer = time.monotonic()
            if flow_run.state is not None and flow_run.state.is_final():
                return flow_run
            if (now := flow_run.state.name or "" if flow_run.state else "") != state:
                state, since = now, time.time()
        pause(poll, _describe(child, state), since=since)


def _describe(child: UUID, state: str) -> str:
    """Return what a wait for a flow run waits for."""
    if state in ("Running", "Cancelling", "Retrying"):
        return f"flow run {child} of {DEPLOYMENT} trains on the work pool ({state})"
    return (
        f"a worker of the pool must start flow run {child} of {DEPLOYMENT} ({state or 'no state'}; `pairmill status`)"
    )
