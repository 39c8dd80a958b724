"""One flow run: opens its run record, finds or makes the snapshot of each stage, and closes the record."""

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from dataops.errors import ConfigError, ContractError, DatasetBlocked
from dataops.plugins import find
from dataops.process import count_cores, cpu_seconds
from dataops.snapshot import Manifest, Record, find_manifest
from dataops.store import Store, open_store
from flows.abandoned_runs import close_task_runs
from flows.allowed_stores import check_store
from flows.artefacts import RunArtefacts
from flows.config import RunConfig, check_config, config_name, load_config
from flows.dataset_checks import check_run
from flows.display import RunDisplay
from flows.events import emit_events
from flows.interruption import describe_cause, rearm
from flows.next_step import next_step
from flows.prefect_ui import flow_run_url
from flows.records import (
    RUN_ID,
    RunRecord,
    RunState,
    StageRun,
    create_run,
    find_run,
    load_run,
    new_run_id,
    remember_store,
)
from flows.train_on_pool import train_on_pool
from flows.watch.assets import describe_asset
from flows.watch.lineage import RunLineage
from flows.watch.samples import NewestTasks
from flows.watch.task_run import label_task, run_task
from infra.local.services import client_environment, home, make_home
from tasks.download.rounds import reopen
from tasks.engine.context import Context
from tasks.engine.process_guard import guard_process
from tasks.engine.stage import Plan, Stage, discard, make, plan, reuse
from tasks.tracking import parent_run
from tasks.tracking.parent_run import RunOutcome, Status

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """A stage of the pipeline, with its config table and its inputs."""

    stage: Stage
    table: str
    """Name of the stage's table in the config."""
    reads: tuple[str, ...]
    """Stages whose snapshots this stage reads. It keeps or drops the rows of the first one."""


class Run:
    """The state of one flow run: its record, its context and the snapshots that it has so far."""

    def __init__(self, record: RunRecord, config: RunConfig, store: Store, until: str | None):
        self.record, self.config, self.until = record, config, until
        self.manifests: dict[str, Manifest] = {}
        self._states: dict[str, State] = {}  # final states of the task runs, by stage
        self._mlflow_run_is_open = False
        self._newest: NewestTasks | None = None
        self.stage = ""
        """Name of the stage that is being made, or was made last."""
        flow_run_id = str(flow_run.id)
        self.artefacts = RunArtefacts()
        self.display = RunDisplay(self.artefacts)
        self.context = Context(
            store=store,
            home=home(),
            progress=self.display.progress,
            finished=self._show_newest,
            stopped=self._record_stop,
            run_id=record.run_id,
            run_name=record.name,
            flow_run_id=flow_run_id,
            flow_run_url=flow_run_url(flow_run_id),
            run_config=record.config,
            workers=config.execution.workers or count_cores(),
            executor=config.execution.executor(),
        )
        if url := self.context.flow_run_url:
            logger.info("watch this run at %s", url)
        remember_store(record.run_id, store, home())
        is_retried = any(attempt.flow_run_id == flow_run_id for attempt in record.attempts)
        record.begin(str(flow_run.flow_name), until, flow_run_id)
        record.save(store)
        with get_client(sync_client=True) as client:  # only flow runs of a deployment get its tags from Prefect
            client.update_flow_run(flow_run.id, tags={*flow_run.tags, f"config:{record.name}"})
            if is_retried:
                close_task_runs(client, flow_run_id)
        self.artefacts.begin(record)
        self.lineage = RunLineage(record, self.context)

    @classmethod
    def from_config(cls, path: str, until: str | None) -> "Run":
        """Open the run of a scheduled flow run.

        The run's id is the flow run's name, so a retried flow run finds its record again. It keeps the config of the
        record, even if the file has changed since.
        """
        run_id = str(flow_run.name)
        if (found := find_run(run_id, home())) is None:
            config = load_config(Path(path), until=until)
            check_store(config.store.uri, home())
            if (found := find_run(run_id, home(), config.store.uri)) is None:
                return cls(create_run(config, home(), run_id), config, open_store(config.store.uri), until)
        record, store = found
        return cls(record, _recorded_config(record, store, until), store, until)

    @classmethod
    def from_record(cls, run_id: str, store_uri: str | None, until: str | None, *, sources: bool = True) -> "Run":
        """Open an existing run, on any machine that can read its store.

        Args:
            sources: whether the files that `extract` reads must be on this machine.

        Raises: ConfigError if the store is unknown on this machine.
        """
        if store_uri is not None:
            check_store(store_uri, home())
        record, store = load_run(run_id, home(), store_uri)
        return cls(record, _recorded_config(record, store, until, sources=sources), store, until)

    def reuse_recorded(self, step: Step) -> None:
        """Reuse the snapshot that the record names.

        The source files may be on another machine, so the key of the snapshot is read from the record, not computed.

        Raises: ContractError if the snapshot is missing. It is not made here, since a record's config can name any file of
            this machine as its source, and whoever may write to the store may have written the record.
        """
        self.stage = name = step.stage.name
        store = self.context.store
        key = self.record.key_of(name)
        manifest = find_manifest(store, name, key) if key else None
        if manifest is None:
            raise ContractError(f"{store.uri} has no complete snapshot {name}/{key or '(none in the record)'}")
        label, upstream = f"{name}/{manifest.key}", self._find_states(step)
        self._states[name], self.manifests[name] = run_task(name, label, lambda: manifest, lambda: manifest, upstream)

    def make(self, step: Step, *, force: bool = False, retry: Sequence[str] = (), verify: bool = False) -> None:
        """Find or make one stage's snapshot, as a Prefect task run.

        Args:
            force: make the snapshot again, even if it is complete.
            retry: for `download`, the classes of failure whose rows are fetched again.
            verify: compare the sha256 of every part before the snapshot is reused.
        """
        self.stage = step.stage.name
        upstream = [self.manifests[name] for name in step.reads]
        planned = plan(step.stage, self.config.stage_config(step.table), self.config.seed, upstream, self.context.store)
        if force:
            discard(planned, self.context)
        if retry:
            reopen(planned, self.context, retry)
        self._newest = NewestTasks(planned)
        stage_run = StageRun(stage=self.stage, key=planned.key, state="Running")
        self._save_stage(stage_run)
        started, cpu = time.monotonic(), cpu_seconds()
        try:
            with self.display.watch(self.stage):
                state, manifest = run_task(
                    self.stage,
                    label_task(planned),
                    lambda: reuse(planned, self.context, verify=verify),
                    lambda: self._make_snapshot(planned),
                    self._find_states(step),
                    self.context.flow_run_id,
                    self.config.execution.retry_delays,
                    describe_asset(planned, self.context),
                )
        except BaseException:
            stage_run.state, stage_run.seconds = "Failed", time.monotonic() - started
            self._save_stage(stage_run)
            raise
        is_local = self.context.executor.shares_disk and self.config.train.launch == "local"
        cpu_time = cpu_seconds() - cpu if is_local else None
        outcome = "Reused" if state.name == "Reused" else "Completed"
        stage_run.complete(outcome, time.monotonic() - started, cpu_time, manifest.counts)
        self.manifests[self.stage], self._states[self.stage] = manifest, state
        self._save_stage(stage_run)
        self.display.log_stage(manifest, stage_run.state, stage_run.seconds)
        if stage_run.state == "Completed":
            self.artefacts.show_samples(self.stage, self.manifests, self.context.store)
        if self.stage == "download":  # an alert must not wait for the training
            self._emit_events()

    def _show_newest(self, record: Record) -> None:
        """Show images of the newest finished tasks in Prefect from time to time, while the stage runs."""
        if self._newest is not None and (newest := self._newest.add(record)) is not None:
            manifests = {**self.manifests, self.stage: newest}
            self.artefacts.show_samples(self.stage, manifests, self.context.store, running=True)

    def check_dataset(self, *, recorded: bool = False) -> None:
        """Check the dataset by `[checks]`, and record, log and show the results.

        Args:
            recorded: use the report that the record has on this dataset, if it has one.

        Raises: DatasetBlocked if a check whose level is `block` failed.
        """
        report, pack = self.record.checks, self.manifests["pack"]
        if not recorded or report is None or report.dataset != pack.key:
            report = check_run(self.config.checks, self.record, self.manifests, self.context.store)
            self.record.checks = report
            self.record.save(self.context.store)
            if report.results:
                self.artefacts.create_checks(report)
        for result in report.failed:
            if not result.blocks:
                logger.warning("%s: %s", result.check, result.text)
        if report.results:
            logger.info("checks of pack/%s: %s", pack.key, report.verdict)
        if report.is_blocked:
            raise DatasetBlocked(report.describe_blocks())

    def _find_states(self, step: Step) -> list[State]:
        """Return the state from which Prefect draws an edge: that of the first input, which has read the others itself."""
        return [self._states[name] for name in step.reads[:1]]

    def _make_snapshot(self, planned: Plan) -> Manifest:
        """Make the snapshot in this process, or train where `train.launch` says."""
        launch = self.config.train.launch if self.stage == "train" else "local"
        self._open_mlflow_run()
        if launch == "work_pool" and flow_run.flow_name != "train":
            return train_on_pool(planned, self.context)  # whose flow run sends the events
        if launch != "local":
            executor = self.config.execution.executor(launch)
            train = find("executors", launch).train
            return self.lineage.follow(planned, lambda: train(executor, planned, self.context))
        return self.lineage.follow(planned, lambda: make(planned, self.context))

    def _open_mlflow_run(self) -> None:
        """Begin the MLflow run before the first stage that is made; a run that only reuses snapshots needs none."""
        if self._mlflow_run_is_open:
            return
        self._mlflow_run_is_open = True
        if page := parent_run.open_run(self.context, self._began_ms()):
            logger.info("its MLflow run: %s", page)
            self.record.model_links = {**self.record.model_links, "run": page}
            self.record.save(self.context.store)
            self.artefacts.update_card(self.record, self.manifests)

    def _began_ms(self) -> int:
        """Return the Unix time at which the run began, in milliseconds."""
        return int(datetime.fromisoformat(self.record.attempts[0].started_at).timestamp() * 1000)

    def _save_stage(self, stage_run: StageRun) -> None:
        self.record.set_stage(stage_run)
        self.record.save(self.context.store)

    def end(self, state: RunState, error: str | None = None) -> None:
        """Close the record, then publish artefacts and events: whoever reacts to an event must find the record closed."""
        if (register := self.manifests.get("register")) is not None:
            self.record.model_version = register.facts["model_uri"]
            self.record.model_links = register.facts.get("links", {})
        self.record.end(state, error)
        self.record.save(self.context.store)
        self._update_mlflow(state, error)
        self.artefacts.end(self.record, self.manifests)
        self.lineage.end(state, error, self.manifests)
        self._emit_events()

    def _record_stop(self, error: BaseException) -> None:
        """Record the end of the attempt while its training still writes a checkpoint, for which no one may wait."""
        self.record.end("crashed", self.describe_stop(error))
        with self.context.store.retrying_for(0):
            self.record.save(self.context.store)

    def describe_stop(self, error: BaseException) -> str:
        """Return in which stage what stopped the run."""
        return f"stopped in {self.stage} by {describe_cause(error)}"

    def _emit_events(self) -> None:
        if emit_events(self.record, self.manifests, self.context.store, self.until):
            self.record.save(self.context.store)

    def _update_mlflow(self, state: RunState, error: str | None) -> None:
        """Write how the run ended into its MLflow run, and the URL of that run into the record."""
        status: Status = "FINISHED" if state == "completed" else "FAILED" if state == "failed" else "KILLED"
        reached = [one.model_dump() for one in self.record.stages if one.stage in {*self.manifests, self.stage}]
        summary, report = error or f"up to {self.until or self.stage}", self.record.checks
        outcome = RunOutcome(status, summary, reached, self._began_ms())
        if report is not None and report.results:
            outcome = replace(outcome, verdict=report.verdict, figures=report.figures)
        page = parent_run.record_outcome(self.context, self.manifests, outcome)
        if page and not self.record.model_links:
            self.record.model_links = {"run": page}
            self.record.save(self.context.store)

    def failure_message(self, error: BaseException) -> str:
        """Return the message of the flow run's state: the stage, the kind of error, what to do, and the error itself."""
        failed = "the dataset is blocked" if isinstance(error, DatasetBlocked) else f"{self.stage} failed"
        return f"{failed}: {type(error).__name__}. {next_step(error, self.record.run_id)}\n{error}"


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


def _recorded_config(record: RunRecord, store: Store, until: str | None, *, sources: bool = True) -> RunConfig:
    """Validate a record's config again, with the URI of the store in which the record was found."""
    values = {**record.config, "store": {"uri": store.uri}}
    return check_config(values, f"run {record.run_id}", sources=sources, until=until)
