"""The places of a training's pairs in its batches, which stay when pairs are removed from its dataset.

Legend: N pairs of the first training, in the order of its shards.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dataops.errors import ConfigError, ContractError, CorruptPart
from dataops.parquet import read_parquet
from training.config import TrainConfig
from training.data.epoch_order import EpochOrder, Sampling, Windows
from training.data.sample_index import SampleIndex
from training.data.sampling_plan import Plan
from training.data.shard_index import hash_identity
from training.job import Job

FILE = "forget-places.parquet"
_CONTENT = ("key", "sha256", "caption", "caption_source", "captions", "sampling_probability", "face_bboxes")
"""Columns of a row that decide what a training reads; a version that a takedown makes has the same rows."""


@dataclass(frozen=True)
class Places:
    """The pairs of a training, and of its replays. Uids are there as hashes only."""

    shards: np.ndarray
    """Number of the shard of each (N,), ascending."""
    keys: np.ndarray
    """Hashes of the keys in the shards (N,), uint64."""
    identities: np.ndarray
    """Hashes of the uids (N,), uint64, by which an epoch draws samples."""
    probabilities: np.ndarray
    """Probabilities of being drawn (N,)."""
    removed: np.ndarray
    """Whether each pair is removed, so that its place stays empty (N,)."""

    contents: np.ndarray
    """Hashes of what a training reads of each (N,), uint64."""

    @classmethod
    def of_tables(cls, tables: Iterable[pa.Table]) -> "Places":
        """Return the places of a packed dataset, by the rows of each of its shards."""
        numbered = [(number, row) for number, table in enumerate(tables) for row in table.to_pylist()]
        rows = [row for _, row in numbered]
        probabilities = [row["sampling_probability"] for row in rows]
        return cls(
            np.array([number for number, _ in numbered], np.int64),
            _hash_all(row["key"] for row in rows),
            _hash_all(row["uid"] for row in rows),
            np.array([1.0 if one is None else one for one in probabilities], np.float64),
            np.zeros(len(rows), np.bool_),
            _hash_all(repr([row.get(name) for name in _CONTENT]) for row in rows),
        )

    @classmethod
    def read(cls, source: Any, name: str) -> "Places":
        """Read the file of a training. Raises: CorruptPart."""
        table = read_parquet(source, name)
        if missing := sorted({*cls.__dataclass_fields__} - {*table.column_names}):
            raise CorruptPart(f"{name} has no {', '.join(missing)}; make the training again with --force train")
        return cls(*(table[name].to_numpy() for name in cls.__dataclass_fields__))

    def write(self, path: Path) -> None:
        """Write the file of a training."""
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({name: getattr(self, name) for name in self.__dataclass_fields__}), path)

    def without(self, left: "Places") -> "Places":
        """Return these places, of which those stay empty whose pairs a later version of the dataset does not have.

        Raises: ConfigError if it has a pair that these do not have, or another image or caption: it is no later version.
        """
        trained = ~self.removed
        if new := len(np.setdiff1d(left.keys, self.keys[trained])):
            raise ConfigError(f"train.forget.base: the dataset has {new:,} pairs that the base was not trained on")
        if other := len(np.setdiff1d(left.contents, self.contents[trained])):
            raise ConfigError(f"train.forget.base: {other:,} pairs of the dataset differ from those of the base")
        return replace(self, removed=~np.isin(self.keys, left.keys))


def _hash_all(texts: Iterable[str]) -> np.ndarray:
    return np.array([hash_identity(None, text) for text in texts], np.uint64)


@dataclass(frozen=True, eq=False)
class PhasedPlan(Plan):
    """A plan of several phases, each with all its epochs on its own shards."""

    starts: tuple[int, ...] = ()
    """First sample of each phase, and the number of all."""

    @property
    def phase_steps(self) -> list[int]:
        """Steps before each phase."""
        return self._first_steps[: -1 : self.config.epochs]

    @cached_property
    def _order(self) -> Callable[[int], EpochOrder]:
        def order(epoch: int) -> EpochOrder:
            first, end = self._range(epoch)
            return EpochOrder(self.seed, end - first, self.sampling, None, epoch, first=first)

        return lru_cache(maxsize=2)(order)

    def _range(self, epoch: int) -> tuple[int, int]:
        phase = epoch // self.config.epochs
        return self.starts[phase], self.starts[phase + 1]

    def count_epochs(self) -> tuple[int, ...]:
        ranges = map(self._range, range(self.config.epochs * (len(self.starts) - 1)))
        if self.sampling is None:
            return tuple(end - first for first, end in ranges)
        return tuple(self.sampling.count(self.seed, epoch, *span) for epoch, span in enumerate(ranges))


def make_plan(config: TrainConfig, seed: int, places: Places, sampling: Sampling | None = None) -> Plan:
    """Return the plan of a training by the places of its pairs.

    Args:
        sampling: where it is not that of the places, since pairs are held out.

    Raises: ConfigError if there are fewer shards than phases.
    """
    settings: Any = getattr(config, "forget", None)
    sizes, count = np.bincount(places.shards), len(places.keys)
    if sampling is None and (places.probabilities < 1).any():
        sampling = Sampling(places.probabilities, places.identities)
    if settings.phases == 1:
        windows = Windows(sizes, config.shuffle_shards) if config.shuffle_shards else None
        plan = Plan(count, config, seed, sampling, windows)
    else:
        plan = PhasedPlan(count, config, seed, sampling, starts=cut_phases(sizes, settings.phases))
    kept = choose_steps(find_first_visits(plan), settings.checkpoints)
    return replace(plan, kept_steps=kept.union(plan.phase_steps if isinstance(plan, PhasedPlan) else ()) - {0})


def cut_phases(sizes: np.ndarray, phases: int) -> tuple[int, ...]:
    """Return the first sample of each phase, and the number of all, by the samples of each shard.

    Raises: ConfigError if there are fewer shards than phases.
    """
    if len(sizes) < phases:
        raise ConfigError(
            f"train.forget.phases: {len(sizes)} shards cannot be dealt to {phases} phases; lower pack.shard_size or phases"
        )
    ends = np.concatenate([[0], np.cumsum(sizes)])
    return tuple(int(ends[len(sizes) * phase // phases]) for phase in range(phases + 1))


def find_phase_step(plan: Plan, sample: int) -> int:
    """Return the number of steps before the phase of a sample."""
    return plan.phase_steps[bisect_right(plan.starts, sample) - 1] if isinstance(plan, PhasedPlan) else 0


def count_start_shards(job: Job, index: SampleIndex) -> int:
    """Return the number of the dataset's shards whose pairs are those of the first phase."""
    settings: Any = getattr(job.train, "forget", None)
    places = read_job_places(job)
    first = cut_phases(np.bincount(places.shards), settings.phases)[1]
    return int(np.searchsorted(np.cumsum(index.sizes), int((~places.removed[:first]).sum()), "right"))


def find_first_visits(plan: Plan) -> np.ndarray:
    """Return the step (from 1) in which each sample is first in a batch (N,); one after the last for those never drawn."""
    found = np.full(plan.samples, plan.total_steps + 1)
    left = plan.samples
    for step in range(1, plan.total_steps + 1):
        samples = plan.batch(step, 0, 1)[1]
        new = samples[found[samples] > step]
        found[new] = step
        left -= len(new)
        if not left:
            break
    return found


def choose_steps(first_visits: np.ndarray, count: int) -> frozenset[int]:
    """Return the steps after which checkpoints are kept: each before the first visit of an equal share of the samples."""
    ordered = np.sort(first_visits)
    steps = {int(ordered[number * len(ordered) // count]) - 1 for number in range(count)}
    return frozenset(steps - {0})


def read_job_places(job: Job) -> Places:
    """Return the places in the folder of a job. Raises: ConfigError if it has none."""
    try:
        with (job.output / FILE).open("rb") as file:
            return Places.read(file, FILE)
    except FileNotFoundError as error:
        raise ConfigError(f"train.forget: {job.output} has no {FILE}, which the stage `train` writes") from error


def change_plan(plan: Plan, job: Job, index: SampleIndex) -> Plan:
    """Return the plan of the places in the job's folder, with the samples of the dataset that has them now.

    Raises: ContractError if shards and places do not fit.
    """
    places = read_job_places(job)
    keys = _hash_all(map(index.key, range(len(index))))
    order = np.argsort(keys)
    at = np.searchsorted(keys, places.keys, sorter=order)
    found = order[np.minimum(at, len(order) - 1)]
    is_there = keys[found] == places.keys
    if int(is_there.sum()) != len(keys) or (is_there == places.removed).any():
        raise ContractError(
            f"train.forget: the shards have {len(keys):,} samples that can be indexed, and {FILE} names "
            f"{int((~places.removed).sum()):,}; make the dataset again"
        )
    sampling = None
    if plan.sampling is not None:
        drawn = np.where(is_there, plan.sampling.probabilities[found], places.probabilities)
        sampling = Sampling(drawn, places.identities)
    made = make_plan(job.train, job.seed, places, sampling)
    return replace(made, config=plan.config, places=np.where(is_there, found, -1))


def list_shards(names: Sequence[str]) -> list[str]:
    """Return the Parquet parts of a dataset's rows, in the order of the shards."""
    return sorted(name for name in names if name.startswith("part-") and name.endswith(".parquet"))
