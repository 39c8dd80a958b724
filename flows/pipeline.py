"""The parent flow: eight stages from a web archive to a registered model. Start reading here.

Each stage is one Prefect task run. Its snapshot in the store decides whether there is work to do: a complete one ends the
task at once in the state `Reused`, an unfinished one is resumed. Prefect gives order, retries, schedule and sight.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from dataops.errors import PairmillError
from dataops.snapshot import Manifest
from dataops.store import open_store
from flows.config import RunConfig, check_config, load_config
from flows.runs import RunRecord, StageRun, load_run, new_run
from flows.sight import Sight
from infra.services import environment, home
from tasks.curate import CURATE
from tasks.download import DOWNLOAD
from tasks.evaluate import EVALUATE
from tasks.extract import EXTRACT
from tasks.filter import FILTER
from tasks.pack import PACK
from tasks.register import REGISTER
from tasks.stage import Context, Plan, Stage, discard, make, plan, reuse
from tasks.train import TRAIN


@dataclass(frozen=True)
class Step:
    """One stage in its place."""

    stage: Stage
    table: str
    """The config's table for it."""
    reads: tuple[str, ...]
    """The stages whose snapshots it reads; the first one's rows are those that it keeps or drops."""


PIPELINE = (
    Step(EXTRACT, "source", reads=()),
    Step(FILTER, "filter", reads=("extract",)),
    Step(DOWNLOAD, "download", reads=("filter",)),
    Step(CURATE, "curate", reads=("download",)),
    Step(PACK, "pack", reads=("curate", "download")),
    Step(TRAIN, "train", reads=("pack",)),
    Step(EVALUATE, "evaluate", reads=("train",)),
    Step(REGISTER, "register_", reads=("evaluate", "train", "pack", "curate", "download", "filter", "extract")),
)
STAGES = tuple(step.stage.name for step in PIPELINE)


def _flow_run_name() -> str:
    """The run id, or for a scheduled run (whose record is not made yet) its config's name and time."""
    given = flow_run.parameters
    return given.get("run_id") or f"{Path(str(given.get('config'))).stem}-{flow_run.scheduled_start_time:%Y%m%dT%H%M%S}"


@flow(name="pipeline", flow_run_name=_flow_run_name, validate_parameters=False)
def pipeline(
    config: str | None = None,
    run_id: str | None = None,
    until: str | None = None,
    force: tuple[str, ...] = (),
    verify: bool = False,
) -> dict[str, Any]:
    """Run the stages in order, making what is missing.

    Args:
        config: path of the TOML file of a new run (what a schedule gives).
        run_id: an existing run record to work on instead (what the command gives).
        until: the last stage to run; by default that of the run's first try, or the last one of all.
        force: stages whose snapshots are made again.
        verify: compare the sha256 of every part before a snapshot is reused.

    Returns: what `pairmill run --json` prints.
    """
    for name, value in environment().items():  # a worker's own environment may lack the address of the local MLflow
        os.environ.setdefault(name, value)
    run = Run.open(config, run_id)
    until = run.record.until = until or run.record.until
    try:
        for step in PIPELINE:
            run.stage(step, force=step.stage.name in force, verify=verify)
            if step.stage.name == until:
                break
    except BaseException as error:
        run.end("failed", f"{type(error).__name__}: {error}")
        raise
    run.end("completed")
    return run.summary()


class Run:
    """The state of one run of the flow: its record, its context and the snapshots so far."""

    def __init__(self, record: RunRecord, config: RunConfig):
        self.record, self.config = record, config
        self.manifests: dict[str, Manifest] = {}
        flow_run_id = str(flow_run.id)
        self.sight = Sight(record.run_id)
        self.context = Context(
            store=open_store(config.store.uri),
            home=home(),
            progress=self.sight.progress,
            run_id=record.run_id,
            run_name=record.name,
            flow_run_id=flow_run_id,
            flow_run_url=self.sight.flow_run_url(flow_run_id),
            run_config=record.config,
            **({"workers": config.execution.workers} if config.execution.workers else {}),
        )
        record.begin()
        record.attempts[-1].flow_run_id = flow_run_id
        record.save(self.context.store)

    @classmethod
    def open(cls, config: str | None, run_id: str | None) -> "Run":
        """The run of an existing record, or a new one of a config file."""
        if run_id is not None:
            record, _ = load_run(run_id, home())
            return cls(record, check_config(record.config, f"run {run_id}"))
        loaded = load_config(Path(str(config)))
        return cls(new_run(loaded, home()), loaded)

    def stage(self, step: Step, *, force: bool, verify: bool) -> None:
        """Find or make one stage's snapshot, as a Prefect task run."""
        upstream = [self.manifests[name] for name in step.reads]
        planned = plan(step.stage, getattr(self.config, step.table), self.config.seed, upstream)
        if force:
            discard(planned, self.context)
        noted = StageRun(stage=step.stage.name, key=planned.key, state="Running")
        self._note(noted)
        started = time.monotonic()
        try:
            with self.sight.watch(step.stage.name):
                noted.state, manifest = run_task(
                    planned, self.context, verify=verify, retry_delays=self.config.execution.retry_delays
                )
        except BaseException:
            noted.state, noted.seconds = "Failed", time.monotonic() - started
            self._note(noted)
            raise
        noted.seconds, noted.counts = round(time.monotonic() - started, 3), manifest.counts
        self.manifests[step.stage.name] = manifest
        self._note(noted)
        self.sight.stage_ended(manifest, noted.state, noted.seconds)

    def _note(self, noted: StageRun) -> None:
        self.record.note(noted)
        self.record.save(self.context.store)

    def end(self, state: Any, error: str | None = None) -> None:
        """Close the record and show what came out."""
        if (register := self.manifests.get("register")) is not None:
            self.record.model_version = register.facts["model_uri"]
            self.record.model_links = register.facts.get("links", {})
        self.record.end(state, error)
        self.record.save(self.context.store)
        self.sight.run_ended(list(self.manifests.values()))

    def summary(self) -> dict[str, Any]:
        """`run_id`, `stages` (stage, key, state, seconds, counts) and `model_version`."""
        return self.record.model_dump(mode="json", include={"run_id", "stages", "model_version"})


def run_task(
    planned: Plan, context: Context, *, verify: bool, retry_delays: Sequence[float] = ()
) -> tuple[Any, Manifest]:
    """Run one stage as a task run named after what it works on; ("Reused" | "Completed", its manifest)."""
    found: list[Manifest] = []

    def body() -> Manifest | State:
        if (manifest := reuse(planned, context, verify=verify)) is not None:
            found.append(manifest)
            return Completed(name="Reused", message=f"{planned.stage.name}/{planned.key} was complete")
        found.append(make(planned, context))
        if found[-1].prefect_flow_run_id != context.flow_run_id:  # it was made while this run waited for it
            return Completed(name="Reused", message=f"another run made {planned.stage.name}/{planned.key}")
        return Completed(message=f"made {planned.stage.name}/{planned.key}")

    decorate: Any = task(
        name=planned.stage.name,
        task_run_name=_label(planned),
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
