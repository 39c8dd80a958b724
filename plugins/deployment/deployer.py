"""Creates or updates the deployments of infra/prefect.yaml, their work pools and automations on a Prefect server.

Existing objects are found by name and updated, so it is safe to deploy again.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml
from cronsim import CronSim
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions
from prefect.client.schemas.schedules import CronSchedule
from prefect.events import DeploymentTriggerTypes
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.utilities.callables import parameter_schema
from prefect.workers.process import ProcessWorker
from pydantic import TypeAdapter, ValidationError

from dataops.errors import ConfigError
from dataops.home import CHECKOUT
from flows.config import RunConfig
from flows.opening import ui_url
from flows.pipeline import FLOWS
from plugins.deployment.automations import (
    RETRY,
    absence_automation,
    absence_name,
    late_automations,
    notification_automations,
    retry_automation,
    zombie_automation,
)
from plugins.deployment.request import DeployedObject, DeployRequest

PROJECT = CHECKOUT / "infra" / "prefect.yaml"
GRACE = timedelta(hours=3)
"""How long after its time a scheduled run may begin, before a notification says that there is none."""
PREFIX = "pairmill: "
"""Prefix of the names of our automations."""
SCHEDULED = {"register": "pipeline", "pack": "curate"}
STRATEGY = {"skip": ConcurrencyLimitStrategy.CANCEL_NEW, "queue": ConcurrencyLimitStrategy.ENQUEUE}
MESSAGE = re.compile(r"\{\{\s*(subject|body)\s*\}\}")
"""What a webhook's request needs, so that it contains the notification."""
TRIGGER: TypeAdapter[Any] = TypeAdapter(DeploymentTriggerTypes)


def fill_specifications(request: DeployRequest, config: RunConfig) -> list[dict[str, Any]]:
    """Return the deployments of infra/prefect.yaml with config, schedule, pools and working folder filled in."""
    project = yaml.safe_load(PROJECT.read_text(encoding="utf-8"))
    filled = []
    for raw in project["deployments"]:
        spec = {
            **raw,
            "flow": raw["entrypoint"].rpartition(".")[2],
            "pull": [_fill_folder(step) for step in project["pull"]],
        }
        pool = request.gpu_pool if raw["work_pool"]["name"].endswith("-gpu") else request.pool
        spec["work_pool"] = {**raw["work_pool"], "name": pool}
        if "config" in raw.get("parameters", {}):
            spec |= _config_values(spec, request, config)
        filled.append(spec)
    return filled


def _fill_folder(step: Mapping[str, Any]) -> dict[str, Any]:
    """Return a pull step with the current folder filled in, as `prefect deploy` does."""
    return {
        name: {key: str(value).replace("{{ $PWD }}", str(Path.cwd())) for key, value in values.items()}
        for name, values in step.items()
    }


def _config_values(spec: Mapping[str, Any], request: DeployRequest, config: RunConfig) -> dict[str, Any]:
    path = request.config.resolve()
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    facts = f"Config `{shown}`, store `{config.store.uri}`, model `{config.register_.model_name}`."
    schedules = []
    if request.cron and SCHEDULED[request.until] == spec["flow"]:
        schedules = [{"cron": request.cron, "timezone": request.timezone, "active": True}]
    return {
        "name": config.name,
        "parameters": {"config": str(shown), **({"grow": True} if schedules and not request.whole else {})},
        "description": f"{spec['description']}\n{facts}\n",
        "tags": [f"config:{config.name}"],
        "schedules": schedules,
        "concurrency_limit": {**spec["concurrency_limit"], "collision_strategy": STRATEGY[request.overlap].value},
    }


class Deployer:
    """A client of the Prefect server that creates, updates and deletes what a config needs."""

    def __init__(self, client: SyncPrefectClient):
        self._client = client
        self._ui = ui_url()

    def deploy(self, request: DeployRequest, config: RunConfig) -> list[DeployedObject]:
        """Create or update everything that the request needs.

        Raises: ConfigError if a block does not exist or a schedule is not valid, before anything is created.
        """
        specifications = [(spec, _schedules(spec)) for spec in fill_specifications(request, config)]
        blocks = [self._find_block(name) for name in request.notify]
        deployed, image_pools = [], set[str]()
        for name, limit in ((request.pool, None), (request.gpu_pool, request.gpus)):
            kind, pool = self._put_pool(name, limit)
            deployed.append(pool)
            image_pools |= set() if kind == "process" else {name}
        automations = [zombie_automation()]
        if request.retries:
            automations.append(retry_automation(request.retries))
        else:
            self._delete_automations(RETRY)
        for spec, schedules in specifications:
            if spec["work_pool"]["name"] in image_pools:  # they start in the image's checkout; this folder is not there
                spec["pull"] = []
            deployment, row = self._put_deployment(spec, schedules)
            deployed.append(row)
            if blocks and schedules:
                absence = absence_automation(blocks, deployment, row.name, longest_gap(str(request.cron)) + GRACE)
                automations.append(absence)
            for trigger in map(TRIGGER.validate_python, spec.get("triggers", [])):
                trigger.set_deployment_id(deployment)
                automations.append(trigger.as_automation())
        if blocks:
            automations += notification_automations(blocks, self._ui)
            automations += late_automations(blocks, self._ui, (request.pool, request.gpu_pool))
        return deployed + [self.put_automation(automation) for automation in automations]

    def remove(self, name: str) -> list[str]:
        """Delete a config's deployments, with those of the last config also the shared ones and the automations.

        The work pools stay: workers poll them, and would create them again.
        """
        deleted = [self._delete_deployment(flow, name) for flow in SCHEDULED.values()]
        for flow in SCHEDULED.values():
            deleted += self._delete_automations(absence_name(f"{flow}/{name}"))
        remaining = [d for d in self._client.read_deployments() if {f"config:{d.name}"} <= set(d.tags)]
        if not remaining:
            deleted += [self._delete_deployment("train", "gpu"), self._delete_deployment("evaluate", "evaluate")]
            deleted += self._delete_automations(PREFIX)
        return [name for name in deleted if name]

    def _delete_automations(self, prefix: str) -> list[str]:
        found = [automation for automation in self._client.read_automations() if automation.name.startswith(prefix)]
        for automation in found:
            self._client.delete_automation(automation.id)
        return [automation.name for automation in found]

    def _delete_deployment(self, flow: str, name: str) -> str | None:
        try:
            deployment = self._client.read_deployment_by_name(f"{flow}/{name}")
        except ObjectNotFound:
            return None
        self._client.delete_deployment(deployment.id)
        return f"{flow}/{name}"

    def _find_block(self, name: str) -> UUID:
        kind, _, block = name.partition("/")
        try:
            document = self._client.read_block_document_by_name(block, kind, include_secrets=False)
        except ObjectNotFound:
            raise ConfigError(
                f"--notify {name!r}: there is no such block; create it at {self._ui}/blocks/catalog/{kind}/create"
            ) from None
        if document.block_schema is None or "notify" not in document.block_schema.capabilities:
            raise ConfigError(
                f"--notify {name!r}: blocks of this type do not send notifications; use for example slack-webhook/NAME"
            )
        if kind == "custom-webhook" and not MESSAGE.search(str(document.data)):
            raise ConfigError(
                f"--notify {name!r}: the block would send no message, since its JSON data has neither {{{{subject}}}} nor "
                "{{body}}; save it again as docs/operate/schedule.md shows (the form in the UI has no field for JSON data)"
            )
        return document.id

    def _put_pool(self, name: str, limit: int | None) -> tuple[str, DeployedObject]:
        """Create a work pool, or set only the limit of an existing one; return its type and the pool."""
        try:
            kind = self._client.read_work_pool(name).type
            if limit is not None:
                self._client.update_work_pool(name, WorkPoolUpdate(concurrency_limit=limit))
        except ObjectNotFound:
            kind = "process"
            pool = WorkPoolCreate(
                name=name,
                type=kind,
                description="Training: one flow run per GPU." if limit else "All flows except training.",
                base_job_template=ProcessWorker.get_default_base_job_template(),
                concurrency_limit=limit,
            )
            self._client.create_work_pool(pool)
        what = kind if limit is None else f"{kind}, {limit} at a time"
        return kind, DeployedObject("pool", name, what, f"{self._ui}/work-pools/work-pool/{name}")

    def _put_deployment(
        self, spec: Mapping[str, Any], schedules: list[DeploymentScheduleCreate]
    ) -> tuple[UUID, DeployedObject]:
        flow = next(flow for flow in FLOWS if flow.name == spec["flow"])
        limit = spec.get("concurrency_limit", {})
        options = ConcurrencyOptions(collision_strategy=limit["collision_strategy"]) if limit else None
        deployment = self._client.create_deployment(
            flow_id=self._client.create_flow_from_name(flow.name),
            name=spec["name"],
            version=flow.version,
            entrypoint=spec["entrypoint"],
            description=spec["description"],
            tags=spec["tags"],
            parameters=spec.get("parameters"),
            parameter_openapi_schema=parameter_schema(flow).model_dump(exclude_unset=True),
            enforce_parameter_schema=spec["enforce_parameter_schema"],
            concurrency_limit=limit.get("limit"),
            concurrency_options=options,
            schedules=schedules,
            work_pool_name=spec["work_pool"]["name"],
            job_variables=spec["work_pool"]["job_variables"],
            pull_steps=spec["pull"],
        )
        crons = [f"{s['cron']} ({s['timezone']})" for s in spec.get("schedules", [])]
        what = "; ".join(crons) or ("by trigger" if spec.get("triggers") else "by hand")
        url = f"{self._ui}/deployments/deployment/{deployment}"
        return deployment, DeployedObject("deployment", f"{flow.name}/{spec['name']}", what, url)

    def put_automation(self, automation: AutomationCore) -> DeployedObject:
        """Create an automation, or update the one of its name; one that someone paused stays paused."""
        name = automation.name
        known = [one for one in self._client.read_automations_by_name(name) if one.name == name]
        if known:
            identity = known[0].id
            update = automation.model_copy(update={"enabled": known[0].enabled})
            self._client.update_automation(identity, AutomationCore(**update.model_dump(exclude={"owner_resource"})))
        else:
            identity = self._client.create_automation(automation)
        state = "on" if not known or known[0].enabled else "paused"
        return DeployedObject(
            "automation", name.removeprefix(PREFIX), state, f"{self._ui}/automations/automation/{identity}"
        )


def longest_gap(cron: str) -> timedelta:
    """Return the longest time between two of the next 400 firings of a cron line."""
    times = list(islice(CronSim(cron, datetime.now(UTC)), 400))
    return max((later - earlier for earlier, later in pairwise(times)), default=timedelta(days=1))


def _schedules(spec: Mapping[str, Any]) -> list[DeploymentScheduleCreate]:
    try:
        return [
            DeploymentScheduleCreate(schedule=CronSchedule(cron=s["cron"], timezone=s["timezone"]), active=s["active"])
            for s in spec.get("schedules", [])
        ]
    except ValidationError as error:
        raise ConfigError("; ".join(f"--{e['loc'][-1]} {e['input']!r}: {e['msg']}" for e in error.errors())) from error
