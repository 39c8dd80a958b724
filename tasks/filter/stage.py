"""Filter pairs by everything that text and URLs decide, before an image is downloaded.

The stage is a sequence of maps, which `make` has in order. Each map runs one function over tasks; a task is a slice of
an input part, or one partition of the rows by hash. Between the maps, an exchange through scratch tables
(tasks.engine.partition_tables) moves hashes to their partition, and drop reasons back to their slice. Memory is
bounded, since no task sees more than its slice or partition.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dataops.digest import text_sha256
from dataops.errors import ConfigError, ContractError
from dataops.formatting import format_share
from dataops.snapshot import Counts, Draft, Input, Record, find_manifest
from dataops.text.duplicates import KEY_BYTES
from tasks.engine.context import Context
from tasks.engine.map_parts import map_parts, shared_workers
from tasks.engine.map_progress import StageProgress
from tasks.engine.partition_steps import run as run_step
from tasks.engine.partition_steps import run_steps
from tasks.engine.partition_tables import read_one, table_name, write_partitions
from tasks.engine.stage import Stage, StageOutput, Work, merge_records
from tasks.filter import near_captions, steps, write
from tasks.filter.config import FilterConfig
from tasks.filter.queries import read_queries
from tasks.filter.steps import NAME, FilterTask, PartSlice
from tasks.filter.summary import merge_balance, merge_parts

logger = logging.getLogger(__name__)

VERSION = 6
_COPIES = 6
"""Maximum number of copies of a partition's keys in memory, while they are sorted and joined."""
_PARTITION_ROWS = 1 << 20
"""Maximum rows of a partition, so that all workers are busy. More partitions cost more reads of each scratch table."""
_MIN_PARTITION_ROWS = 1 << 17
"""Rows below which another partition costs more than a further worker saves."""

_RULES_WEIGHT = 4
"""Cost of the first map, which detects languages, relative to each other one; for the progress."""

TaskFunction = Callable[[Draft, FilterTask], Record]
Step = tuple[Callable[[TaskFunction], None], TaskFunction]
"""A method of _FilterTasks that maps, and what it maps."""


def make(work: Work[FilterConfig]) -> StageOutput:
    """Apply the rules, drop duplicates, balance over queries, and write the kept and the dropped parts.

    Raises: ContractError when no row is kept, or more rows are dropped than `max_drop_fraction` allows.
    """
    config = work.config
    with shared_workers(work.context) as context:
        tasks = _FilterTasks(work, context)
        if not tasks.are_written():
            tasks.map_all(_list_steps(tasks, config))
            if config.balance is not None:
                tasks.sum_queries()
        records = tasks.write_parts()
        parts, counts = merge_records(records)
        check_kept_rows(counts, config.max_drop_fraction)
        return StageOutput(parts, counts, tasks.facts(records))


def _list_steps(tasks: "_FilterTasks", config: FilterConfig) -> list["Step"]:
    """Return the maps before the parts are written, in their order."""
    slices, partitions = tasks.map_slices, tasks.map_partitions
    maps: list[Step] = [(slices, steps.apply_rules)]
    if config.max_caption_count is not None:
        maps.append((partitions, steps.find_frequent_captions))
    maps += [(tasks.map_seen_parts, steps.put_seen_urls), (partitions, steps.drop_duplicates)]
    if "caption" in config.dedupe:
        maps += [(slices, steps.put_by_caption), (partitions, steps.drop_duplicate_captions)]
    if config.near_captions is not None:
        maps += [
            (slices, near_captions.put_normal_forms),
            (partitions, near_captions.drop_same_captions),
            (slices, near_captions.put_signatures),
            (partitions, near_captions.find_candidates),
            (slices, near_captions.put_candidates),
            (partitions, near_captions.compare_captions),
            (tasks.map_partitions_in_order, near_captions.drop_near_captions),  # each reads what those before dropped
        ]
    if config.balance is not None:
        maps.append((slices, write.count_queries))
    return maps


class _FilterTasks:
    """Maps functions over the slices and the partitions of one snapshot that is being made."""

    def __init__(self, work: Work[FilterConfig], context: Context):
        self.draft, self.config, self.context = work.draft, work.config, context
        parts = work.inputs["extract"].named("part-", ".parquet")
        self.names = [work.inputs["extract"].path(part.name) for part in parts]
        self.slices = cut_slices([part.rows for part in parts])
        self.seen_parts = tuple(_find_seen_parts(work))
        self.rows = sum(part.rows for part in parts)
        self.neighbours = context.workers_per_machine or context.workers
        row_bytes = KEY_BYTES
        if self.config.near_captions is not None:
            row_bytes = max(row_bytes, near_captions.bytes_per_row(self.config.near_captions))
        needed = partition_bits(self.rows, self.neighbours, self.config.memory_limit_bytes, row_bytes)
        self.bits = resume_partition_bits(work.draft, needed)

    def map_all(self, maps: Sequence[Step]) -> None:
        """Run the maps in their order; the last part of the progress is for `write_parts`."""
        stage, progress = self.context, StageProgress(self.context, _RULES_WEIGHT + len(maps))
        for number, (map_tasks, function) in enumerate(maps):
            name = function.__name__.replace("_", " ")
            self.context = progress.of_map(name, 1 if number else _RULES_WEIGHT)
            map_tasks(function)
        self.context = replace(stage, progress=progress.of_map("write parts", 1).progress)

    def map_slices(self, function: TaskFunction) -> None:
        """Map over the slices of all input parts."""
        map_parts(run_step, self._slice_tasks(function), self.draft, self.context)

    def map_partitions(self, function: TaskFunction) -> None:
        """Map over the partitions."""
        run_steps(self._partition_tasks(function), self.rows, self.draft, self.context)

    def map_partitions_in_order(self, function: TaskFunction) -> None:
        """Map over the partitions, one after the other."""
        for task in self._partition_tasks(function):
            run_steps([task], self.rows, self.draft, self.context)

    def map_seen_parts(self, function: TaskFunction) -> None:
        """Map over the parts of the datasets that `seen` names."""
        tasks = [self._task(function, number) for number in range(len(self.seen_parts))]
        map_parts(run_step, tasks, self.draft, self.context)

    def write_parts(self) -> list[Record]:
        """Write the kept and the dropped part of each input part, and show progress."""
        return map_parts(run_step, self._write_tasks(), self.draft, self.context)

    def are_written(self) -> bool:
        """Return whether all parts are written, so that no scratch table is needed again."""
        return all(self.draft.done(task.id) for task in self._write_tasks())

    def sum_queries(self) -> None:
        """Add up the counts of `count_queries` over all slices."""
        write_partitions(self.draft, "query-counts.table", pl.DataFrame({"count": self._sum_counts("queries")}))

    def facts(self, records: Sequence[Record]) -> dict[str, Any]:
        """Return the facts of the manifest: summaries of the rows, and how many rows each rule alone would drop.

        Args:
            records: those of `write_parts`.
        """
        alone = Counter[str]()
        for task in self._slice_tasks(steps.apply_rules):
            record = self.draft.done(task.id)
            alone.update(record.facts["alone"] if record else {})
        names = (self.draft.scratch(write.summary_name(number)) for number in range(len(self.names)))
        summaries = (json.loads(self.draft.store.read(name)) for name in names)
        facts: dict[str, Any] = {**merge_parts(summaries), "alone": dict(sorted(alone.items()))}
        if self.config.balance is not None:
            before = read_one(self.draft, "query-counts.table", 0)["count"].to_numpy()
            slices = [facts for record in records for facts in record.facts["balance"]]
            queries = read_queries(Path(self.config.balance.queries))
            facts["balance"] = merge_balance(queries, before, self._sum_counts("queries-left"), slices)
        return facts

    def _sum_counts(self, kind: str) -> NDArray[Any]:
        numbers = (part_slice.number for slices in self.slices for part_slice in slices)
        counts = (read_one(self.draft, table_name(kind, number), 0)["count"].to_numpy() for number in numbers)
        return sum(counts, np.zeros(1, np.int64))

    def _slice_tasks(self, function: TaskFunction) -> list[FilterTask]:
        parts = zip(self.names, self.slices, strict=True)
        return [self._task(function, one.number, name, (one,)) for name, slices in parts for one in slices]

    def _partition_tasks(self, function: TaskFunction) -> list[FilterTask]:
        return [self._task(function, number) for number in range(1 << self.bits)]

    def _write_tasks(self) -> list[FilterTask]:
        parts = zip(self.names, self.slices, strict=True)
        return [self._task(write.write_parts, number, *part) for number, part in enumerate(parts)]

    def _task(
        self, function: TaskFunction, number: int, part: str = "", slices: tuple[PartSlice, ...] = ()
    ) -> FilterTask:
        total = sum(map(len, self.slices))
        return FilterTask(
            function, number, part, total, self.bits, self.seen_parts, self.config, slices, self.neighbours
        )


def cut_slices(rows: Sequence[int]) -> list[tuple[PartSlice, ...]]:
    """Cut parts with these numbers of rows into slices.

    The captions of a page at the boundary of two slices are evidence of its language in their own slice only.
    """
    found: list[tuple[PartSlice, ...]] = []
    size = steps.SLICE_ROWS
    for total in rows:
        first = sum(map(len, found))
        starts = range(0, max(total, 1), size)
        found.append(tuple(PartSlice(first + i, start, min(size, total - start)) for i, start in enumerate(starts)))
    return found


def partition_bits(rows: int, workers: int, memory_limit_bytes: int, row_bytes: int = KEY_BYTES) -> int:
    """Return the number of bits of a hash that number the partitions: there are 2^bits.

    `workers` partitions fit in memory together, none has many more than _PARTITION_ROWS rows, and each worker has one
    where there are rows enough.
    """
    needed = rows * row_bytes * _COPIES * workers
    count = max(
        -(-needed // memory_limit_bytes), -(-rows // _PARTITION_ROWS), min(workers, rows // _MIN_PARTITION_ROWS), 1
    )
    return (count - 1).bit_length()


def resume_partition_bits(draft: Draft, needed: int) -> int:
    """Return the partition bits of the attempt that is resumed, or `needed` where that is more.

    The number never falls, so no scratch table of an earlier attempt is mistaken for one of this attempt.
    """
    name = draft.scratch("partition-bits.json")
    before = json.loads(draft.store.read(name)) if draft.store.size(name) else 0
    if needed > before:
        draft.store.put(name, json.dumps(needed).encode())
    return max(needed, before)


def check_kept_rows(counts: Counts, max_drop_fraction: float) -> None:
    """Raise ContractError with the rows by drop reason when no row is kept, or too large a share is dropped."""
    dropped = counts.input - counts.kept
    if counts.kept and dropped <= max_drop_fraction * counts.input:
        return
    lines = [f"  {reason:<16} {n:>12,}" for reason, n in sorted(counts.dropped.items(), key=lambda x: (-x[1], x[0]))]
    what = f"drops {format_share(dropped, counts.input)}, over max_drop_fraction" if counts.kept else "keeps no row"
    raise ContractError("\n".join([f"filter {what}: {counts.kept:,} of {counts.input:,} pairs are left", *lines]))


def external_inputs(config: FilterConfig) -> list[Input]:
    """Return the list of queries and the lists of unsafe words as inputs, where the config uses them."""
    inputs: list[Input] = []
    if config.balance is not None:
        # The digest is of the queries: another version of Parquet's writer gives other bytes of the file.
        digest = text_sha256("\n".join(read_queries(Path(config.balance.queries))))
        inputs.append(Input(stage="source", key=Path(config.balance.queries).name, digest=digest))
    if config.unsafe_languages:
        from dataops.text.unsafe_words import word_list_version  # numba takes 0.7 s to import

        inputs.append(Input(stage="source", key="unsafe words", digest=word_list_version()))
    return inputs


def _find_seen_parts(work: Work[FilterConfig]) -> list[str]:
    names: list[str] = []
    for key in work.config.seen:
        manifest = find_manifest(work.context.store, "pack", key)
        if manifest is None:
            raise ConfigError(f"filter.seen: there is no complete dataset pack/{key} in {work.context.store.uri}")
        names += [manifest.path(part.name) for part in manifest.named("part-", ".parquet")]
    return names


FILTER = Stage(name=NAME, version=VERSION, make=make, external_inputs=external_inputs)
