"""Choose which rows curate drops, and why, over all raw shards.

Each step is a map over batches of raw shards or over partitions of hashes (tasks.curate.steps), so no process holds all
rows. A step compares only the rows that the steps before it have kept.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import polars as pl
import pyarrow as pa

from dataops.snapshot import Draft, Record
from tasks.curate import exact_duplicates as exact
from tasks.curate import near_duplicates as near
from tasks.curate import steps
from tasks.curate.config import CurateConfig
from tasks.curate.steps import CurateStep, ShardRows
from tasks.engine.exchange import Step, put_frame, read_frame

DECISIONS = pa.schema(
    [
        ("uid", pa.string()),
        ("phash", pa.uint64()),
        ("cluster", pa.string()),  # the smallest uid of the row's duplicates
        ("evaluation_overlap", pa.string()),  # names of the evaluation sets that have the row's image, joined by commas
        ("drop_reason", pa.string()),
    ]
)
RunSteps = Callable[[list[Step[Any]]], list[Record]]
"""Runs steps of one kind, in any order, and returns their records."""


def choose_rows(
    numbers: Sequence[str], sizes: Sequence[int], config: CurateConfig, matches: str | None, run: RunSteps
) -> None:
    """Decide for each row whether it is dropped, with the first reason that applies; see `read_decisions`.

    Args:
        numbers: raw shards whose INSPECTED tables are in the store.
        sizes: number of rows of each.
        matches: store name of the table of matches with evaluation sets, if the config names any.
    """
    batches = steps.batch_shards([ShardRows(*shard) for shard in zip(numbers, sizes, strict=True)])
    job = steps.plan_job(config, sum(sizes), len(batches), matches)
    partitions, near_partitions = [()] * job.partitions, [()] * job.near_partitions
    link_partitions = [()] * job.link_partitions

    def map_units(
        units: Sequence[tuple[Any, ...]], function: Callable[[Draft, CurateStep], Record | None], *exchanges: str
    ) -> list[Record]:
        records = run([Step(function, number, job, inputs) for number, inputs in enumerate(units)])
        for kind in exchanges:
            run([*job.exchange(kind).merge_steps()])
        return records

    if not batches:
        return
    map_units(batches, steps.put_rows, "bytes")
    map_units(partitions, exact.find_byte_duplicates, "drops-bytes", "links-bytes")
    map_units(batches, exact.put_by_pixels, "pixels")
    map_units(partitions, exact.find_pixel_duplicates, "drops-pixels", "links-pixels")
    if config.near_duplicates:
        map_units(batches, near.put_hashes, "near-hashes")
        map_units(near_partitions, near.find_candidates, "near-candidates")
        map_units(batches, near.put_candidates, "near-compared")
        map_units(near_partitions, near.link_near_duplicates, "near-links")
    while any(record.facts["changed"] for record in map_units(link_partitions, near.connect_links, "connected")):
        job = replace(job, round=job.round + 1)
    map_units(link_partitions, near.put_labels, "labels")
    job = replace(job, round=0)
    map_units(batches, near.put_members, "members")
    map_units(partitions, near.resolve_clusters, "clusters")
    map_units(batches, put_decisions)


def put_decisions(draft: Draft, step: CurateStep) -> None:
    """Write the decisions on the rows of a batch, one table per raw shard."""
    rows = steps.read_rows(draft, step).select("row", "uid_high", "uid_low", "state", "is_decoded", "phash")
    clusters = step.job.exchange("clusters").read(draft, step.number)
    reasons, names = np.zeros(rows.height, np.uint8), [""] * rows.height
    for kind in exact.DROPS:
        drops = step.job.exchange(kind).read(draft, step.number)
        reasons[drops["row"].to_numpy()] = drops["reason"].to_numpy()
    worse = clusters.filter(pl.col("worse") > 0)["row"].to_numpy()
    reasons[worse] = steps.DROP_REASONS.index("near_duplicate") + 1
    for row, high, low in clusters.select("row", "name_high", "name_low").iter_rows():
        names[row] = f"{high:016x}{low:016x}"
    rows = rows.join(steps.read_notes(draft, step), on="row", how="left", maintain_order="left")
    overlap = pl.when(pl.col("state") == steps.OVERLAP).then(pl.lit("evaluation_overlap"))
    duplicate = pl.Series([None, *steps.DROP_REASONS], dtype=pl.String)[reasons]
    uids = [f"{high:016x}{low:016x}" for high, low in rows.select("uid_high", "uid_low").iter_rows()]
    decisions = rows.select(
        uid=pl.Series(uids, dtype=pl.String),
        phash=pl.when(pl.col("is_decoded") > 0).then("phash"),
        cluster=pl.Series([name or None for name in names], dtype=pl.String),
        evaluation_overlap="overlap",
        # a placeholder is named as one even if it overlaps
        drop_reason=pl.coalesce("drop_reason", duplicate, overlap),
    )
    start = 0
    for shard in step.inputs:
        put_frame(draft, _decisions_name(shard.number), decisions[start : start + shard.rows])
        start += shard.rows


def read_decisions(draft: Draft, number: str) -> pa.Table:
    """Return the decisions (DECISIONS) on the rows of a raw shard."""
    return cast(pa.Table, read_frame(draft, _decisions_name(number)).to_arrow().cast(DECISIONS))


def _decisions_name(number: str) -> str:
    return f"decisions-{number}.table"
