"""Move rows to the partition that they belong to, between the maps of a stage, through tables in the store.

    map        writer 0  [p0|p1|p2|p3]     each writer (a task) writes one table, ordered by partition
               writer 1  [p0|p1|p2|p3]
               writer 2  [p0|p1|p2|p3]
    merge      writers 0, 1  [p0|p1] [p2|p3]     only where the pieces would be many and small
               writer 2      [p0|p1] [p2|p3]
    reduce     p0, p1, p2, p3              each reads its piece of each table, in the order of the writers

The tables are not synced to the disk. What a power loss breaks is found by its size when the stage resumes, or by its
checksum when it is read, and the task that wrote it is repeated (dataops.snapshot.Draft.put_scratch).

To return verdicts to where the rows came from is the same exchange in the other direction: its writers are the partitions.

Each of W writers has a piece for each of P partitions, so W x P pieces would be read, and both grow with the rows. A merge
task reads neighbouring partitions of neighbouring writers, one range of each table, and writes one table. `plan_merges`
chooses how many of both, so that few requests are made and a task's rows fit in memory. So each row passes through the
store at most twice, in pieces of megabytes. What a reduce reads, and in which order, is the same with and without merges.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dataops.errors import StorageError
from dataops.snapshot import Draft, Record
from dataops.storage.partition_file import (
    BrokenTable,
    encode_partitions,
    read_only_partition,
    read_partitions,
    series_from_numpy,
)
from tasks.engine.context import Context
from tasks.engine.map_parts import map_parts

DIRECT_PIECES = 1 << 12
"""Up to so many pieces are read without a merge."""
_COPIES = 4
"""Maximum number of copies of its rows that a merge task holds, while they are ordered and written."""
_TASK_REQUESTS = 8
"""Requests of a merge task besides its reads: it writes its table and its record."""


class Job(Protocol):
    """What all steps of a stage share."""

    @property
    def layout(self) -> str:
        """Return what the stage's scratch tables depend on, as a part of file names: numbers of writers and partitions."""
        ...


J = TypeVar("J", bound=Job)
T = TypeVar("T")


@dataclass(frozen=True)
class Step(Generic[J]):
    """A task: one function on one unit of a stage's rows, such as a batch of parts, or a partition."""

    function: Callable[[Draft, "Step[J]"], Record | None]
    """It returns None if the step has neither parts nor facts."""
    number: int
    """Number of the unit."""
    job: J
    inputs: tuple[Any, ...] = ()
    """What the unit consists of, where its number does not say it."""

    @property
    def id(self) -> str:
        """Name of the task; a record of another layout is not reused."""
        return f"{self.function.__name__}-{self.job.layout}-{self.number:05d}"


def run_step(draft: Draft, step: Step[Any]) -> Record:
    """Run a step. Worker processes call this function."""
    return step.function(draft, step) or Record(task=step.id)


def run_steps(steps: Sequence[Step[Any]], rows: int, draft: Draft, context: Context) -> list[Record]:
    """Run the steps in workers, so that this process's memory does not grow with the rows; few rows are run here."""
    if rows > context.inline_rows:
        return map_parts(run_step, steps, draft, context)
    records, finished = list[Record](), draft.resume(step.id for step in steps)
    for number, step in enumerate(steps, 1):
        records.append(finished.get(step.id) or draft.finish(run_step(draft, step)))
        context.progress(number, len(steps), "")
    return records


def group_units(values: Sequence[T], sizes: Sequence[int], limit: int) -> list[tuple[T, ...]]:
    """Return groups of consecutive values, each with a total size of at most `limit`, or of a single larger value."""
    groups, total = list[list[T]](), 0
    for value, size in zip(values, sizes, strict=True):
        if not groups or total + size > limit:
            groups.append([])
            total = 0
        groups[-1].append(value)
        total += size
    return list(map(tuple, groups))


class Merges(NamedTuple):
    """How many tables and partitions a merge task reads; (1, all) is an exchange without merges."""

    writers: int
    partitions: int


@lru_cache(maxsize=256)
def plan_merges(
    writers: int, partitions: int, expected_bytes: int, memory_bytes: int, direct: int = DIRECT_PIECES
) -> Merges:
    """Return the merges with the fewest requests whose rows fit in memory.

    Args:
        expected_bytes: size of all rows of the exchange.
        memory_bytes: memory of a merge task.
        direct: maximum pieces that are read without merges.
    """
    best, fewest = Merges(1, partitions), writers * partitions
    if fewest <= direct:
        return best
    for groups in range(1, partitions + 1):
        size = -(-partitions // groups)
        fitting = memory_bytes * writers * partitions // max(expected_bytes * size * _COPIES, 1)
        batch = min(max(fitting, 1), writers)
        batches, groups_left = -(-writers // batch), -(-partitions // size)
        requests = writers * groups_left + batches * (partitions + groups_left * _TASK_REQUESTS)
        if requests < fewest:
            best, fewest = Merges(batch, size), requests
    return best


@dataclass(frozen=True)
class Exchange:
    """An exchange from `writers` tasks, which are numbered from 0, to `partitions` tasks."""

    kind: str
    """Name of its tables."""
    writers: int
    partitions: int
    expected_bytes: int
    """Expected size of all rows."""
    memory_bytes: int
    """Memory of one task."""

    @property
    def merges(self) -> Merges:
        """Return how the tables are merged."""
        return plan_merges(self.writers, self.partitions, self.expected_bytes, self.memory_bytes)

    @property
    def layout(self) -> str:
        """Return the names of the merged tables without their numbers."""
        return f"{self._tables}-{self.merges.writers}x{self.merges.partitions}"

    @property
    def _tables(self) -> str:
        return f"{self.kind}-{self.writers}x{self.partitions}"

    def write(self, draft: Draft, writer: int, rows: pl.DataFrame, partitions: NDArray[Any] | pl.Series | str) -> None:
        """Write the rows of one writer.

        Args:
            partitions: the partition of each row, or a column of 64-bit hashes that decide it. The rows of one partition
                keep their order.
        """
        numbers = number_partitions(rows[partitions], self.partitions) if isinstance(partitions, str) else partitions
        _put(draft, self._name(writer), rows, numbers, self.partitions)

    def read(self, draft: Draft, partition: int) -> pl.DataFrame:
        """Return the rows of a partition in the order of their writers, with the writer's number in the column `part`.

        Raises: as read_frame.
        """
        names, number = self._find(partition)
        return self._read(draft, names, number)

    def read_early(self, draft: Draft, partition: int, writers: int) -> pl.DataFrame:
        """Return the rows of a partition from the first writers, while later ones have not written yet."""
        return self._read(draft, [self._name(writer) for writer in range(writers)], partition)

    def read_tables(self, draft: Draft, partition: int) -> Iterator[pl.DataFrame]:
        """Yield the rows of a partition as `read` does, one table at a time, for a reduce that keeps few of them."""
        names, number = self._find(partition)
        return (self._read(draft, names, number, table) for table in range(len(names)))

    def read_written(self, draft: Draft, writer: int) -> pl.DataFrame:
        """Return the rows that one writer wrote, by partition, without `part`. Raises: as read_frame."""
        return _read_partitions(draft, [self._name(writer)], 0, self.partitions)[0]

    def merge_steps(self) -> list[Step["Exchange"]]:
        """Return the steps to run between the writers and the readers; none for a small exchange."""
        if self.merges.writers == 1 and self.merges.partitions == self.partitions:
            return []
        batches = -(-self.writers // self.merges.writers)
        return [Step(merge_tables, number, self) for number in range(batches * self._groups)]

    @property
    def _groups(self) -> int:
        return -(-self.partitions // self.merges.partitions)

    def _name(self, writer: int) -> str:
        return f"{self._tables}-{writer:05d}.table"

    def _merged_name(self, number: int) -> str:
        return f"{self.layout}-{number:05d}.table"

    def _find(self, partition: int) -> tuple[list[str], int]:
        """Return the tables that hold a partition, and its number in them."""
        steps = self.merge_steps()
        if not steps:
            return [self._name(writer) for writer in range(self.writers)], partition
        group, number = divmod(partition, self.merges.partitions)
        return [self._merged_name(index) for index in range(group, len(steps), self._groups)], number

    def _read(self, draft: Draft, names: Sequence[str], number: int, table: int | None = None) -> pl.DataFrame:
        chosen = names if table is None else names[table : table + 1]
        rows, sizes = _read_partitions(draft, chosen, number, 1)
        return rows if "part" in rows.columns else _with_part(rows, sizes, table or 0)


class ExchangeJob(Job, Protocol):
    """What the steps of a stage with exchanges share."""

    def exchange(self, kind: str) -> Exchange:
        """Return an exchange of the stage by its name."""
        ...


E = TypeVar("E", bound=ExchangeJob)


def send(
    draft: Draft, step: Step[E], kind: str, rows: pl.DataFrame, partitions: NDArray[Any] | pl.Series | str
) -> None:
    """Write the rows of a step to an exchange: see Exchange.write."""
    step.job.exchange(kind).write(draft, step.number, rows, partitions)


def receive(draft: Draft, step: Step[E], kind: str) -> pl.DataFrame:
    """Return the rows that an exchange brings a step: see Exchange.read."""
    return step.job.exchange(kind).read(draft, step.number)


def merge_tables(draft: Draft, step: Step[Exchange]) -> None:
    """Merge some neighbouring partitions of the tables of some neighbouring writers into one table."""
    exchange, merges = step.job, step.job.merges
    batch, group = divmod(step.number, exchange._groups)
    writers = range(exchange.writers)[batch * merges.writers : (batch + 1) * merges.writers]
    partitions = range(exchange.partitions)[group * merges.partitions : (group + 1) * merges.partitions]
    names = [exchange._name(writer) for writer in writers]
    rows, sizes = _read_partitions(draft, names, partitions.start, len(partitions))
    numbers = np.repeat(np.tile(np.arange(len(partitions)), len(writers)), sizes.ravel())
    rows = _with_part(rows, sizes, writers.start)
    _put(draft, exchange._merged_name(step.number), rows, numbers, len(partitions))


def number_partitions(hashes: pl.Series, count: int) -> NDArray[np.uint64]:
    """Return the partition of each 64-bit hash: `count` partitions divide their range evenly."""
    return ((hashes.to_numpy() >> np.uint64(32)) * np.uint64(count)) >> np.uint64(32)


def put_frame(draft: Draft, name: str, rows: pl.DataFrame) -> None:
    """Write rows as a scratch table that is not partitioned."""
    draft.put_scratch(name, lambda: encode_partitions(rows, [rows.height]))


def read_frame(draft: Draft, name: str) -> pl.DataFrame:
    """Return the rows of a scratch table that is not partitioned.

    Raises: StorageError (75) if the table is lost or broken: the next attempt repeats the task that wrote it. CorruptPart
        if it is broken in a remote store, whose tables a power loss cannot break.
    """
    with repeat_writer(draft):
        return read_only_partition(draft.store, draft.scratch(name))


def _read_partitions(
    draft: Draft, names: Sequence[str], first: int, count: int
) -> tuple[pl.DataFrame, NDArray[np.int64]]:
    with repeat_writer(draft):
        return read_partitions(draft.store, [draft.scratch(name) for name in names], first, count)


@contextmanager
def repeat_writer(draft: Draft) -> Iterator[None]:
    """Delete a scratch table that turns out to be broken, so that the record of its task does not count any more."""
    try:
        yield
    except BrokenTable as error:
        if draft.store.is_remote:
            raise
        draft.store.delete([error.name])
        raise StorageError(f"{error.name} was not a whole scratch table; the next attempt writes it again") from error


def _put(draft: Draft, name: str, rows: pl.DataFrame, partitions: NDArray[Any] | pl.Series, count: int) -> None:
    numbers = np.asarray(partitions).astype(np.uint16 if count <= 1 << 16 else np.uint32)  # 16 bits sort fastest
    sizes = np.bincount(numbers, minlength=count).tolist()
    ordered = rows[np.argsort(numbers, kind="stable")] if (numbers[1:] < numbers[:-1]).any() else rows
    draft.put_scratch(name, lambda: encode_partitions(ordered, sizes))


def _with_part(rows: pl.DataFrame, sizes: NDArray[np.int64], first: int) -> pl.DataFrame:
    parts = np.repeat(np.arange(first, first + len(sizes), dtype=np.uint32), sizes.sum(axis=1))
    return rows.with_columns(part=series_from_numpy(parts))
