"""A training as a flow run of its own on a work pool (`train.launch = "work_pool"`), found again by the snapshot's key.

A bare run_deployment starts a new child at each try of its parent, and would train twice. Here the child carries the key
as a tag: a try that comes while it lives waits for it, one that comes later finds its snapshot, and only where it failed
is another started, which goes on from its last checkpoint.
"""

import logging
import re
import time
from contextlib import suppress
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling

from dataops.errors import ConfigError, ContractError, JobFailed, PairmillError, ServiceError, TrainingDiverged
from dataops.snapshot import Manifest, find
from tasks.engine.context import Context
from tasks.engine.stage import Plan

logger = logging.getLogger(__name__)

DEPLOYMENT = "train/gpu"
POLL_SECONDS, PATIENCE_SECONDS = 2.0, 120.0
KINDS: dict[str, type[PairmillError]] = {
    "ConfigError": ConfigError,
    "ContractError": ContractError,
    "TrainingDiverged": TrainingDiverged,
}
"""Errors of a child that its parent raises as its own."""


def train_on_pool(planned: Plan, context: Context) -> Manifest:
    """Have the snapshot made on the work pool of `train/gpu`; cancelling the caller cancels the training.

    Raises: ConfigError where nothing is deployed, or the child says so; ServiceError where the server is silent for two
        minutes; JobFailed, retryable where the child crashed.
    """
    tag = f"train:{planned.key}"
    with get_client(sync_client=True) as client:
        child = _living(client, tag) or _start(client, tag, context)
        try:
            child = _ended(client, child.id)
        except BaseException as error:
            if not isinstance(error, Exception):  # a cancel or Ctrl-C: nobody waits for the training
                with suppress(Exception):
                    client.set_flow_run_state(child.id, Cancelling())
            raise
    state = child.state
    assert state is not None
    manifest = find(context.store, planned.stage.name, planned.key)
    if state.is_completed() and manifest is not None:
        return manifest
    message = f"flow run {child.name} of {DEPLOYMENT} ended as {state.name}: {state.message}"
    if (kind := re.search(r"failed: (\w+)\.", state.message or "")) and kind[1] in KINDS:
        raise KINDS[kind[1]](message)
    raise JobFailed(message, exit_code=75 if state.is_crashed() else 1)


def _living(client: SyncPrefectClient, tag: str) -> FlowRun | None:
    """The newest flow run of this key that has not ended."""
    query = FlowRunFilter(tags=FlowRunFilterTags(all_=[tag]))
    found = client.read_flow_runs(flow_run_filter=query, sort=FlowRunSort.EXPECTED_START_TIME_DESC)
    living = next((run for run in found if run.state is None or not run.state.is_final()), None)
    if living is not None:
        logger.info("flow run %s makes it: waiting for that one", living.id)
    return living


def _start(client: SyncPrefectClient, tag: str, context: Context) -> FlowRun:
    try:
        deployment = client.read_deployment_by_name(DEPLOYMENT)
    except ObjectNotFound as error:
        raise ConfigError(
            f'train.launch = "work_pool" needs the deployment {DEPLOYMENT}: `pairmill deploy CONFIG` makes it'
        ) from error
    return client.create_flow_run_from_deployment(
        deployment.id,
        parameters={"run_id": context.run_id, "store": context.store.uri},
        tags=[*deployment.tags, tag],
    )


def _ended(client: SyncPrefectClient, child: UUID) -> FlowRun:
    answered = time.monotonic()
    while True:
        try:
            found = client.read_flow_run(child)
        except httpx.HTTPError as error:
            if time.monotonic() - answered > PATIENCE_SECONDS:
                raise ServiceError(f"Prefect does not tell of flow run {child}, which may go on: {error}") from error
        else:
            answered = time.monotonic()
            if found.state is not None and found.state.is_final():
                return found
        time.sleep(POLL_SECONDS)
