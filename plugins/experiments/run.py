"""Make the runs of an experiment: one for each variant and seed, in one store, so that equal snapshots are made once.

The record of an experiment is the object `experiments/NAME.json` of the store. What is finished is found by the keys of
snapshots, so an experiment continues after a kill, and the record only names what `show` reads.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dataops.errors import ConfigError, PairmillError
from dataops.process import count_cores
from dataops.stages import STAGES, find_table
from dataops.store import Store, open_store
from flows.config import load_config
from flows.records import new_run_id
from plugins.experiments.config import EPOCHS, LAST, SEED, Experiment, Variant, describe_kind

if TYPE_CHECKING:  # it imports Prefect, which reads the environment of the servers only then
    from flows.planning.plan import PlannedStage, RunPlan

logger = logging.getLogger(__name__)

CellState = Literal["waiting", "running", "complete", "failed", "stopped", "skipped"]


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
class Cell:
    """One variant with one seed."""

    variant: str
    seed: int
    settings: tuple[str, ...] = ()
    state: CellState = "waiting"
    run_ids: list[str] = field(default_factory=list)
    """Its runs, also those that were killed; none where others had made all its snapshots."""
    error: str = ""
    """Why it has no result, in our own words: the error of a run may quote a pair, and stands in the run's record."""
    keys: dict[str, str] = field(default_factory=dict)
    """Key of the snapshot of each stage, once it is complete."""
    samples: float | None = None
    """Samples that a training of the ladder sees; None for those that are compared."""


@dataclass
class Record:
    """The record of an experiment."""

    name: str
    metric: str
    confidence: float
    tasks: dict[str, str]
    cells: list[Cell]
    epochs: dict[str, int] = field(default_factory=dict)
    """Epochs of each variant, where the control sets them."""
    rows: dict[str, int] = field(default_factory=dict)
    """Pairs of each variant's dataset, where it is made."""
    kinds: dict[str, str] = field(default_factory=dict)
    """Digest of the kind of data and training of each variant (`describe_kind`)."""

    @property
    def compared(self) -> list[Cell]:
        """Return the trainings that are compared: all but those of the ladder."""
        return [cell for cell in self.cells if cell.samples is None]

    def save(self, store: Store) -> None:
        """Write the record."""
        store.put(_path(self.name), json.dumps(asdict(self), indent=1, ensure_ascii=False).encode())


def load_record(name: str, store: Store) -> Record | None:
    """Return the record of an experiment, or None. Raises: ConfigError if it is damaged."""
    if (data := store.find(_path(name))) is None:
        return None
    try:
        values = json.loads(data)
        cells = [Cell(**{**one, "settings": tuple(one["settings"])}) for one in values.pop("cells")]
        return Record(cells=cells, **values)
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"{store.uri}/{_path(name)} is no record of an experiment; run the experiment again: what is made is reused"
        ) from error


def _path(name: str) -> str:
    return f"experiments/{name}.json"


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
        self.record = Record(one.name, decide.metric, decide.confidence, dict(one.tasks), cells)
        self.record.kinds = {variant.name: describe_kind(variant.config) for variant in one.variants}
        known = load_record(one.name, self.store)
        run_ids = {(cell.variant, cell.seed, cell.samples): cell.run_ids for cell in known.cells} if known else {}
        for cell in cells:
            cell.run_ids = run_ids.get((cell.variant, cell.seed, cell.samples), [])

    def plan(self) -> "list[tuple[Cell, RunPlan]]":
        """Return the plan of each run; epochs are as known so far."""
        self._equalise(run=False)
        plans = [(cell, self._plan(cell)) for cell in self.record.cells]
        for cell in self.record.cells:
            cell.settings = self._settings(cell)
        return plans

    def make(self) -> int:
        """Make the runs that are missing; return 0, or the exit code of the first that failed, or of a signal."""
        try:
            code, failed = self._equalise(run=True)
            for cell in self.record.cells:
                code = self._make_cell(cell, failed) or code
        except Stopped as stopped:
            code = stopped.exit_code
        self.record.save(self.store)
        return code

    def _make_cell(self, cell: Cell, failed: dict[str, str]) -> int:
        """Make the run of a cell, unless its variant has failed, and return its exit code.

        Args:
            failed: error of each variant that has failed; this one is added.
        """
        code, cell.settings = 0, self._settings(cell)
        if cell.variant in failed:
            cell.state, cell.error = "skipped", failed[cell.variant]
        elif not self._reuse(cell):
            outcome = self._run(cell, LAST)
            if outcome.exit_code or not self._reuse(cell):
                code = outcome.exit_code or 1
                cell.state, cell.error = "failed", f"exit code {code}; `pairmill show {cell.run_ids[-1]}` has the error"
                failed[cell.variant] = f"not run, since seed {cell.seed} failed"
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
        if all(one.action == "reuse" for one in planned.stages):
            cell.state, cell.error = "complete", ""
        return cell.state == "complete"

    def _plan(self, cell: Cell, until: str = LAST) -> "RunPlan":
        from flows.planning.plan import plan_run

        config = load_config(self.experiment.base, self._settings(cell), until, writes=False)
        planned = plan_run(config, self.home, config.execution.workers or count_cores(), until=until)
        pack = next(one for one in planned.stages if one.stage == "pack")
        if pack.action == "reuse" and pack.estimate.kept:
            self.record.rows[cell.variant] = int(pack.estimate.kept)
        return planned

    def _settings(self, cell: Cell) -> tuple[str, ...]:
        variant = self._variant(cell)
        epochs, rows = self.record.epochs.get(cell.variant), self.record.rows.get(cell.variant)
        if cell.samples is not None and rows:
            epochs = max(1, round(cell.samples / rows))
        equal = (f"{EPOCHS}={epochs}",) if epochs is not None else ()
        return (*variant.settings, f"{SEED}={cell.seed}", *equal)

    def _variant(self, cell: Cell) -> Variant:
        return next(one for one in self.experiment.variants if one.name == cell.variant)

    def _equalise(self, *, run: bool) -> tuple[int, dict[str, str]]:
        """Set the epochs of each variant so that all see as many samples as the first one.

        Args:
            run: make the datasets that are missing; without it, the epochs of their variants stay as they are.

        Returns: an exit code, and the variants whose dataset failed, with the error.
        """
        if self.experiment.file.control.equal != "samples_seen":
            return 0, {}
        code, failed, rows = 0, dict[str, str](), self.record.rows
        for cell in self.record.cells[: len(self.experiment.variants)]:
            stages = self._plan(cell, "pack").stages
            if run and any(one.action != "reuse" for one in stages):
                outcome = self._run(cell, "pack")
                self._plan(cell, "pack")
                if outcome.exit_code:
                    code, failed[cell.variant] = code or outcome.exit_code, "its dataset failed"
        first = self.experiment.variants[0]
        if first.name in rows:
            samples = rows[first.name] * first.config.train.epochs
            self.record.epochs = {name: max(1, round(samples / count)) for name, count in rows.items()}
        elif run:
            why = f"not run, since the number of samples is that of {first.name}, whose dataset failed"
            failed = {one.name: failed.get(one.name, why) for one in self.experiment.variants}
        return code, failed


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
