"""The filter stage: all that text and addresses can decide, before a byte is downloaded.

Each step is a map, over slices of the parts that came in or over ranges of hashes (tasks.filter.steps): `judge` asks the
rules of each row; `choose` decides among duplicates, seeing only hashes, a range at a time; `count_queries` counts what
captions speak of; `write` makes a kept and a dropped part of each part that came in.
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
from dataops.snapshot import Counts, Draft, Input, Record, find
from dataops.text.duplicates import KEY_BYTES
from tasks.engine.map_parts import map_parts, shared_workers
from tasks.engine.partition_steps import run as run_step
from tasks.engine.partition_steps import run_steps
from tasks.engine.partition_tables import read_one, table_name, write_partitions
from tasks.engine.stage import Stage, StageOutput, Work, gather
from tasks.filter import near_captions as near
from tasks.filter import steps
from tasks.filter import write as last
from tasks.filter.config import FilterConfig
from tasks.filter.queries import read_queries
from tasks.filter.steps import NAME, FilterTask, PartSlice
from tasks.filter.summary import merge_balance, merge_parts

logger = logging.getLogger(__name__)

VERSION = 5
_COPIES = 6
"""Times that a range's keys are in memory at most, while they are sorted and joined."""
_PARTITION_ROWS = 1 << 20
"""Of a range, at most: so that there is work for all. Each range more is a piece more to read of each slice's tables."""
_MIN_PARTITION_ROWS = 1 << 17
"""So many are shared out among workers; ranges of fewer cost more to cross than they save."""


def external_inputs(config: FilterConfig) -> list[Input]:
    """The list of queries, and the lists of unsafe words, where they are used."""
    inputs: list[Input] = []
    if config.balance is not None:
        # Of the queries, not of the file: other versions of its writer give other bytes.
        digest = text_sha256("\n".join(read_queries(Path(config.balance.queries))))
        inputs.append(Input(stage="source", key=Path(config.balance.queries).name, digest=digest))
    if config.unsafe_languages:
        from dataops.text.unsafe_words import word_list_version

        inputs.append(Input(stage="source", key="unsafe words", digest=word_list_version()))
    return inputs


def make(work: Work[FilterConfig]) -> StageOutput:
    """Judge, choose, balance, write. Raises: ContractError when nothing, or too little, is left."""
    with shared_workers(work.context) as context:
        return _make(replace(work, context=context))


def _make(work: Work[FilterConfig]) -> StageOutput:
    config = work.config
    run = _Run(work)
    if not run.written():
        run.over_parts(steps.apply_rules)
        if config.max_caption_count is not None:
            run.over_ranges(steps.find_frequent_captions)
        run.over_seen(steps.put_seen_urls)
        run.over_ranges(steps.drop_duplicates)
        if "caption" in config.dedupe:
            run.over_parts(steps.put_by_caption)
            run.over_ranges(steps.drop_duplicate_captions)
        if config.near_captions is not None:
            run.drop_near_captions()
        if config.balance is not None:
            run.over_parts(last.count_queries)
            run.sum_queries()
    records = run.write()
    parts, counts = gather(records)
    check_kept_rows(counts, config.max_drop_fraction)
    return StageOutput(parts, counts, run.facts(records))


class _Run:
    """The maps of one making of the stage."""

    def __init__(self, work: Work[FilterConfig]):
        self.draft, self.context = work.draft, work.context
        self.config = work.config
        came = work.inputs["extract"].named("part-", ".parquet")
        self.names = [work.inputs["extract"].path(part.name) for part in came]
        self.slices = cut_slices([part.rows for part in came], self.config)
        row_bytes = KEY_BYTES
        if self.config.near_captions is not None:
            row_bytes = max(row_bytes, near.bytes_per_row(self.config.near_captions))
        self.rows = sum(part.rows for part in came)
        self.neighbours = work.context.neighbours or work.context.workers
        needed = partition_bits(self.rows, self.neighbours, self.config.memory_limit_bytes, row_bytes)
        self.bits = resume_partition_bits(work.draft, needed)
        self.seen = tuple(_find_seen_parts(work))
        self.quiet = work.context.quiet()

    def _step(
        self,
        function: Callable[[Draft, FilterTask], Record],
        number: int,
        part: str = "",
        slices: tuple[PartSlice, ...] = (),
    ) -> FilterTask:
        total = sum(map(len, self.slices))
        return FilterTask(function, number, part, total, self.bits, self.seen, self.config, slices, self.neighbours)

    def _sliced(self, function: Callable[[Draft, FilterTask], Record]) -> list[FilterTask]:
        named = zip(self.names, self.slices, strict=True)
        return [self._step(function, one.number, name, (one,)) for name, slices in named for one in slices]

    def over_parts(self, function: Callable[[Draft, FilterTask], Record]) -> None:
        """Map over the parts, a slice at a time."""
        map_parts(run_step, self._sliced(function), self.draft, self.quiet)

    def write(self) -> list[Record]:
        """Map over the parts, showing progress."""
        return map_parts(run_step, self._writes(), self.draft, self.context)

    def _writes(self) -> list[FilterTask]:
        named = zip(self.names, self.slices, strict=True)
        return [self._step(last.write_parts, number, *part) for number, part in enumerate(named)]

    def over_ranges(self, function: Callable[[Draft, FilterTask], Record]) -> None:
        """Map over the ranges of hashes."""
        run_steps([self._step(function, number) for number in range(1 << self.bits)], self.rows, self.draft, self.quiet)

    def over_seen(self, function: Callable[[Draft, FilterTask], Record]) -> None:
        """Map over the parts of the datasets that were made before."""
        map_parts(run_step, [self._step(function, n) for n in range(len(self.seen))], self.draft, self.quiet)

    def drop_near_captions(self) -> None:
        """Find and settle near-duplicate captions."""
        self.over_parts(near.put_normal_forms)
        self.over_ranges(near.drop_same_captions)
        self.over_parts(near.put_signatures)
        self.over_ranges(near.find_candidates)
        self.over_parts(near.put_candidates)
        self.over_ranges(near.compare_captions)
        for number in range(1 << self.bits):  # in order: each asks those before it
            run_steps([self._step(near.drop_near_captions, number)], self.rows, self.draft, self.quiet)

    def written(self) -> bool:
        """Whether all that is left to do is to commit: the scratch tables are not needed again."""
        return all(self.draft.done(step.id) for step in self._writes())

    def sum_queries(self) -> None:
        """Add up what count_queries found."""
        write_partitions(self.draft, "query-counts.table", pl.DataFrame({"count": self._summed("queries")}))

    def facts(self, records: Sequence[Record]) -> dict[str, Any]:
        """What is said of the kept and the dropped rows, and how many rows each rule alone would drop."""
        alone = Counter[str]()
        for step in self._sliced(steps.apply_rules):
            judged = self.draft.done(step.id)
            alone.update(judged.facts["alone"] if judged else {})
        texts = (self.draft.store.read(self.draft.scratch(last.description_name(n))) for n in range(len(self.names)))
        facts: dict[str, Any] = {**merge_parts(map(json.loads, texts)), "alone": dict(sorted(alone.items()))}
        if self.config.balance is not None:
            before = read_one(self.draft, "query-counts.table", 0)["count"].to_numpy()
            said = [facts for record in records for facts in record.facts["balance"]]
            queries = read_queries(Path(self.config.balance.queries))
            facts["balance"] = merge_balance(queries, before, self._summed("queries-left"), said)
        return facts

    def _summed(self, kind: str) -> NDArray[Any]:
        numbers = (one.number for slices in self.slices for one in slices)
        each = (read_one(self.draft, table_name(kind, n), 0)["count"].to_numpy() for n in numbers)
        return sum(each, np.zeros(1, np.int64))


def cut_slices(rows: Sequence[int], config: FilterConfig) -> list[tuple[PartSlice, ...]]:
    """The slices of parts that have so many rows.

    Where a caption's page counts for its language, a part is one slice: a page's captions must be seen together.
    """
    found: list[tuple[PartSlice, ...]] = []
    for total in rows:
        size = max(total, 1) if config.language_page_weight else steps.SLICE_ROWS
        before = sum(map(len, found))
        starts = range(0, max(total, 1), size)
        found.append(tuple(PartSlice(before + i, start, min(size, total - start)) for i, start in enumerate(starts)))
    return found


def partition_bits(rows: int, workers: int, memory_limit_bytes: int, row_bytes: int = KEY_BYTES) -> int:
    """Into how many ranges (2^bits) the hashes are cut: `workers` of them fit in memory at once, and none has many rows;
    of some rows each worker has a range.
    """
    needed = rows * row_bytes * _COPIES * workers
    ranges = max(
        -(-needed // memory_limit_bytes), -(-rows // _PARTITION_ROWS), min(workers, rows // _MIN_PARTITION_ROWS), 1
    )
    return (ranges - 1).bit_length()


def resume_partition_bits(draft: Draft, needed: int) -> int:
    """The number of ranges (2^bits) of the try before, which may have had other workers or memory, where it is enough.

    It only ever grows, so that no table of another number of ranges is taken for one of this.
    """
    name = draft.scratch("ranges.json")
    before = json.loads(draft.store.read(name)) if draft.store.size(name) else 0
    if needed > before:
        draft.store.put(name, json.dumps(needed).encode())
    return max(needed, before)


def check_kept_rows(counts: Counts, max_drop_fraction: float) -> None:
    """Raise ContractError with the funnel when no row is left, or a greater share was dropped than is allowed."""
    gone = counts.input - counts.kept
    if counts.kept and gone <= max_drop_fraction * counts.input:
        return
    lines = [f"  {reason:<16} {n:>12,}" for reason, n in sorted(counts.dropped.items(), key=lambda x: (-x[1], x[0]))]
    what = "keeps no row" if not counts.kept else f"drops {format_share(gone, counts.input)}, over max_drop_fraction"
    raise ContractError("\n".join([f"filter {what}: {counts.kept:,} of {counts.input:,} pairs are left", *lines]))


def _find_seen_parts(work: Work[FilterConfig]) -> list[str]:
    names: list[str] = []
    for key in work.config.seen:
        manifest = find(work.context.store, "pack", key)
        if manifest is None:
            raise ConfigError(f"filter.seen: there is no complete dataset pack/{key} in {work.context.store.uri}")
        names += [manifest.path(part.name) for part in manifest.named("part-", ".parquet")]
    return names


FILTER = Stage(name=NAME, version=VERSION, make=make, external_inputs=external_inputs)
