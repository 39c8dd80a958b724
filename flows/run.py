"""One flow run at work on a run record: opens the record, finds or makes each stage's snapshot, and closes it."""

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from dataops.errors import PairmillError
from dataops.redaction import scrubbed_errors
from dataops.snapshot import Manifest, find
from dataops.store import Store, open_store
from flows.config import RunConfig, check_config, load_config
from flows.display import RunDisplay
from flows.events import announce
from flows.records import (
    RunRecord,
    RunState,
    StageRun,
    StageState,
    find_run,
    load_run,
    new_run,
    remember,
)
from flows.train_on_pool import train_on_pool
from infra.local.services import home
from tasks.download.rounds import reopen
from tasks.engine.context import Context
from tasks.engine.stage import Plan, Stage, discard, make, plan, reuse
from tasks.tracking import parent_run
from tasks.tracking.parent_run import RunOutcome, Status
from tasks.train.ray_launcher import train_on_ray

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """One stage in its place."""

    stage: Stage
    table: str
    """The config's table for it."""
    reads: tuple[str, ...]
    """The stages whose snapshots it reads; the first one's rows are those that it keeps or drops."""


class Run:
    """The state of one flow run: its record, its context and the snapshots so far."""

    def __init__(self, record: RunRecord, config: RunConfig, store: Store, until: str | None):
        self.record, self.config, self.until = record, config, until
        self.manifests: dict[str, Manifest] = {}
        self.at = ""
        """The stage at which it stands."""
        flow_run_id = str(flow_run.id)
        self.sight = RunDisplay(record.run_id)
        self.context = Context(
            store=store,
            home=home(),
            progress=self.sight.progress,
            run_id=record.run_id,
            run_name=record.name,
            flow_run_id=flow_run_id,
            flow_run_url=self.sight.flow_run_url(flow_run_id),
            run_config=record.config,
            workers=config.execution.workers or os.cpu_count() or 1,
            ray=config.ray(),
        )
        remember(record.run_id, store, home())
        record.begin(str(flow_run.flow_name), until, flow_run_id)
        record.save(store)
        with get_client(sync_client=True) as client:  # a run by command or by trigger has no tags of a deployment
            client.update_flow_run(flow_run.id, tags={*flow_run.tags, f"config:{record.name}"})

    @classmethod
    def of_config(cls, path: str, until: str | None) -> "Run":
        """The run of a schedule. Its id is the flow run's name, so a flow run that is retried finds its record again.

        A retried run keeps the config of its record, whatever the file says by then.
        """
        run_id = str(flow_run.name)
        if (found := find_run(run_id, home())) is None:
            config = load_config(Path(path), until=until)
            if (found := find_run(run_id, home(), config.store.uri)) is None:
                return cls(new_run(config, home(), run_id), config, open_store(config.store.uri), until)
        record, store = found
        return cls(record, _config_of(record, store, until), store, until)

    @classmethod
    def of_record(cls, run_id: str, store_uri: str | None, until: str | None, *, sources: bool = True) -> "Run":
        """An existing run, on any machine that sees its store.

        Args:
            sources: whether the files that extract reads must be here.
        """
        record, store = load_run(run_id, home(), store_uri)
        return cls(record, _config_of(record, store, until, sources=sources), store, until)

    def take(self, step: Step) -> None:
        """Take a stage as the record has it: made earlier, perhaps on another machine that alone has the source files."""
        name, store = step.stage.name, self.context.store
        key = self.record.key_of(name)
        manifest = find(store, name, key) if key else None
        if manifest is None:
            self.make(step)
            return
        run_task(name, f"{name}/{manifest.key}", lambda: manifest, lambda: manifest)
        self.manifests[name] = manifest

    def make(self, step: Step, *, force: bool = False, retry: Sequence[str] = (), verify: bool = False) -> None:
        """Find or make one stage's snapshot, as a Prefect task run.

        Args:
            retry: of download, the classes of failure whose rows are fetched again.
        """
        self.at = step.stage.name
        upstream = [self.manifests[name] for name in step.reads]
        planned = plan(step.stage, getattr(self.config, step.table), self.config.seed, upstream, self.context.store)
        if force:
            discard(planned, self.context)
        if retry:
            reopen(planned, self.context, retry)
        noted = StageRun(stage=self.at, key=planned.key, state="Running")
        self._note(noted)
        started = time.monotonic()
        try:
            with self.sight.watch(self.at):
                noted.state, manifest = run_task(
                    self.at,
                    _label(planned),
                    lambda: reuse(planned, self.context, verify=verify),
                    lambda: self._made(planned),
                    self.context.flow_run_id,
                    self.config.execution.retry_delays,
                )
        except BaseException:
            noted.state, noted.seconds = "Failed", time.monotonic() - started
            self._note(noted)
            raise
        noted.seconds, noted.counts = round(time.monotonic() - started, 3), manifest.counts
        self.manifests[self.at] = manifest
        self._note(noted)
        self.sight.stage_ended(manifest, noted.state, noted.seconds)

    def _made(self, planned: Plan) -> Manifest:
        """Made here; or a training elsewhere, where the config asks for that and this is not its flow run."""
        launch = self.config.train.launch if self.at == "train" else "local"
        if launch == "work_pool" and flow_run.flow_name != "train":
            return train_on_pool(planned, self.context)
        if launch == "ray":
            return train_on_ray(planned, self.context, self.config.execution.cluster())
        return make(planned, self.context)

    def _note(self, noted: StageRun) -> None:
        self.record.note(noted)
        self.record.save(self.context.store)

    def end(self, state: RunState, error: str | None = None) -> None:
        """Close the record, then tell what came out: who hears it must find the record closed."""
        if (register := self.manifests.get("register")) is not None:
            self.record.model_version = register.facts["model_uri"]
            self.record.model_links = register.facts.get("links", {})
        self.record.end(state, error)
        self.record.save(self.context.store)
        self.sight.run_ended(list(self.manifests.values()))
        if register is None or len(self.record.attempts) > 1:  # else the registration has told it all
            self._tell_mlflow(state, error)
        if announce(self.record, self.manifests, self.context.store, self.until):
            self.record.save(self.context.store)

    def _tell_mlflow(self, state: RunState, error: str | None) -> None:
        """Write the end into the run's MLflow run, and that run's address into the record."""
        status: Status = "FINISHED" if state == "completed" else "FAILED" if state == "failed" else "KILLED"
        began = datetime.fromisoformat(self.record.attempts[-1].started_at)
        reached = [one.model_dump() for one in self.record.stages if one.stage in {*self.manifests, self.at}]
        end = RunOutcome(status, error or f"up to {self.until or self.at}", reached, int(began.timestamp() * 1000))
        page = parent_run.record_outcome(self.context, self.manifests, end)
        if page and not self.record.model_links:
            self.record.model_links = {"run": page}
            self.record.save(self.context.store)

    def failure(self, error: BaseException) -> str:
        """What the flow run's state says: the stage, the kind of error and what to do; then the error itself."""
        code = error.exit_code if isinstance(error, PairmillError) else 1
        again = f"Retry this flow run, or: pairmill rerun {self.record.run_id}"
        remedy = {
            2: "Correct the config and begin a new run.",
            3: f"Remake what is broken: pairmill rerun {self.record.run_id} --from STAGE",
            4: "Change [train] and begin a new run.",
            5: "The version is kept as candidate. Begin a new run with another recipe, or lower the floor.",
        }
        return f"{self.at} failed: {type(error).__name__}. {remedy.get(code, again)}\n{error}"

    def summary(self) -> dict[str, Any]:
        """`run_id`, `stages` (stage, key, state, seconds, counts) and `model_version`."""
        return self.record.model_dump(mode="json", include={"run_id", "stages", "model_version"})


def _config_of(record: RunRecord, store: Store, until: str | None, *, sources: bool = True) -> RunConfig:
    """A record's config, checked again. All but the store: it works where it lies, not where it says that it lay."""
    values = {**record.config, "store": {"uri": store.uri}}
    return check_config(values, f"run {record.run_id}", sources=sources, until=until)


def run_task(
    name: str,
    label: str,
    reuse: Callable[[], Manifest | None],
    make: Callable[[], Manifest],
    flow_run_id: str | None = None,
    retry_delays: Sequence[float] = (),
) -> tuple[StageState, Manifest]:
    """Run one stage as a task run named after what it works on; ("Reused" | "Completed", its manifest)."""
    found: list[Manifest] = []

    @scrubbed_errors()  # Prefect writes down what leaves here
    def body() -> State:
        if (manifest := reuse()) is not None:
            found.append(manifest)
            return Completed(name="Reused", message=f"{name}/{manifest.key} was complete")
        found.append(manifest := make())
        if manifest.prefect_flow_run_id != flow_run_id:  # it was made while this run waited for it
            return Completed(name="Reused", message=f"another run made {name}/{manifest.key}")
        return Completed(message=f"made {name}/{manifest.key}")

    decorate: Any = task(
        name=name,
        task_run_name=label,
        retries=len(retry_delays),
        retry_delay_seconds=list(retry_delays) or None,
        retry_condition_fn=_retryable,
        cache_policy=NO_CACHE,
        persist_result=False,
    )
    state: State = decorate(body)(return_state=True)
    if not state.is_completed():
        state.result(raise_on_failure=True)
    return ("Reused" if state.name == "Reused" else "Completed"), found[-1]


def _label(planned: Plan) -> str:
    """What the stage works on, in few words."""
    reads = [f"{i.stage}/{i.key}" for i in planned.inputs if i.stage != "source"]
    sources = len(planned.inputs) - len(reads)
    what = f"{sources} source file{'s' if sources != 1 else ''}" if sources else " + ".join(reads[:2])
    return f"{planned.stage.name} of {what}"


def _retryable(_task: Any, _run: Any, state: State) -> bool:
    try:
        state.result(raise_on_failure=True)
    except PairmillError as error:
        return error.retryable
    except Exception:
        return False
    return False
