"""Filter pairs by everything that text and URLs decide, before an image is downloaded.

The stage is a sequence of maps, which `_FilterTasks.list_maps` has in order. Each map runs one function over batches (some
slices of the input parts), or over partitions of the rows by hash. Between the maps, an exchange (tasks.engine.exchange)
moves hashes to their partition, and drop reasons back to their batch. Memory is bounded, since no task sees more than
its batch or partition.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from dataops import plugins
from dataops.digest import text_sha256
from dataops.errors import ContractError, StorageError
from dataops.facts import FilteredParts, FilterFacts
from dataops.formatting import format_quantity, format_share, rank_counts
from dataops.snapshot import Counts, Draft, Input, Part, Record, read_table
from dataops.stages import SOURCE
from dataops.text.duplicates import KEY_BYTES
from dataops.text.query_list import read_queries
from tasks.engine.context import Context
from tasks.engine.exchange import Step, group_units, read_frame, run_step, run_steps
from tasks.engine.map_parts import map_parts, shared_workers
from tasks.engine.map_progress import StageProgress
from tasks.engine.stage import Stage, StageOutput, Work, merge_records
from tasks.filter import further_captions, steps, write
from tasks.filter.added_steps import Map, kinds_of_rows, used_steps
from tasks.filter.config import FilterConfig
from tasks.filter.steps import NAME, FilterJob, FilterStep, Known, PartSlice
from tasks.filter.summary import merge_balance, merge_parts
from tasks.growth.versions import Table
from tasks.lists.opt_outs import count_matches, put_lists, read_inputs, recall_lists

VERSION = 9
_COPIES = 6
"""Maximum number of copies of a partition's keys in memory, while they are sorted and joined."""
_MANY = 8
"""Batches per worker, so that the last ones do not keep all others waiting; more batches cost more requests."""
_MIN_PARTITION_ROWS = 1 << 17
"""Rows below which another partition costs more than a further worker saves."""

_RULES_WEIGHT = 4
"""Cost of the first map, which detects languages, relative to each other one; for the progress."""

TaskFunction = Callable[[Draft, FilterStep], Record | None]


class Sizes(NamedTuple):
    """Sizes of the units of a filter."""

    batch_rows: int
    """Maximum rows of a batch."""
    partitions: int
    slice_rows: int = steps.SLICE_ROWS
    """Maximum rows of a slice."""


def make(work: Work[FilterConfig], sizes: Sizes | None = None) -> StageOutput:
    """Apply the rules, drop duplicates, balance over queries, and write the kept and the dropped parts.

    Args:
        sizes: by default those of plan_sizes; the output does not depend on them.

    Raises: ContractError when no row is kept, or more rows are dropped than `max_drop_fraction` allows.
    """
    with shared_workers(work.context) as context:
        tasks = _FilterTasks(work, context, sizes)
        if not tasks.are_written():
            tasks.map_all()
        records = tasks.write_parts()
        parts, counts = merge_records(records)
        parts += tasks.put_query_counts()
        if counts.kept or work.config.base is None:
            check_kept_rows(counts, work.config.max_drop_fraction)
        return StageOutput(parts, counts, tasks.facts(records))


class _FilterTasks:
    """The tasks of one snapshot that is being made."""

    def __init__(self, work: Work[FilterConfig], context: Context, sizes: Sizes | None):
        self.draft, self.config, self.context = work.draft, work.config, context
        found = work.inputs["extract"].named("part-", ".parquet")
        parts = [(work.inputs["extract"].path(part.name), part.rows) for part in found]
        known, self.rows = _find_known(work), sum(part.rows for part in found)
        neighbours = context.workers_per_machine or context.workers
        limit = self.config.memory_limit_bytes
        rows = self.rows + sum(table.rows for tables in known.values() for table in tables)
        sizes = sizes or plan_sizes(rows, context.workers, limit // neighbours, _row_bytes(self.config))
        self.batches = cut_batches(parts, sizes.batch_rows, sizes.slice_rows)
        self.job = FilterJob(
            self.config,
            self.rows,
            len(self.batches),
            sizes.partitions,
            limit // neighbours,
            {
                name: count
                for step, _ in used_steps(self.config)
                for name, count in step.units(self.rows, limit).items()
            },
            put_lists(self.draft, recall_lists("filter.opt_out_lists", self.config.opt_out_lists, work.made_of)),
            {kind: _group(tables, sizes.batch_rows) for kind, tables in known.items()},
        )

    def list_maps(self) -> list[Map]:
        """Return the maps before the parts are written, in their order."""
        config, batches, once = self.config, self.batches, [()]
        partitions = [()] * self.job.partitions
        counts = [] if config.max_caption_count is None else ["captions"]
        maps = [Map(batches, steps.apply_rules, ["keys", *counts])]
        known = [
            (kind, number, *names)
            for kind, tables in self.job.known.items()
            if f"known-{kind}" in steps.EXCHANGES
            for number, names in enumerate(tables.batches)
        ]
        if known:
            maps += [Map(known, steps.put_known, list(dict.fromkeys(f"known-{kind}" for kind, *_ in known)))]
        if counts:
            maps += [
                Map(partitions, steps.find_frequent_captions, ["frequent"]),
                Map(once, steps.collect_frequent_captions),
            ]
        maps += [Map(partitions, steps.drop_duplicates, ["drop-reasons"])]
        if "caption" in config.dedupe:
            maps += [
                Map(batches, steps.put_by_caption, ["keys-by-caption"]),
                Map(partitions, steps.drop_duplicate_captions, ["drop-reasons-captions"]),
            ]
        for step, _ in used_steps(config):
            maps += step.maps(self.job, batches)
        if config.captions_per_image > 1:
            maps += [
                Map(batches, further_captions.put_captions, [further_captions.BY_URL]),
                Map(partitions, further_captions.collect_captions, [further_captions.BY_ROW]),
            ]
        if config.balance is not None:
            maps += [Map(batches, write.count_queries), Map(once, write.sum_query_counts)]
        return maps

    def map_all(self) -> None:
        """Run the maps in their order; the last part of the progress is for `write_parts`."""
        maps, stage = self.list_maps(), self.context
        progress = StageProgress(stage, _RULES_WEIGHT + len(maps))
        for number, one in enumerate(maps):
            name = one.function.__name__.replace("_", " ")
            context = progress.of_map(name, 1 if number else _RULES_WEIGHT)
            tasks = self._steps(one.function, one.units)
            for group in [[task] for task in tasks] if one.is_ordered else [tasks]:
                run_steps(group, self.rows, self.draft, context)
            for kind in one.exchanges:
                run_steps(self.job.exchange(kind).merge_steps(), self.rows, self.draft, context.without_progress())
        self.context = replace(stage, progress=progress.of_map("write parts", 1).progress)

    def write_parts(self) -> list[Record]:
        """Write the kept and the dropped part of each input part, and show progress."""
        return map_parts(run_step, self._write_steps(), self.draft, self.context)

    def put_query_counts(self) -> list[Part]:
        """Write how often each query occurs, for the next version of a dataset that grows."""
        if self.config.balance is None or self.config.base is None:
            return []
        counts = read_frame(self.draft, write.QUERY_COUNTS).select("query", "count").filter(pl.col("count") > 0)
        return [self.draft.put_table(write.QUERY_COUNTS_PART, counts.sort("query").to_arrow())]

    def are_written(self) -> bool:
        """Return whether all parts are written, and what `facts` reads is there, so that no map is needed again."""
        needed = [*self._write_steps(), *self._steps(steps.apply_rules, self.batches)]
        needed += self._steps(write.sum_query_counts, [()] if self.config.balance is not None else [])
        return len(self.draft.finished(task.id for task in needed)) == len(needed)

    def facts(self, records: Sequence[Record]) -> FilterFacts:
        """Return the facts of the manifest: summaries of the rows, and how many rows each rule alone would drop.

        Args:
            records: those of `write_parts`.
        """
        alone = Counter[str]()
        rules = self._steps(steps.apply_rules, self.batches)
        applied = self.draft.finished(task.id for task in rules)
        if len(applied) < len(rules):
            raise StorageError(f"filter {self.draft.key}: scratch tables were lost; the next attempt writes them again")
        for record in applied.values():
            alone.update(FilterFacts.of(record).alone)
        names = (self.draft.scratch(write.summary_name(task.number)) for task in self._write_steps())
        summaries = (json.loads(self.draft.store.read(name)) for name in names)
        facts: dict[str, Any] = {**merge_parts(summaries, self.config.sources), "alone": dict(sorted(alone.items()))}
        if self.job.opt_outs.names:
            parts = [part.name for record in records for part in record.parts if part.name.startswith("dropped-")]
            tables = (read_table(self.draft.store, self.draft.path(name), ["url", "page_url"]) for name in parts)
            lists = self.job.opt_outs.load(self.draft)
            facts["opt_out_lists"] = count_matches("filter.opt_out_lists", tables, lists)
        if self.config.balance is not None:
            before = read_frame(self.draft, write.QUERY_COUNTS)["count"].to_numpy()
            after = write.sum_counts(self.draft, "queries-left", len(records))
            queries = write.load_queries(self.config.balance.queries).texts
            slices = [one for record in records if (one := FilteredParts.of(record).balance)]
            facts["balance"] = merge_balance(queries, before, after, slices)
        return FilterFacts(**facts)

    def _steps(self, function: TaskFunction, units: Sequence[tuple[object, ...]]) -> list[FilterStep]:
        return [Step(function, number, self.job, inputs) for number, inputs in enumerate(units)]

    def _write_steps(self) -> list[FilterStep]:
        return self._steps(write.write_parts, join_batches(self.batches))


def plan_sizes(rows: int, workers: int, memory_bytes: int, row_bytes: int = KEY_BYTES) -> Sizes:
    """Return sizes with which a batch or a partition fits in the memory of a worker, and no worker is idle.

    Args:
        memory_bytes: memory of one worker.
        row_bytes: bytes of a row in its partition.
    """
    fitting = max(memory_bytes // (row_bytes * _COPIES), 1)
    partitions = max(-(-rows // fitting), min(workers, rows // _MIN_PARTITION_ROWS), 1)
    slices = min(fitting, -(-rows // (workers * _MANY))) // steps.SLICE_ROWS
    return Sizes(max(slices, 1) * steps.SLICE_ROWS, partitions)


def cut_batches(
    parts: Sequence[tuple[str, int]], batch_rows: int, slice_rows: int = steps.SLICE_ROWS
) -> list[tuple[PartSlice, ...]]:
    """Cut parts (store name, rows) into slices, and return batches of them: whole parts, or slices of one part.

    The captions of a page at the boundary of two slices are evidence of its language in their own slice only.
    """
    batches, number = list[tuple[PartSlice, ...]](), 0
    numbered = [(index, name, rows) for index, (name, rows) in enumerate(parts)]
    for group in group_units(numbered, [rows for _, rows in parts], batch_rows):
        batch, offset = list[PartSlice](), 0
        for index, name, rows in group:
            for start in range(0, max(rows, 1), slice_rows):
                if offset >= batch_rows:  # of a part that is larger than a batch
                    batches.append(tuple(batch))
                    batch, offset = [], 0
                size = min(slice_rows, rows - start)
                batch.append(PartSlice(number, name, index, start, size, len(batches), offset))
                number, offset = number + 1, offset + size
        batches.append(tuple(batch))
    return batches


def join_batches(batches: Sequence[tuple[PartSlice, ...]]) -> list[tuple[PartSlice, ...]]:
    """Join the batches of one part; each result has all slices of its parts."""
    joined = list[tuple[PartSlice, ...]]()
    for batch in batches:
        if joined and joined[-1][-1].part_number == batch[0].part_number:
            joined[-1] += batch
        else:
            joined.append(batch)
    return joined


def _row_bytes(config: FilterConfig) -> int:
    added = [step.row_bytes(table) for step, table in used_steps(config)]
    return max([KEY_BYTES, steps.CAPTION_BYTES if config.captions_per_image > 1 else 0, *added])


def check_kept_rows(counts: Counts, max_drop_fraction: float) -> None:
    """Raise ContractError with the rows by drop reason when no row is kept, or too large a share is dropped."""
    dropped = counts.input - counts.kept
    if counts.kept and dropped <= max_drop_fraction * counts.input:
        return
    lines = [f"  {reason:<16} {n:>12,}" for reason, n in rank_counts(counts.dropped)]
    what = f"drops {format_share(dropped, counts.input)}, over max_drop_fraction" if counts.kept else "keeps no row"
    raise ContractError(
        "\n".join([f"filter {what}: {counts.kept:,} of {format_quantity(counts.input, 'pair')} kept", *lines])
    )


def external_inputs(config: FilterConfig) -> list[Input]:
    """Return the list of queries, the opt-out lists, the version that the dataset adds to, and what the rules read, as
    inputs, where the config uses them.
    """
    inputs = [*read_inputs("filter.opt_out_lists", config.opt_out_lists), *config.base_inputs()]
    if config.balance is not None:
        path = Path(config.balance.queries)
        # The digest is of the queries: another version of Parquet's writer gives other bytes of the file.
        inputs.append(Input(stage=SOURCE, key=path.name, digest=text_sha256("\n".join(read_queries(path)))))
    return inputs + [one for rule in plugins.load("rules").values() for one in rule.inputs(config)]


def _find_known(work: Work[FilterConfig]) -> dict[str, list[Table]]:
    """Return the tables of earlier versions that the stage reads, by kind; only kinds that have any."""
    if (base := work.config.base) is None:
        return {}
    kinds = ["urls", *kinds_of_rows(work.config)]
    return {kind: tables for kind in kinds if (tables := base.tables_of(kind))}


def _group(tables: Sequence[Table], batch_rows: int) -> Known:
    rows = [table.rows for table in tables]
    return Known(tuple(group_units([table.name for table in tables], rows, batch_rows)), sum(rows))


FILTER = Stage(name=NAME, version=VERSION, make=make, external_inputs=external_inputs)
