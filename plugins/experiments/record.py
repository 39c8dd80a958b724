"""The record of an experiment: the object `experiments/NAME.json` of the store.

What is finished is found by the keys of snapshots, so an experiment continues after a kill. The record names what `show`
reads, and has the numbers that were measured once and decide the settings of later calls.
"""

import json
import logging
from dataclasses import asdict, dataclass, field
from typing import Literal

from dataops.store import Store
from plugins.experiments.config import NAME

logger = logging.getLogger(__name__)

CellState = Literal["waiting", "running", "complete", "failed", "stopped", "skipped", "ended"]


@dataclass
class Cell:
    """One variant with one seed."""

    variant: str
    seed: int
    settings: tuple[str, ...] = ()
    state: CellState = "waiting"
    """skipped: another training of its variant failed. ended: it would not change the
    decision."""
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
    base: str = ""
    """Path of the config that the variants change."""
    racing: bool = False
    epochs: dict[str, int] = field(default_factory=dict)
    """Epochs of each variant, where the control sets them."""
    shares: dict[str, float] = field(default_factory=dict)
    """Share of the pairs of a variant that are drawn, where the control sets it."""
    rates: dict[str, float] = field(default_factory=dict)
    """Samples per second of each variant's training of one epoch, where the control is that of time."""
    rows: dict[str, int] = field(default_factory=dict)
    """Pairs of each variant's dataset, where it is made."""
    kinds: dict[str, str] = field(default_factory=dict)
    """Digest of the kind of data and training of each variant (`describe_kind`)."""
    flow_run_id: str | None = None
    """Prefect's flow run of the last call."""

    @property
    def compared(self) -> list[Cell]:
        """Return the trainings that are compared: all but those of the ladder."""
        return [cell for cell in self.cells if cell.samples is None]

    @property
    def finished(self) -> list[Cell]:
        """Return the trainings whose snapshots are all complete."""
        return [cell for cell in self.cells if cell.state == "complete"]

    @property
    def seeds(self) -> int:
        """Return the number of trainings of a variant, where no one ends before."""
        return max(cell.seed for cell in self.compared) + 1

    def save(self, store: Store) -> None:
        """Write the record."""
        store.put(_path(self.name), json.dumps(asdict(self), indent=1, ensure_ascii=False).encode())


def load_record(name: str, store: Store) -> Record | None:
    """Return the record of an experiment; None if there is none, or it is damaged."""
    if NAME.fullmatch(name) is None or (data := store.find(_path(name))) is None:
        return None
    try:
        values = json.loads(data)
        cells = [Cell(**{**one, "settings": tuple(one["settings"])}) for one in values.pop("cells")]
        return Record(cells=cells, **values)
    except (AttributeError, ValueError, TypeError, KeyError):
        problem = "is no record of an experiment; run the experiment again: what is made is reused"
        logger.warning("%s/%s %s", store.uri, _path(name), problem)
        return None


def _path(name: str) -> str:
    return f"experiments/{name}.json"
