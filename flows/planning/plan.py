"""Plan a run: which stages are reused and which are made, why, and what they take. No snapshot is written."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from dataops.errors import CorruptPart, PairmillError
from dataops.snapshot import Draft, Manifest, Record, find_manifest
from dataops.store import Store, open_store
from flows.config import RunConfig
from flows.pipeline import PIPELINE
from flows.planning.duration import measure_machine
from flows.planning.estimate import Estimate, count_test_images, estimate_stage
from flows.planning.history import Earlier, History
from flows.planning.reasons import Wanted, choose_nearest, find_differences
from flows.planning.sources import estimate_sources
from flows.run import Step
from tasks.engine.context import Context
from tasks.engine.stage import plan as plan_snapshot
from tasks.train.datasets import find_named

SINGLE_MAP = frozenset({"extract", "download"})
"""Stages whose finished tasks are a share of all their work."""
MAX_RECORDS = 2000
"""Number of records of finished tasks that are read."""

SUMMED = (
    "seconds",
    "cpu_seconds",
    "core_hours",
    "gpu_hours",
    "web_bytes",
    "stored_bytes",
    "reads",
    "writes",
    "dollars",
    "model_requests",
)
"""Fields of an estimate of which a plan has the sum."""

Action = Literal["reuse", "make", "resume"]


@dataclass
class PlannedStage:
    """One stage of a plan."""

    stage: str
    action: Action
    key: str | None
    """Key of the snapshot; None if it depends on an input that is made first."""
    why: list[str] = field(default_factory=list)
    """Why the stage is made; empty if it is reused."""
    finished_tasks: int = 0
    """Tasks that an unfinished attempt has finished."""
    files: int = 0
    extracted_before: int = 0
    """Source files whose parts an earlier snapshot has."""
    estimate: Estimate = field(default_factory=Estimate)


@dataclass
class RunPlan:
    """The plan of a run."""

    name: str
    store: str
    workers: int
    stages: list[PlannedStage]

    def total(self) -> Estimate:
        """Return the sums over the stages that are made."""
        total = Estimate()
        for one in self.stages:
            if one.action != "reuse":
                for name in SUMMED:
                    setattr(total, name, getattr(total, name) + getattr(one.estimate, name))
                total.at_most = total.at_most or one.estimate.at_most
        return total

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        total = self.total()
        return {**asdict(self), "total": {name: getattr(total, name) for name in (*SUMMED, "at_most")}}


def plan_run(
    config: RunConfig, home: Path, workers: int, *, until: str | None = None, force: Sequence[str] = ()
) -> RunPlan:
    """Return the plan of a run with a config.

    Args:
        workers: tasks at a time.
        until: the last stage.
        force: stages that are rebuilt.
    """
    store = open_store(config.store.uri)
    planner = _Planner(config, store, Context(store, home, workers), History(store, config.name))
    for step in PIPELINE:
        planner.add(step, force=step.stage.name in force)
        if step.stage.name == until:
            break
    return RunPlan(config.name, store.uri, workers, planner.stages)


class _Planner:
    """Adds stage after stage, in their order."""

    def __init__(self, config: RunConfig, store: Store, context: Context, history: History):
        self.config, self.store, self.context, self.history = config, store, context, history
        self.machine = measure_machine(history, context.workers)
        self.stages: list[PlannedStage] = []
        self._manifests: dict[str, Manifest] = {}
        self._rows: dict[str, float] = {}
        self._image_bytes: float | None = None
        """Stored bytes of an image in the raw shards."""

    def add(self, step: Step, *, force: bool) -> None:
        """Add the plan of a stage."""
        name = step.stage.name
        earlier = self.history.of_stage(name)
        wanted, key = self._find_key(step)
        manifest, damage = self._find_snapshot(name, key)
        if manifest is not None and not force:
            self._manifests[name] = manifest
            counts = manifest.counts
            self._rows[name] = counts.kept
            if name == "download" and counts.kept:
                self._image_bytes = sum(part.bytes for part in manifest.parts) / counts.kept
            self.stages.append(PlannedStage(name, "reuse", key, estimate=Estimate(counts.input, counts.kept)))
            return
        planned = PlannedStage(name, "make", key)
        planned.why = ["--force"] if force else damage or self._explain(step, wanted, earlier, key)
        done = self._finished_records(name, key) if key and not force else []
        if done:
            planned.action, planned.finished_tasks, planned.why = "resume", len(done), ["an attempt is unfinished"]
        self._estimate(step, planned, _by_nearness(wanted, earlier), done)
        self.stages.append(planned)

    def _find_key(self, step: Step) -> tuple[Wanted, str | None]:
        """Return what determines the key, and the key if all inputs are known."""
        table = "register" if step.table == "register_" else step.table
        config, seed = self.config.stage_config(step.table), self.config.seed
        upstream = [self._manifests[name] for name in step.reads if name in self._manifests]
        planned = plan_snapshot(step.stage, config, seed, upstream, self.store)
        key = planned.key if len(upstream) == len(step.reads) else None
        return Wanted(step.stage.name, step.stage.version, config.key_config(), seed, planned.inputs, table), key

    def _find_snapshot(self, stage: str, key: str | None) -> tuple[Manifest | None, list[str]]:
        if key is None:
            return None, []
        try:
            return find_manifest(self.store, stage, key), []
        except CorruptPart as error:
            return None, [f"its snapshot is damaged: {error}"]

    def _explain(self, step: Step, wanted: Wanted, earlier: Sequence[Earlier], key: str | None) -> list[str]:
        """Return why the stage is made: its inputs that are made first, and its own differences."""
        made_first = [name for name in step.reads if name not in self._manifests]
        why = [f"{', '.join(made_first)} {'is' if len(made_first) == 1 else 'are'} made first"] if made_first else []
        nearest = choose_nearest(wanted, [one.manifest for one in _own_or_all(earlier)])
        if nearest is None:
            recorded = key is not None and any(record.key_of(step.stage.name) == key for record in self.history.records)
            return ["its snapshot was deleted"] if recorded else [*why, "no earlier snapshot"]
        found = find_differences(wanted, nearest)
        if key is not None and not found:
            found = ["its snapshot was deleted"]
        return why + found

    def _finished_records(self, stage: str, key: str) -> list[Record]:
        """Return the records of the tasks that an unfinished attempt has finished."""
        draft, folder = Draft(self.store, stage, key), f"{stage}/{key}/_work"
        tasks = [name.rpartition("/")[2].removesuffix(".json") for name in self.store.names(folder)]
        names = [task for task in tasks if not draft.is_lease(draft.scratch(f"{task}.json"))][:MAX_RECORDS]
        try:
            return [record for name in names if (record := draft.done(name)) is not None]
        except PairmillError:
            return []

    def _estimate(self, step: Step, planned: PlannedStage, earlier: list[Earlier], done: Sequence[Record]) -> None:
        name, first = step.stage.name, step.reads[0] if step.reads else None
        source = None
        if name == "extract":
            manifests = [one.manifest for one in earlier]
            source = estimate_sources(self.config.source.tables, self.store, self.context, manifests)
            rows = source.rows
            planned.files, planned.extracted_before = source.files, source.extracted_before
        elif name == "evaluate":
            rows = count_test_images(self.config)
        elif name == "register":
            rows = 0.0
        else:
            rows = self._rows.get(str(first), 0.0)
        if name == "train":
            rows += sum(one.counts.kept for one in find_named(self.config.train, self.store))
        finished = sum(record.counts.input for record in done) if name in SINGLE_MAP else 0
        share = max(1 - finished / rows, 0.0) if rows else 1.0
        if source is not None and rows:
            share = min(share, source.new_rows / rows)
        estimate = estimate_stage(
            step.stage,
            self.config,
            rows,
            earlier,
            machine=self.machine,
            fetched_rows=self._rows.get("download", rows),
            is_remote=self.store.is_remote,
            share_left=share,
            files=max(source.files - source.extracted_before, 1) if source else 1,
            image_bytes=self._image_bytes,
        )
        if source is not None:
            estimate.web_bytes = source.web_bytes
            estimate.basis.append(source.basis)
            estimate.at_most = source.at_most
        elif name not in ("evaluate", "register"):
            estimate.at_most = any(one.estimate.at_most for one in self.stages if one.stage in step.reads)
        planned.estimate = estimate
        self._rows[name] = estimate.kept
        if name == "download" and estimate.kept:
            self._image_bytes = estimate.stored_bytes / estimate.kept


def _by_nearness(wanted: Wanted, earlier: Sequence[Earlier]) -> list[Earlier]:
    """Return earlier snapshots, those of the same name first, then by how many of their values differ."""
    return sorted(earlier, key=lambda one: (not one.is_same_name, len(find_differences(wanted, one.manifest))))


def _own_or_all(earlier: Sequence[Earlier]) -> list[Earlier]:
    """Return the snapshots of runs of the same name; those of all runs if there are none."""
    return [one for one in earlier if one.is_same_name] or list(earlier)
