"""The filter stage: all that text and addresses can decide, before a byte is downloaded.

Each step is a map, over the parts that came in or over ranges of hashes (tasks.filter_steps): `judge` asks the rules of
each row; `choose` decides among duplicates, seeing only hashes, a range at a time; `count_queries` counts what captions
speak of; `write` makes a kept and a dropped part of each part that came in.
"""

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dataops.digest import text_sha256
from dataops.duplicates import KEY_BYTES
from dataops.errors import ConfigError, ContractError
from dataops.snapshot import Counts, Draft, Input, Record, find
from tasks import filter_steps as steps
from tasks.filter_config import FilterConfig
from tasks.filter_steps import NAME, Step
from tasks.filter_summary import add_up, describe_balance
from tasks.parts import map_parts
from tasks.queries import read_queries
from tasks.ranges import get_piece, put_pieces
from tasks.stage import Context, Made, Stage, Work, gather

logger = logging.getLogger(__name__)

VERSION = 4
_COPIES = 6
"""Times that a range's keys are in memory at most, while they are sorted and joined."""


def outside(config: FilterConfig) -> list[Input]:
    """The list of queries, and the lists of unsafe words, where they are used."""
    inputs: list[Input] = []
    if config.balance is not None:
        # Of the queries, not of the file: other versions of its writer give other bytes.
        digest = text_sha256("\n".join(read_queries(Path(config.balance.queries))))
        inputs.append(Input(stage="source", key=Path(config.balance.queries).name, digest=digest))
    if config.unsafe_languages:
        from dataops.unsafe_words import list_version

        inputs.append(Input(stage="source", key="unsafe words", digest=list_version()))
    return inputs


def make(work: Work) -> Made:
    """Judge, choose, balance, write. Raises: ContractError when nothing, or too little, is left."""
    config: FilterConfig = work.config
    run = _Run(work)
    if not run.written():
        run.over_parts(steps.judge)
        if config.max_caption_count is not None:
            run.over_ranges(steps.count_captions)
        run.over_seen(steps.read_seen)
        run.over_ranges(steps.choose)
        if "caption" in config.dedupe:
            run.over_parts(steps.regroup)
            run.over_ranges(steps.choose_captions)
        if config.balance is not None:
            run.over_parts(steps.count_queries)
            run.sum_queries()
    records = run.over_parts(steps.write, work.context)
    parts, counts = gather(records)
    check_left(counts, config.max_drop_fraction)
    return Made(parts, counts, run.facts(records))


class _Run:
    """The maps of one making of the stage."""

    def __init__(self, work: Work):
        self.draft, self.context = work.draft, work.context
        self.config: FilterConfig = work.config
        came = work.inputs["extract"].named("part-", ".parquet")
        self.names = [work.inputs["extract"].path(part.name) for part in came]
        self.bits = range_bits(sum(part.rows for part in came), work.context.workers, self.config.memory_limit_bytes)
        self.seen = tuple(_seen_parts(work))
        self.quiet = Context(store=work.context.store, home=work.context.home, workers=work.context.workers)

    def _step(self, function: Callable[[Draft, Step], Record], number: int, part: str = "") -> Step:
        return Step(function, number, part, len(self.names), self.bits, self.seen, self.config)

    def over_parts(self, function: Callable[[Draft, Step], Record], context: Context | None = None) -> list[Record]:
        """Map over the parts; with `context`, showing progress."""
        tasks = [self._step(function, number, name) for number, name in enumerate(self.names)]
        return map_parts(steps.run, tasks, self.draft, context or self.quiet)

    def over_ranges(self, function: Callable[[Draft, Step], Record]) -> None:
        """Map over the ranges of hashes; where there is one only, in this process, for another takes seconds to start."""
        tasks = [self._step(function, number) for number in range(1 << self.bits)]
        if len(tasks) > 1:
            map_parts(steps.run, tasks, self.draft, self.quiet)
        elif not self.draft.done(tasks[0].id):
            self.draft.finish(steps.run(self.draft, tasks[0]))

    def over_seen(self, function: Callable[[Draft, Step], Record]) -> None:
        """Map over the parts of the datasets that were made before."""
        map_parts(steps.run, [self._step(function, n) for n in range(len(self.seen))], self.draft, self.quiet)

    def written(self) -> bool:
        """Whether all that is left to do is to commit: the scratch tables are not needed again."""
        return all(self.draft.done(self._step(steps.write, n).id) for n in range(len(self.names)))

    def sum_queries(self) -> None:
        """Add up what count_queries found."""
        put_pieces(self.draft, "query-counts.arrow", [pl.DataFrame({"count": self._summed("queries")})])

    def facts(self, records: list[Record]) -> dict[str, Any]:
        """What is said of the kept and the dropped rows, and how many rows each rule alone would drop."""
        alone = Counter[str]()
        for number in range(len(self.names)):
            judged = self.draft.done(self._step(steps.judge, number).id)
            alone.update(judged.facts["alone"] if judged else {})
        facts: dict[str, Any] = {**add_up(r.facts for r in records), "alone": dict(sorted(alone.items()))}
        if self.config.balance is not None:
            before = get_piece(self.draft, "query-counts.arrow", 0)["count"].to_numpy()
            parts = [record.facts["balance"] for record in records]
            queries = read_queries(Path(self.config.balance.queries))
            facts["balance"] = describe_balance(queries, before, self._summed("queries-left"), parts)
        return facts

    def _summed(self, kind: str) -> NDArray[Any]:
        each = (get_piece(self.draft, steps.table(kind, n), 0)["count"].to_numpy() for n in range(len(self.names)))
        return sum(each, np.zeros(1, np.int64))


def range_bits(rows: int, workers: int, memory_limit_bytes: int) -> int:
    """Into how many ranges (2^bits) the hashes are cut, so that `workers` of them fit in memory at once."""
    needed = rows * (KEY_BYTES + 16) * _COPIES * workers
    return max(0, (max(needed, 1) - 1) // memory_limit_bytes).bit_length()


def check_left(counts: Counts, max_drop_fraction: float) -> None:
    """Raise ContractError with the funnel when no row is left, or a greater share was dropped than is allowed."""
    gone = counts.input - counts.kept
    if counts.kept and gone <= max_drop_fraction * counts.input:
        return
    lines = [f"  {reason:<16} {n:>12,}" for reason, n in sorted(counts.dropped.items(), key=lambda x: (-x[1], x[0]))]
    what = "keeps no row" if not counts.kept else f"drops {gone / counts.input:.1%}, over max_drop_fraction"
    msg = "\n".join([f"filter {what}: {counts.kept:,} of {counts.input:,} pairs are left", *lines])
    raise ContractError(msg)


def _seen_parts(work: Work) -> list[str]:
    names: list[str] = []
    for key in work.config.seen:
        manifest = find(work.context.store, "pack", key)
        if manifest is None:
            msg = f"filter.seen: there is no complete dataset pack/{key} in {work.context.store.uri}"
            raise ConfigError(msg)
        names += [manifest.path(part.name) for part in manifest.named("part-", ".parquet")]
    return names


FILTER = Stage(name=NAME, version=VERSION, make=make, outside=outside)
