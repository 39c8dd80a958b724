"""Makes the deployments of infra/prefect.yaml, their work pools and automations stand on a Prefect server.

Everything is found again by its name and updated, so it may be called as often as one likes.
"""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions
from prefect.client.schemas.schedules import CronSchedule
from prefect.events import DeploymentTriggerTypes
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_UI_URL
from prefect.utilities.callables import parameter_schema
from prefect.workers.process import ProcessWorker
from pydantic import TypeAdapter, ValidationError

from dataops.errors import ConfigError
from dataops.home import CHECKOUT
from flows.config import RunConfig
from flows.deployment.automations import notifications, zombie
from flows.deployment.order import DeployRequest, Row
from flows.pipeline import FLOWS

PROJECT = CHECKOUT / "infra" / "prefect.yaml"
PREFIX = "pairmill: "
"""How the names of our automations begin."""
SCHEDULED = {"register": "pipeline", "pack": "curate"}
STRATEGY = {"skip": ConcurrencyLimitStrategy.CANCEL_NEW, "queue": ConcurrencyLimitStrategy.ENQUEUE}
TRIGGER: TypeAdapter[Any] = TypeAdapter(DeploymentTriggerTypes)


def specifications(order: DeployRequest, config: RunConfig) -> list[dict[str, Any]]:
    """The deployments of infra/prefect.yaml, filled in: config, schedule, pools, and the folder in which runs start."""
    project = yaml.safe_load(PROJECT.read_text(encoding="utf-8"))
    found = []
    for raw in project["deployments"]:
        spec = {**raw, "flow": raw["entrypoint"].rpartition(".")[2], "pull": [_here(step) for step in project["pull"]]}
        pool = order.gpu_pool if raw["work_pool"]["name"].endswith("-gpu") else order.pool
        spec["work_pool"] = {**raw["work_pool"], "name": pool}
        if "config" in raw.get("parameters", {}):
            spec |= _of_config(spec, order, config)
        found.append(spec)
    return found


def _here(step: Mapping[str, Any]) -> dict[str, Any]:
    """A pull step with this folder in it, as `prefect deploy` would."""
    return {
        name: {k: str(v).replace("{{ $PWD }}", str(Path.cwd())) for k, v in given.items()}
        for name, given in step.items()
    }


def _of_config(spec: Mapping[str, Any], order: DeployRequest, config: RunConfig) -> dict[str, Any]:
    path = order.config.resolve()
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    facts = f"Config `{shown}`, store `{config.store.uri}`, model `{config.register_.model_name}`."
    schedules = []
    if order.cron and SCHEDULED[order.until] == spec["flow"]:
        schedules = [{"cron": order.cron, "timezone": order.timezone, "active": True}]
    return {
        "name": config.name,
        "parameters": {"config": str(shown)},
        "description": f"{spec['description']}\n{facts}\n",
        "tags": [f"config:{config.name}"],
        "schedules": schedules,
        "concurrency_limit": {**spec["concurrency_limit"], "collision_strategy": STRATEGY[order.overlap].value},
    }


class Deployer:
    """Talks to the Prefect server."""

    def __init__(self) -> None:
        self._client = get_client(sync_client=True)
        self._ui = str(PREFECT_UI_URL.value() or "").rstrip("/")

    def __enter__(self) -> Self:
        self._client.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.__exit__(kind, error, trace)

    def make(self, order: DeployRequest, config: RunConfig) -> list[Row]:
        """Create or update all that the order asks for.

        Raises: ConfigError when a block is not there or the schedule is refused, before anything is made.
        """
        wanted = [(spec, _schedules(spec)) for spec in specifications(order, config)]
        blocks = [self._block(name) for name in order.notify]
        rows, in_images = [], set[str]()
        for name, limit in ((order.pool, None), (order.gpu_pool, order.gpus)):
            kind, row = self._pool(name, limit)
            rows.append(row)
            in_images |= set() if kind == "process" else {name}
        automations = [zombie()]
        for spec, schedules in wanted:
            if spec["work_pool"]["name"] in in_images:  # whose working folder is the checkout; this one is not there
                spec["pull"] = []
            deployment, row = self._deployment(spec, schedules)
            rows.append(row)
            for trigger in map(TRIGGER.validate_python, spec.get("triggers", [])):
                trigger.set_deployment_id(deployment)
                automations.append(trigger.as_automation())
        if blocks:
            automations += notifications(blocks, self._ui)
        return rows + [self.stand(automation) for automation in automations]

    def remove(self, name: str) -> list[str]:
        """Delete a config's deployments; with the last config's also the shared ones and the automations.

        The work pools stay: workers poll them, and would make them again.
        """
        gone = [self._delete_deployment(flow, name) for flow in SCHEDULED.values()]
        left = [d for d in self._client.read_deployments() if {f"config:{d.name}"} <= set(d.tags)]
        if not left:
            gone += [self._delete_deployment("train", "gpu"), self._delete_deployment("evaluate", "evaluate")]
            for automation in self._client.read_automations():
                if automation.name.startswith(PREFIX):
                    self._client.delete_automation(automation.id)
                    gone.append(automation.name)
        return [name for name in gone if name]

    def _delete_deployment(self, flow: str, name: str) -> str | None:
        try:
            deployment = self._client.read_deployment_by_name(f"{flow}/{name}")
        except ObjectNotFound:
            return None
        self._client.delete_deployment(deployment.id)
        return f"{flow}/{name}"

    def _block(self, name: str) -> UUID:
        kind, _, block = name.partition("/")
        try:
            document = self._client.read_block_document_by_name(block, kind, include_secrets=False)
        except ObjectNotFound:
            raise ConfigError(
                f"--notify {name!r}: no such block; make one at {self._ui}/blocks/catalog/{kind}/create"
            ) from None
        if document.block_schema is None or "notify" not in document.block_schema.capabilities:
            raise ConfigError(
                f"--notify {name!r}: a block of this type sends no notifications; slack-webhook/NAME does"
            )
        return document.id

    def _pool(self, name: str, limit: int | None) -> tuple[str, Row]:
        """A pool that is there keeps its type and template; only the number of GPUs is set. Returns its type too."""
        try:
            kind = self._client.read_work_pool(name).type
            if limit is not None:
                self._client.update_work_pool(name, WorkPoolUpdate(concurrency_limit=limit))
        except ObjectNotFound:
            kind = "process"
            pool = WorkPoolCreate(
                name=name,
                type=kind,
                description="Training: one flow run a GPU." if limit else "All flows but training.",
                base_job_template=ProcessWorker.get_default_base_job_template(),
                concurrency_limit=limit,
            )
            self._client.create_work_pool(pool)
        what = kind if limit is None else f"{kind}, {limit} at a time"
        return kind, Row("pool", name, what, f"{self._ui}/work-pools/work-pool/{name}")

    def _deployment(self, spec: Mapping[str, Any], schedules: list[DeploymentScheduleCreate]) -> tuple[UUID, Row]:
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
        return deployment, Row("deployment", f"{flow.name}/{spec['name']}", what, url)

    def stand(self, wanted: AutomationCore) -> Row:
        """Create an automation; one of its name is updated, and stays paused where someone paused it."""
        known = [a for a in self._client.read_automations_by_name(wanted.name) if a.name == wanted.name]
        if known:
            identity = known[0].id
            update = wanted.model_copy(update={"enabled": known[0].enabled})
            self._client.update_automation(identity, AutomationCore(**update.model_dump(exclude={"owner_resource"})))
        else:
            identity = self._client.create_automation(wanted)
        state = "on" if not known or known[0].enabled else "paused"
        return Row(
            "automation", wanted.name.removeprefix(PREFIX), state, f"{self._ui}/automations/automation/{identity}"
        )


def _schedules(spec: Mapping[str, Any]) -> list[DeploymentScheduleCreate]:
    try:
        return [
            DeploymentScheduleCreate(schedule=CronSchedule(cron=s["cron"], timezone=s["timezone"]), active=s["active"])
            for s in spec.get("schedules", [])
        ]
    except ValidationError as error:
        raise ConfigError("; ".join(f"--{e['loc'][-1]} {e['input']!r}: {e['msg']}" for e in error.errors())) from error
