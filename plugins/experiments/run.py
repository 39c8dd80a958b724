"""Make the runs of an experiment: one for each variant and seed, in one store, so that equal snapshots are made once."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from dataops.errors import ConfigError, PairmillError, StorageError
from dataops.process import count_cores
from dataops.snapshot import find_manifest
from dataops.stages import STAGES, find_table
from dataops.store import open_store
from flows.config import load_config
from flows.records import new_run_id
from plugins.experiments.config import EPOCHS, LAST, SEED, SHARE, Experiment, Variant, describe_kind
from plugins.experiments.decide import find_dropped
from plugins.experiments.forecast import MIN_SCALES
from plugins.experiments.record import Cell, Record, load_record

if TYPE_CHECKING:  # it imports Prefect, which reads the environment of the servers only then
    from flows.planning.plan import PlannedStage, RunPlan

logger = logging.getLogger(__name__)

SPEED = "evidence-throughput.jsonl"
"""File of a training with the samples per second of each interval."""
ROUNDS = 3
"""Attempts to train all seeds of a variant on one dataset, where takedowns change it meanwhile."""
CHANGED = "a takedown or a deletion changed its dataset meanwhile: it has to be trained again"


@dataclass
class Outcome:
    """How a run ended."""

    exit_code: int
    stopped: bool = False
    """Whether a signal ended it."""


class Stopped(Exception):
    """A signal ended a run."""

    def __init__(self, exit_code: int):
        super().__init__(exit_code)
        self.exit_code = exit_code


RunOne = Callable[[str, Path, tuple[str, ...], str], Outcome]
"""Makes a run with an id: a config with settings, up to a stage."""


@dataclass
class Work:
    """An experiment at work.

    Args:
        home: that of the project.
        run_one: makes a run; a test passes its own.
    """

    experiment: Experiment
    home: Path
    run_one: RunOne
    on_cell: Callable[[Cell], None] = lambda cell: None

    def __post_init__(self) -> None:
        one, self.store = self.experiment, open_store(self.experiment.store_uri)
        scales = (None, *(one.file.ladder.samples_seen if one.file.ladder else ()))
        of_scale = [(variant.name, seed) for seed in range(one.file.seeds) for variant in one.variants]
        cells = [Cell(name, seed, samples=samples) for samples in scales for name, seed in of_scale]
        decide = one.file.decide
        self.record = Record(one.name, decide.metric, decide.confidence, dict(one.tasks), cells, str(one.base))
        self.record.racing = decide.racing
        self.record.kinds = {variant.name: describe_kind(variant.config) for variant in one.variants}
        if (known := load_record(one.name, self.store)) is None:
            return
        run_ids = {(cell.variant, cell.seed, cell.samples): cell.run_ids for cell in known.cells}
        for cell in cells:
            cell.run_ids = run_ids.get((cell.variant, cell.seed, cell.samples), [])
        same = [name for name, kind in self.record.kinds.items() if known.kinds.get(name) == kind]
        self.record.rates = {name: known.rates[name] for name in same if name in known.rates}
        self.record.flow_run_id = known.flow_run_id
        if others := [name for name in known.kinds if name not in same]:
            logger.warning(
                "the store has an experiment %s in which %s is another variant: a run of this one replaces its record; "
                "what it made stays",
                *(one.name, ", ".join(others)),
            )

    def check_ladder(self) -> None:
        """Check that the ladder has enough scales in whole epochs of each dataset that is made already.

        Raises: ConfigError if it has not.
        """
        if (ladder := self.experiment.file.ladder) is None:
            return
        for cell in self.record.cells[: len(self.experiment.variants)]:
            self._plan(cell)
            if (rows := self.record.rows.get(cell.variant)) is None:
                continue
            epochs = {max(1, round(samples / rows)) for samples in ladder.samples_seen}
            epochs.add(self.record.epochs.get(cell.variant, self._variant(cell).config.train.epochs))
            if len(epochs) < MIN_SCALES:
                raise ConfigError(
                    f"ladder.samples_seen of {self.record.name}: in whole epochs of the {rows:,} pairs of {cell.variant}, "
                    f"these and the compared training are {' and '.join(map(str, sorted(epochs)))} epochs; a curve needs "
                    f"{MIN_SCALES} different numbers: set larger ones, or more train.epochs"
                )

    def plan(self) -> "list[tuple[Cell, RunPlan]]":
        """Return the plan of each run; epochs and shares are as known so far."""
        self._equalise(run=False)
        plans = [(cell, self._plan(cell)) for cell in self.record.cells]
        for cell in self.record.cells:
            cell.settings = self._settings(cell)
        return plans

    def make(self) -> int:
        """Make the runs that are missing; return 0, or the exit code of the first that failed, or of a signal."""
        code = 0
        try:
            for _ in range(ROUNDS):
                code = self._make_cells()
                if not self._mark_changed():
                    break
            else:
                code = code or StorageError.exit_code
        except Stopped as stopped:
            code = stopped.exit_code
        self.record.save(self.store)
        return code

    def _make_cells(self) -> int:
        code, failed = self._equalise(run=True)
        lost, won = dict[str, str](), dict[str, str]()
        for (samples, seed), cells in groupby(self.record.cells, key=lambda one: (one.samples, one.seed)):
            for cell in cells:
                code = self._make_cell(cell, failed, lost if samples else lost | won) or code
            if self.record.racing and samples is None and not won:
                lost = find_dropped(self.record, self.store)
                left = [one.name for one in self.experiment.variants if one.name not in failed | lost]
                won = dict.fromkeys(left, f"the best after {seed + 1} seeds") if lost and len(left) == 1 else {}
        return code

    def _mark_changed(self) -> bool:
        """Mark the trainings whose dataset is no longer that of their variant, and return whether there are any."""
        for cell in self.record.finished:
            if not self._reuse(cell):
                cell.state, cell.error = "failed", CHANGED
                self.on_cell(cell)
        return any(cell.error == CHANGED for cell in self.record.cells)

    def _make_cell(self, cell: Cell, failed: dict[str, str], decided: dict[str, str]) -> int:
        """Make the run of a cell, unless its variant has failed or is decided, and return its exit code.

        Args:
            failed: error of each variant that has failed; this one is added.
            decided: why a variant needs no further training.
        """
        code, cell.settings = 0, self._settings(cell)
        if cell.variant in failed:
            cell.state, cell.error = "skipped", failed[cell.variant]
        elif cell.variant in decided:
            cell.state, cell.error = "ended", decided[cell.variant]
        elif not self._reuse(cell):
            if code := self._run(cell, LAST).exit_code:
                cell.state, cell.error = "failed", f"exit code {code}; `pairmill show {cell.run_ids[-1]}` has the error"
                failed[cell.variant] = f"not run, since seed {cell.seed} failed"
            elif not self._reuse(cell):
                cell.state, cell.error = "failed", CHANGED
        self.record.save(self.store)
        self.on_cell(cell)
        return code

    def _run(self, cell: Cell, until: str) -> Outcome:
        """Make the run of a cell. The record is saved before, since a signal may end this process. Raises: Stopped."""
        cell.state, cell.settings = "running", self._settings(cell)
        cell.run_ids.append(new_run_id(self._variant(cell).config.name))
        self.record.save(self.store)
        self.on_cell(cell)
        try:
            outcome = self.run_one(cell.run_ids[-1], self.experiment.base, cell.settings, until)
        except PairmillError as error:
            logger.error("%s", error)
            outcome = Outcome(error.exit_code)
        if outcome.stopped:
            cell.state = "stopped"
            raise Stopped(outcome.exit_code)
        return outcome

    def _reuse(self, cell: Cell) -> bool:
        """Return whether all snapshots of a cell are complete, and record their keys."""
        planned = self._plan(cell)
        cell.keys = {one.stage: one.key for one in planned.stages if one.action == "reuse" and one.key}
        if is_made := all(one.action == "reuse" for one in planned.stages):
            cell.state, cell.error = "complete", ""
        return is_made

    def _plan(self, cell: Cell, until: str = LAST) -> "RunPlan":
        from flows.planning.plan import plan_run

        config = load_config(self.experiment.base, self._settings(cell), until, writes=False)
        planned = plan_run(config, self.home, config.execution.workers or count_cores(), until=until)
        pack = next(one for one in planned.stages if one.stage == "pack")
        if pack.action == "reuse" and pack.estimate.kept:
            self.record.rows[cell.variant] = int(pack.estimate.kept)
        return planned

    def _settings(self, cell: Cell) -> tuple[str, ...]:
        variant, share = self._variant(cell), self.record.shares.get(cell.variant)
        epochs, rows = self.record.epochs.get(cell.variant), self.record.rows.get(cell.variant)
        if cell.samples is not None and rows:
            epochs = max(1, round(cell.samples / rows))
        equal = (f"{EPOCHS}={epochs}",) if epochs is not None else ()
        equal += (f"{SHARE}={share}",) if share is not None else ()
        return (*variant.settings, f"{SEED}={cell.seed}", *equal)

    def _variant(self, cell: Cell) -> Variant:
        return next(one for one in self.experiment.variants if one.name == cell.variant)

    def _equalise(self, *, run: bool) -> tuple[int, dict[str, str]]:
        """Set the epochs or the share of each variant, so that all have as much of what the control names.

        Args:
            run: make the datasets and first trainings that are missing; without it, variants without them stay as they are.

        Returns: an exit code, and the variants that failed, with the error.
        """
        equal, variants = self.experiment.file.control.equal, self.experiment.variants
        if equal == "epochs":
            return 0, {}
        code, failed, rows = 0, dict[str, str](), self.record.rows
        for cell in self.record.cells[: len(variants)]:
            is_unknown = equal == "seconds" and cell.variant not in self.record.rates
            if exit_code := self._reach(cell, "pack", run=run):
                code, failed[cell.variant] = code or exit_code, "its dataset failed"
            elif is_unknown and (exit_code := self._measure(cell, run=run)):
                code, failed[cell.variant] = code or exit_code, "its first training failed"
        if equal == "pairs":
            if len(rows) + len(failed) == len(variants) and rows:
                least = min(rows.values())
                self.record.shares = {name: round(least / count, 6) for name, count in rows.items() if count > least}
            return code, failed
        first, rates = variants[0], self.record.rates if equal == "seconds" else dict.fromkeys(rows, 1.0)
        if first.name in rows and first.name in rates:
            seconds = rows[first.name] * first.config.train.epochs / rates[first.name]
            known = {name: count for name, count in rows.items() if name in rates}
            self.record.epochs = {name: max(1, round(seconds * rates[name] / count)) for name, count in known.items()}
        elif run:
            why = f"not run, since all others are made equal to {first.name}, which failed"
            failed = {one.name: failed.get(one.name, why) for one in variants}
        return code, failed

    def _reach(self, cell: Cell, until: str, *, run: bool) -> int:
        """Make the snapshots of a cell up to a stage if they are missing; return an exit code."""
        stages = self._plan(cell, until).stages
        if not run or all(one.action == "reuse" for one in stages):
            return 0
        code = self._run(cell, until).exit_code
        self._plan(cell, until)
        return code

    def _measure(self, cell: Cell, *, run: bool) -> int:
        """Record the speed of a variant, which its training of one epoch has measured; return an exit code."""
        self.record.epochs[cell.variant] = 1
        code = self._reach(cell, "train", run=run)
        train = next(one for one in self._plan(cell, "train").stages if one.stage == "train")
        del self.record.epochs[cell.variant]
        manifest = find_manifest(self.store, "train", train.key) if train.key else None
        if manifest is not None:
            rows = [json.loads(line) for line in self.store.read(manifest.path(SPEED)).splitlines()]
            self.record.rates[cell.variant] = round(median(row["samples_per_second"] for row in rows), 3)
        return code


def find_first(plans: "Iterable[tuple[Cell, RunPlan]]") -> "Iterator[tuple[Cell, RunPlan, list[PlannedStage]]]":
    """Yield each plan with the stages that are made there first: the runs after it reuse them.

    A stage whose inputs are not made yet has no key: runs share it if they share the settings up to it.
    """
    seen: set[str] = set()
    for cell, planned in plans:
        identities = [f"{one.stage} {one.key or _settings_up_to(cell, one.stage)}" for one in planned.stages]
        stages = zip(planned.stages, identities, strict=True)
        yield cell, planned, [one for one, identity in stages if one.action != "reuse" and identity not in seen]
        seen.update(identities)


def _settings_up_to(cell: Cell, stage: str) -> list[str]:
    """Return the settings of a cell that change a stage or one before it."""
    tables = {*map(find_table, STAGES[: STAGES.index(stage) + 1]), "seed"}
    scale = [f"samples {cell.samples}"] if cell.samples is not None and "train" in tables else []
    return scale + sorted(one for one in cell.settings if one.partition("=")[0].partition(".")[0] in tables)
