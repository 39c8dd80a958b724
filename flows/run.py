"""One flow run: finds or makes the snapshot of each stage, checks the dataset, and closes the run record."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from prefect.client.schemas.objects import State

from dataops.errors import ContractError, DatasetBlocked
from dataops.facts import RegisterFacts
from dataops.process import cpu_seconds
from dataops.snapshot import Manifest, find_manifest
from flows.dataset_checks import check_kept, check_run
from flows.interruption import describe_cause
from flows.launch import make_snapshot, trains_elsewhere
from flows.listeners.base import Listeners, LiveRun, RunState, StageEnd
from flows.records import StageRun
from flows.task_run import label_task, run_task
from tasks.download.rounds import reopen
from tasks.engine.stage import Plan, Stage, discard, plan, reuse

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """A stage of the pipeline, with its config table and its inputs."""

    stage: Stage
    table: str
    """Name of the stage's table in the config."""
    reads: tuple[str, ...]
    """Stages whose snapshots this stage reads. It keeps or drops the rows of the first one."""


class Run(LiveRun):
    """The state of one flow run. flows/opening.py opens it.

    Args:
        run: its record, config and context.
    """

    def __init__(self, run: LiveRun):
        super().__init__(**vars(run))
        self.context = replace(run.context, progress=self._show_progress, stopped=self._record_stop)
        self._states: dict[str, State] = {}  # final states of the task runs, by stage
        self.listeners = Listeners(self)
        self.listeners.notify(lambda one: one.begin())

    def _show_progress(self, done: float, total: int, line: str) -> None:
        self.listeners.notify(lambda one: one.progress(done, total, line))

    def reuse_recorded(self, step: Step) -> None:
        """Reuse the snapshot that the record names.

        The source files may be on another machine, so the key of the snapshot is read from the record, not computed.

        Raises: ContractError if the snapshot is missing. It is not made here, since a record's config can name any file of
            this machine as its source, and whoever may write to the store may have written the record.
        """
        self.stage = name = step.stage.name
        manifest = self.find_recorded(name)
        label, upstream = f"{name}/{manifest.key}", self._find_states(step)
        self._states[name], self.manifests[name] = run_task(name, label, lambda: manifest, lambda: manifest, upstream)

    def find_recorded(self, stage: str) -> Manifest:
        """Return the snapshot with which a stage of the run ended last, also while a flow run that continues it checks it.

        Raises: ContractError if it is missing.
        """
        store, key = self.context.store, self.record.last_key_of(stage)
        if key is None or (manifest := find_manifest(store, stage, key)) is None:
            raise ContractError(f"{store.uri} has no complete snapshot {stage}/{key or '(none in the record)'}")
        if self.record.key_of(stage) is None:
            self.record.set_stage(StageRun(stage=stage, key=key, state="Reused", counts=manifest.counts))
        return manifest

    def make(self, step: Step, *, force: bool = False, retry: Sequence[str] = ()) -> None:
        """Find or make one stage's snapshot, as a Prefect task run.

        Args:
            force: make the snapshot again, even if it is complete.
            retry: for `download`, the classes of failure whose rows are fetched again.
        """
        self.stage = step.stage.name
        config, upstream = self.config, [self.manifests[name] for name in step.reads]
        inputs = config.stage_config(step.table), config.seed, upstream, self.context.store
        planned = plan(step.stage, *inputs, accept=not force)
        if force or retry:
            self._clear_once(planned, retry)
        stage_run = self.record.begin_stage(self.stage, planned.key)
        self.save()
        started, cpu = time.monotonic(), cpu_seconds()
        self.listeners.notify(lambda one: one.stage_started(planned))
        try:
            state, manifest = run_task(
                self.stage,
                label_task(planned),
                lambda: reuse(planned, self.context),
                lambda: self._make_snapshot(planned),
                self._find_states(step),
                self.context.flow_run_id,
                config.execution.retry_delays,
            )
        except BaseException:
            stage_run.state, stage_run.seconds = "Failed", time.monotonic() - started
            self._end_stage(stage_run)
            raise
        is_local = self.context.executor.shares_disk and config.train.launch == "local"
        cpu_time = cpu_seconds() - cpu if is_local else None
        outcome = "Reused" if state.name == "Reused" else "Completed"
        stage_run.complete(outcome, time.monotonic() - started, cpu_time, manifest.counts)
        self.manifests[self.stage], self._states[self.stage] = manifest, state
        self._end_stage(stage_run, manifest)
        check_kept(manifest)
        if self.stage == "pack" and plan(step.stage, *inputs).key != planned.key:  # of takedowns requested meanwhile
            self.make(step)

    def _clear_once(self, planned: Plan, retry: Sequence[str]) -> None:
        """Discard a snapshot, or open it again for some rows, once in a flow run: its retry after a crash does not."""
        name = f"{planned.stage.name}/{planned.key}"
        own = [attempt for attempt in self.record.attempts if attempt.flow_run_id == self.context.flow_run_id]
        if any(name in attempt.remade for attempt in own):
            return
        if retry:
            reopen(planned, self.context, retry)
        else:
            discard(planned, self.context)
        for attempt in own[-1:]:
            attempt.remade.append(name)

    def _end_stage(self, stage_run: StageRun, manifest: Manifest | None = None) -> None:
        self.record.set_stage(stage_run)
        self.save()
        end = StageEnd(self.stage, stage_run.state, stage_run.seconds, manifest)
        self.listeners.notify(lambda one: one.stage_ended(end))

    def _make_snapshot(self, planned: Plan) -> Manifest:
        """Make the snapshot where the config says; listeners see each attempt."""
        elsewhere = trains_elsewhere(planned, self.config)
        self.listeners.notify(lambda one: one.making(planned, elsewhere=elsewhere))
        try:
            return make_snapshot(planned, self.context, self.config)
        except BaseException as error:
            failure = error
            self.listeners.notify(lambda one: one.attempt_failed(failure))
            raise

    def check_dataset(self, *, recorded: bool = False) -> None:
        """Check the dataset by `[checks]`, and record and log the results.

        Args:
            recorded: use the report that the record has on this dataset, if it has one.

        Raises: DatasetBlocked if a check whose level is `block` failed.
        """
        report, pack = self.record.checks, self.manifests["pack"]
        if not recorded or report is None or report.dataset != pack.key:
            report = check_run(self.config.checks, self.record, self.manifests, self.context.store)
            self.record.checks = report
            self.save()
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

    def _record_stop(self, error: BaseException) -> None:
        """Record the end of the attempt while its training still writes a checkpoint, for which no one may wait."""
        self.record.end("stopped", self.describe_stop(error))
        with self.context.store.retrying_for(0):
            self.save()

    def describe_stop(self, error: BaseException) -> str:
        """Return in which stage what stopped the run."""
        return f"stopped in {self.stage} by {describe_cause(error)}"

    def end(self, state: RunState, error: str | None = None) -> None:
        """Close the record."""
        if (register := self.manifests.get("register")) is not None:
            facts = RegisterFacts.of(register)
            self.record.model_version, self.record.model_links = facts.model_uri, facts.links
        self.record.end(state, error)
        self.save()
        self.listeners.notify(lambda one: one.ended(state, error))
