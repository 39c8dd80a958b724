"""Curate's choice among all pictures: which leave, and why. Each step looks at the rows that the steps before left.

Nobody ever sees all rows: each step is a map over groups of raw shards, or over ranges of hashes (tasks.curate.steps).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import polars as pl
import pyarrow as pa

from dataops.snapshot import Draft, Record
from tasks.curate import near_duplicates as near
from tasks.curate import steps
from tasks.curate.config import CurateConfig
from tasks.curate.steps import OVERLAPS, Step
from tasks.engine.partition_tables import read_one, read_partition

DECISIONS = pa.schema(
    [
        ("uid", pa.string()),
        ("phash", pa.uint64()),
        ("cluster", pa.string()),  # the smallest uid of the duplicates that a row is one of
        ("evaluation_overlap", pa.string()),  # the evaluation sets that have the row's picture, joined by commas
        ("drop_reason", pa.string()),
    ]
)
RunSteps = Callable[[list[Step]], object]
"""Does steps of one kind, in whatever order."""


def choose_rows(
    numbers: Sequence[str], sizes: Sequence[int], config: CurateConfig, matches: str | None, over: RunSteps
) -> None:
    """Decide over all rows; a row leaves for the first reason that there is. What was decided: `chosen_name` of each shard.

    Args:
        numbers: of the raw shards, whose judged tables are in the store; `sizes` are their rows.
        matches: name in the store of the table of matches with evaluation sets, where they are looked for.
    """
    groups, rows = steps.group_shards(sizes), sum(sizes)
    bits, near_bits = (steps.partition_bits(rows, most) for most in (steps.PARTITION_ROWS, steps.NEAR_PARTITION_ROWS))
    first = Step(steps.put_by_sha256, 0, len(groups), bits, near_bits, config, matches=matches)

    def over_groups(function: Callable[[Draft, Step], Record]) -> None:
        over([
            replace(first, function=function, number=number, shards=tuple(numbers[p] for p in places),
                    sizes=tuple(sizes[p] for p in places))
            for number, places in enumerate(groups)
        ])  # fmt: skip

    def over_ranges(function: Callable[[Draft, Step], Record], number: int = 1 << bits) -> None:
        over([replace(first, function=function, number=n) for n in range(number)])

    if not groups:
        return
    over_groups(steps.put_by_sha256)
    over_ranges(steps.find_byte_duplicates)  # what stays for the others must itself be good enough to stay
    over_groups(steps.put_by_pixels)
    over_ranges(steps.find_pixel_duplicates)
    if config.near_duplicates:
        over_groups(near.put_hashes)
        over_ranges(near.find_candidates, near.count_partitions(first))
        over_groups(near.put_candidates)
        over_ranges(near.link_near_duplicates, near.count_partitions(first))
    over_ranges(near.resolve_clusters, 1)
    over_groups(put_decisions)


def decisions_name(number: str) -> str:
    """The scratch table of what was decided of a raw shard (CHOSEN)."""
    return f"_work/chosen-{number}.parquet"


def put_decisions(draft: Draft, step: Step) -> Record:
    """Write down what was decided of the rows of a group, a table a raw shard."""
    rows = steps.read_inspected(draft, step, ["phash"])
    settled = read_one(draft, "settled.table", step.number)
    names = [f"{high:016x}{low:016x}" for high, low in settled.select("name_high", "name_low").iter_rows()]
    settled = settled.with_columns(cluster=pl.Series(names, dtype=pl.String))
    gone = [read_partition(draft, step.range_tables(kind), step.number) for kind in ("gone-bytes", "gone-pixels")]
    gone.append(settled.filter("worse").with_columns(drop_reason=pl.lit("near_duplicate")))
    why = pl.concat(frame.select("row", why="drop_reason") for frame in gone)
    rows = rows.join(why, on="row", how="left", maintain_order="left")
    rows = rows.join(settled.select("row", "cluster"), on="row", how="left", maintain_order="left")
    overlaps = pl.when(pl.col("state") == OVERLAPS).then(pl.lit("evaluation_overlap"))
    reason = pl.coalesce("drop_reason", "why", overlaps)  # a placeholder is one, whatever it overlaps
    chosen = rows.select("uid", "phash", "cluster", evaluation_overlap="overlap", drop_reason=reason).to_arrow()
    start = 0
    for number, size in zip(step.shards, step.sizes, strict=True):
        draft.put_table(decisions_name(number), chosen.slice(start, size).cast(DECISIONS))
        start += size
    return Record(task=step.id)
