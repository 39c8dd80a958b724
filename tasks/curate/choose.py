"""Choose which rows curate drops, and why, over all raw shards.

Each step is a map over groups of raw shards or over partitions of hashes (tasks.curate.steps), so no process holds all
rows. A step compares only the rows that the steps before it have kept.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import polars as pl
import pyarrow as pa

from dataops.snapshot import Draft, Record
from tasks.curate import exact_duplicates as exact
from tasks.curate import near_duplicates as near
from tasks.curate import steps
from tasks.curate.config import CurateConfig
from tasks.curate.steps import OVERLAP, Step
from tasks.engine.partition_tables import read_one, read_partition

DECISIONS = pa.schema(
    [
        ("uid", pa.string()),
        ("phash", pa.uint64()),
        ("cluster", pa.string()),  # the smallest uid of the row's duplicates
        ("evaluation_overlap", pa.string()),  # names of the evaluation sets that have the row's image, joined by commas
        ("drop_reason", pa.string()),
    ]
)
RunSteps = Callable[[list[Step]], object]
"""Runs steps of one kind, in any order."""


def choose_rows(
    numbers: Sequence[str], sizes: Sequence[int], config: CurateConfig, matches: str | None, run: RunSteps
) -> None:
    """Decide for each row whether it is dropped, with the first reason that applies; write `decisions_name` per shard.

    Args:
        numbers: raw shards whose INSPECTED tables are in the store.
        sizes: number of rows of each.
        matches: store name of the table of matches with evaluation sets, if the config names any.
    """
    groups, rows = steps.group_shards(sizes), sum(sizes)
    bits, near_bits = (steps.partition_bits(rows, n) for n in (steps.PARTITION_ROWS, steps.NEAR_PARTITION_ROWS))
    first = Step(exact.put_by_sha256, 0, len(groups), bits, near_bits, config, matches=matches)

    def over_groups(function: Callable[[Draft, Step], Record]) -> None:
        run([
            replace(first, function=function, number=number, shards=tuple(numbers[i] for i in indices),
                    sizes=tuple(sizes[i] for i in indices))
            for number, indices in enumerate(groups)
        ])  # fmt: skip

    def over_partitions(function: Callable[[Draft, Step], Record], count: int = 1 << bits) -> None:
        run([replace(first, function=function, number=number) for number in range(count)])

    if not groups:
        return
    over_groups(exact.put_by_sha256)
    over_partitions(exact.find_byte_duplicates)
    over_groups(exact.put_by_pixels)
    over_partitions(exact.find_pixel_duplicates)
    if config.near_duplicates:
        over_groups(near.put_hashes)
        over_partitions(near.find_candidates, near.count_partitions(first))
        over_groups(near.put_candidates)
        over_partitions(near.link_near_duplicates, near.count_partitions(first))
    over_partitions(near.resolve_clusters, 1)
    over_groups(put_decisions)


def decisions_name(number: str) -> str:
    """Return the name of the scratch table (DECISIONS) of a raw shard."""
    return f"_work/decisions-{number}.parquet"


def put_decisions(draft: Draft, step: Step) -> Record:
    """Write the decisions on the rows of a group, one table per raw shard."""
    rows = steps.read_inspected(draft, step, ["phash"])
    clusters = read_one(draft, near.CLUSTERS, step.number)
    names = [f"{high:016x}{low:016x}" for high, low in clusters.select("name_high", "name_low").iter_rows()]
    clusters = clusters.with_columns(cluster=pl.Series(names, dtype=pl.String))
    drops = [read_partition(draft, step.partition_names(kind), step.number) for kind in exact.DROP_REASONS]
    drops.append(clusters.filter("worse").with_columns(drop_reason=pl.lit("near_duplicate")))
    duplicates = pl.concat(frame.select("row", duplicate="drop_reason") for frame in drops)
    rows = rows.join(duplicates, on="row", how="left", maintain_order="left")
    rows = rows.join(clusters.select("row", "cluster"), on="row", how="left", maintain_order="left")
    overlap = pl.when(pl.col("state") == OVERLAP).then(pl.lit("evaluation_overlap"))
    reason = pl.coalesce("drop_reason", "duplicate", overlap)  # a placeholder is named as one even if it overlaps
    decisions = rows.select("uid", "phash", "cluster", evaluation_overlap="overlap", drop_reason=reason).to_arrow()
    start = 0
    for number, size in zip(step.shards, step.sizes, strict=True):
        draft.put_table(decisions_name(number), decisions.slice(start, size).cast(DECISIONS))
        start += size
    return Record(task=step.id)
