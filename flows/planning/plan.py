"""Plan a run: which stages are reused and which are made, why, and what they take. No snapshot is written.

Rows, time and bytes come from earlier runs in the same store, of the same kind: the same kinds of sources, and the same
hosts with an address of their own (`download.connect_to`), so that no server on loopback stands for the web. Without such a
run they are not known.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from dataops.errors import ConfigError, CorruptPart, PairmillError
from dataops.snapshot import Draft, Manifest, find_manifest, load_manifest
from dataops.stages import find_table
from dataops.store import Store, open_store
from dataops.trace.sources import list_sources
from flows.config import RunConfig
from flows.pipeline import PIPELINE
from flows.planning.reasons import Wanted, choose_nearest, find_differences
from flows.records import FINISHED, RunRecord, read_record
from flows.run import Step
from tasks.download.outcome import describe_longest, estimate_longest
from tasks.engine.context import Context
from tasks.engine.stage import plan as plan_snapshot
from tasks.extract.sources.base import EarlierSource, Source, SourceEstimate
from tasks.train.stage import describe_few_steps, find_further

MAX_RUNS = 30
"""Number of the newest runs that are read."""
BY_ROWS = frozenset({"extract", "filter", "download", "curate", "pack", "train"})
"""Stages whose time and bytes grow with their rows."""

Action = Literal["reuse", "make", "resume"]


@dataclass
class Estimate:
    """What a stage takes, if it is made; None where no earlier run shows it."""

    rows: float | None = None
    kept: float | None = None
    seconds: float | None = None
    stored_bytes: float | None = None
    at_most: bool = False
    """Whether the time may be far shorter: the only earlier run had far fewer rows, so its start counts for many rows."""
    run: str = ""
    """The earlier run that it is estimated by."""


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
    warning: str = ""
    """What may not be meant."""


@dataclass
class RunPlan:
    """The plan of a run."""

    name: str
    store: str
    workers: int
    stages: list[PlannedStage]

    def total(self) -> dict[str, Any]:
        """Return the sums over the stages that are made, and the stages whose time is not known."""
        made = [one for one in self.stages if one.action != "reuse"]
        return {
            "seconds": sum(one.estimate.seconds or 0.0 for one in made),
            "stored_bytes": sum(one.estimate.stored_bytes or 0.0 for one in made),
            "at_most": any(one.estimate.at_most for one in made),
            "unknown": [one.stage for one in made if one.estimate.seconds is None],
        }

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {**asdict(self), "total": self.total()}


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
    planner = _Planner(config, Context(store, home, workers))
    for step in PIPELINE:
        planner.add(step, force=step.stage.name in force)
        if step.stage.name == until:
            break
    return RunPlan(config.name, store.uri, workers, planner.stages)


@dataclass(frozen=True)
class Earlier:
    """A snapshot that an earlier run made or reused."""

    manifest: Manifest
    record: RunRecord
    seconds: float | None
    """Seconds that the run took to make it; None if no run is known that made it in one attempt."""


class _Planner:
    """Adds stage after stage, in their order."""

    def __init__(self, config: RunConfig, context: Context):
        self.config, self.store, self.context = config, context.store, context
        self.records = _read_records(context.store, config.name)
        self.kind = _kind_of_run(config.as_dict())
        self.stages: list[PlannedStage] = []
        self._manifests: dict[str, Manifest] = {}
        self._rows: dict[str, float | None] = {}
        self._most: float | None = None
        """Upper bound of the rows that the next stage gets; None if nothing shows it."""

    def add(self, step: Step, *, force: bool) -> None:
        """Add the plan of a stage."""
        name = step.stage.name
        earlier = self._find_earlier(name)
        wanted, key, older = self._find_key(step)
        manifest, damage = self._find_snapshot(name, key)
        if manifest is not None and not force:
            self._manifests[name] = manifest
            self._rows[name] = self._most = manifest.counts.kept
            estimate = Estimate(manifest.counts.input, manifest.counts.kept)
            planned = PlannedStage(name, "reuse", key, estimate=estimate)
            if manifest.stage_version != step.stage.version:
                planned.why = [f"made by version {manifest.stage_version} of the stage, whose output is accepted"]
            self.stages.append(planned)
            return
        planned = PlannedStage(name, "make", key)
        planned.why = ["--force"] if force else damage or self._explain(step, wanted, earlier, key)
        for one in [key, *older] if key and not force else []:
            if finished := len(Draft(self.store, name, one).finished()):
                which = "an attempt" if one == key else f"{name}/{one}, which an accepted version began,"
                planned.action, planned.finished_tasks, planned.why = "resume", finished, [f"{which} is unfinished"]
                break
        self._estimate(step, planned, _by_nearness(wanted, earlier, self.config.name))
        self.stages.append(planned)

    def _find_earlier(self, stage: str) -> list[Earlier]:
        """Return the earlier snapshots of a stage that are still there, those of the same name first, newest first."""
        found: dict[str, Earlier] = {}
        for record in self.records:
            for run in record.stages:
                if run.stage != stage or run.state not in FINISHED:
                    continue
                seconds = run.seconds if run.state == "Completed" and len(record.attempts) == 1 else None
                known = found.get(run.key)
                if known is not None and (known.seconds is not None or seconds is None):
                    continue
                try:
                    manifest = known.manifest if known else load_manifest(self.store, stage, run.key)
                except PairmillError:
                    continue
                if manifest is not None:
                    found[run.key] = Earlier(manifest, record, seconds)
        return list(found.values())

    def _find_key(self, step: Step) -> tuple[Wanted, str | None, list[str]]:
        """Return what determines the key, the key if all inputs are known, and those of older accepted versions."""
        table = find_table(step.stage.name)
        config, seed = self.config.stage_config(step.table), self.config.seed
        upstream = [self._manifests[name] for name in step.reads if name in self._manifests]
        planned = plan_snapshot(step.stage, config, seed, upstream, self.store)
        key = planned.key if len(upstream) == len(step.reads) else None
        wanted = Wanted(step.stage.name, step.stage.version, config.key_config(), seed, planned.inputs, table)
        return wanted, key, list(planned.older.values())

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
        own = [one for one in earlier if one.record.name == self.config.name] or earlier
        nearest = choose_nearest(wanted, [one.manifest for one in own])
        if nearest is None:
            recorded = key is not None and any(record.key_of(step.stage.name) == key for record in self.records)
            return ["its snapshot was deleted"] if recorded else [*why, "no earlier snapshot"]
        found = find_differences(wanted, nearest)
        return why + (found if found or key is None else ["its snapshot was deleted"])

    def _estimate(self, step: Step, planned: PlannedStage, earlier: list[Earlier]) -> None:
        """Set what the stage takes, by the earlier runs of this kind."""
        name = step.stage.name
        alike = [one for one in earlier if self._is_alike(name, one)]
        rows = new_rows = self._rows.get(step.reads[0]) if step.reads else None
        if name == "extract":
            source = _estimate_sources(self.config.source.tables, self.context, [one.manifest for one in alike])
            rows, new_rows = source.rows, source.new_rows
            planned.files, planned.extracted_before = source.files, source.extracted_before
        elif name == "train":
            train = self.config.stage_config(step.table)
            further = sum(one.counts.kept for one in find_further(train, self.store))
            rows = new_rows = None if rows is None else rows + further
            if self._most is not None:
                planned.warning = describe_few_steps(train, self._most + further) or ""
        elif name == "download" and (source := self._manifests.get("filter")) is not None:
            download = self.config.stage_config(step.table)
            planned.warning = describe_longest(estimate_longest(source, self.store), download.host_rate)
        elif name not in BY_ROWS:
            rows = None
        found = planned.estimate = Estimate(rows)
        if alike and (counts := alike[0].manifest.counts).input and rows is not None:
            found.kept = rows * counts.kept / counts.input
        if timed := [one for one in alike if one.seconds is not None]:
            units = new_rows * self.config.train.epochs if name == "train" and new_rows is not None else new_rows
            _estimate_time(found, name, units, timed)
        self._rows[name] = found.kept
        self._most = found.rows if name == "extract" and found.kept is None else found.kept or self._most

    def _is_alike(self, name: str, one: Earlier) -> bool:
        """Return whether what an earlier run took predicts what this stage takes."""
        if _kind_of_run(one.record.config) != self.kind:
            return False
        now = self.config.train.key_config()
        return name != "train" or all(one.manifest.config.get(key) == now.get(key) for key in ("model", "image_size"))


def _estimate_time(found: Estimate, name: str, units: float | None, timed: Sequence[Earlier]) -> None:
    """Set the time and bytes of a stage: from the line through two runs of different size, else by the nearest run."""
    nearest = timed[0]
    found.run = nearest.record.run_id
    seconds, stored = nearest.seconds or 0.0, float(sum(part.bytes for part in nearest.manifest.parts))
    done = _units_of(name, nearest)
    if name not in BY_ROWS or not done:
        found.seconds, found.stored_bytes = seconds, stored
        return
    if units is None:
        return
    found.stored_bytes = stored if name == "train" else stored * units / done
    other = next((one for one in timed[1:] if not 0.5 < (_units_of(name, one) or done) / done < 2), None)
    if other is None:
        found.seconds, found.at_most = seconds * max(units / done, 1.0), units > 2 * done
        return
    slope = max((seconds - (other.seconds or 0.0)) / (done - _units_of(name, other)), 0.0)
    found.seconds = max(seconds + slope * (units - done), 0.0)


def _units_of(name: str, one: Earlier) -> float:
    return one.manifest.counts.input * float(one.manifest.config.get("epochs", 1) if name == "train" else 1)


def _read_records(store: Store, name: str) -> list[RunRecord]:
    """Return the records of the newest runs, those of this name first."""
    names = sorted(store.names("runs"), key=lambda one: one.rpartition("-")[0].rpartition("-")[2], reverse=True)
    names.sort(key=lambda one: not one.startswith(f"runs/{name}-"))
    found: list[RunRecord] = []
    for one in names[:MAX_RUNS]:
        try:
            found.append(read_record(store, one))
        except ConfigError:  # `pairmill runs` reports it
            continue
    return sorted(found, key=lambda record: record.name != name)


def _kind_of_run(config: dict[str, Any]) -> tuple[set[str], set[str]]:
    """Return the kinds of the sources of a run, and the hosts to which it gave addresses of its own."""
    source = config.get("source", {})
    sources = source if isinstance(source, list) else [source]
    return {str(one.get("kind")) for one in sources}, set(config.get("download", {}).get("connect_to") or {})


def _by_nearness(wanted: Wanted, earlier: Sequence[Earlier], name: str) -> list[Earlier]:
    """Return earlier snapshots, those of the same name first, then by how many of their values differ."""
    return sorted(earlier, key=lambda one: (one.record.name != name, len(find_differences(wanted, one.manifest))))


def _estimate_sources(tables: Sequence[Source], context: Context, earlier: Sequence[Manifest]) -> SourceEstimate:
    """Return the estimate for all sources of a config; no rows if those of one are not known."""
    found = [
        table.estimate(context, next(filter(None, (_find_source(table, one) for one in earlier)), None))
        for table in tables
    ]
    is_known = all(one.rows is not None for one in found)
    return SourceEstimate(
        sum(one.rows or 0.0 for one in found) if is_known else None,
        sum(one.new_rows or 0.0 for one in found) if is_known else None,
        sum(one.files for one in found),
        sum(one.extracted_before for one in found),
    )


def _find_source(source: Source, manifest: Manifest) -> EarlierSource | None:
    """Return what an earlier snapshot has of a source of the same kind."""
    found = (
        source.describe_earlier(facts, manifest)
        for facts in list_sources(manifest)
        if facts.kind == source.kind and facts.counts.input
    )
    return next(filter(None, found), None)
