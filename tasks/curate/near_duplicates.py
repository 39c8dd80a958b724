"""Find near-duplicates, and the clusters of all duplicates, in steps of tasks.curate.choose.

Rows with close hashes agree completely in some block of bits (dataops.images.bit_blocks), so each row is written to one
partition per block, by the block's value. The few rows that have a close hash there are written again, with their
thumbnails, to be compared. The result is links between two rows. One task connects the links of all kinds: it holds only
the ids of rows that have duplicates. The rows of a cluster then meet in a partition, where the best one is chosen.
"""

from itertools import chain

import numpy as np
import polars as pl

from dataops.images.near_duplicates import find_clusters, find_connected, has_neighbour
from dataops.snapshot import Draft, fetch_table
from tasks.curate.exact_duplicates import DROPS, LINKS
from tasks.curate.inspect_images import inspected_name
from tasks.curate.steps import (
    CANDIDATE,
    RANKING,
    CurateStep,
    put_links,
    read_remaining,
    read_rows,
    row_id,
    sort_best_first,
    stack_bytes,
)
from tasks.engine.exchange import number_partitions

_MIX = np.uint64(0x9E3779B97F4A7C15)  # of the golden ratio (Knuth, TAOCP 3, section 6.4), for partitions of equal size
_ROW = (1 << 32) - 1


def put_hashes(draft: Draft, step: CurateStep) -> None:
    """Put the hashes of the remaining rows of a batch by the value of each block."""
    rows, size = read_remaining(draft, step, DROPS).select("row", "scope", "phash"), step.job.block_partitions
    hashes = rows["phash"].to_numpy()
    mixed = (pl.Series((hashes & np.uint64(search.shared)) * _MIX, dtype=pl.UInt64) for search in step.job.searches)
    numbers = [number_partitions(values, size) + np.uint64(block * size) for block, values in enumerate(mixed)]
    step.job.exchange("near-hashes").write(
        draft, step.number, pl.concat([rows] * len(numbers)), np.concatenate(numbers)
    )


def find_candidates(draft: Draft, step: CurateStep) -> None:
    """Put the rows of a partition that have a close hash in it by batch."""
    rows = step.job.exchange("near-hashes").read(draft, step.number)
    search = step.job.searches[step.number // step.job.block_partitions]
    hashes, scopes = rows["phash"].to_numpy(), rows["scope"].to_numpy().view(np.int64)
    found = rows.filter(pl.Series(has_neighbour(hashes, scopes, step.job.config.near_duplicate_distance, search)))
    step.job.exchange("near-candidates").write(draft, step.number, found.select("row"), found["part"])


def put_candidates(draft: Draft, step: CurateStep) -> None:
    """Put the columns by which the candidates of a batch are compared by partition."""
    found = step.job.exchange("near-candidates").read(draft, step.number).rename({"part": "partition"})
    rows = read_rows(draft, step).filter(pl.col("state") == CANDIDATE)
    rows = rows.join(found.select("row").unique(), on="row", how="semi", maintain_order="left")
    rows = rows.select("row", "phash", "scope", thumbnail=_read_thumbnails(draft, step, rows["row"]))
    compared = found.join(rows, on="row", maintain_order="left")
    step.job.exchange("near-compared").write(draft, step.number, compared.drop("partition"), compared["partition"])


def _read_thumbnails(draft: Draft, step: CurateStep, rows: pl.Series) -> pl.Series:
    """Return the thumbnails of rows of a batch, given in ascending order; it holds one raw shard's at a time."""
    found, start, numbers = list[bytes](), 0, rows.to_numpy()
    for shard in step.inputs:
        inside = numbers[(numbers >= start) & (numbers < start + shard.rows)].astype(np.int64) - start
        if len(inside):
            column = fetch_table(draft.store, draft.path(inspected_name(shard.number)), ["thumbnail"])["thumbnail"]
            found += column.take(inside).to_pylist()
        start += shard.rows
    return pl.Series(found, dtype=pl.Binary)


def link_near_duplicates(draft: Draft, step: CurateStep) -> None:
    """Compare the candidates of a partition, and link each near-duplicate to one row of its cluster."""
    rows = step.job.exchange("near-compared").read(draft, step.number).with_columns(id=row_id())
    thumbnails = stack_bytes(rows["thumbnail"].to_list())
    distance, tolerance = step.job.config.near_duplicate_distance, step.job.config.near_duplicate_tolerance
    scopes = rows["scope"].to_numpy().view(np.int64)
    search = step.job.searches[step.number // step.job.block_partitions]
    first = find_clusters(rows["phash"].to_numpy(), scopes, thumbnails, distance, tolerance, search)
    links = rows.select("id", representative=pl.col("id").gather(pl.Series(first)))
    put_links(draft, step, "near-links", links.filter(pl.col("id") != pl.col("representative")))


def connect_links(draft: Draft, step: CurateStep) -> None:
    """Put the cluster of each row that has duplicates by batch, and its cluster by the near-duplicates' links alone."""
    near_kinds = ["near-links"] if step.job.config.near_duplicates else []
    near, every = (_connect(draft, step, kinds) for kinds in (near_kinds, [*LINKS, *near_kinds]))
    labels = every.join(near.rename({"cluster": "near"}), on="id", how="left", maintain_order="left")
    labels = labels.with_columns(is_near=pl.col("near").is_not_null().cast(pl.UInt8), near=pl.col("near").fill_null(0))
    labels = labels.with_columns(row=(pl.col("id") & _ROW).cast(pl.UInt32))
    step.job.exchange("labels").write(draft, 0, labels.drop("id"), labels["id"] // (1 << 32))


def _connect(draft: Draft, step: CurateStep, kinds: list[str]) -> pl.DataFrame:
    """Return the connected components of the links of some exchanges: `id`, `cluster`, by id."""
    tables = chain.from_iterable(step.job.exchange(kind).read_tables(draft, 0) for kind in kinds)
    links = pl.concat(
        [pl.DataFrame(schema={"id": pl.UInt64, "representative": pl.UInt64}), *(t.drop("part") for t in tables)]
    )
    ids = pl.concat([links["id"], links["representative"]]).unique().sort()
    ends = (ids.search_sorted(links[name]).cast(pl.Int64).to_numpy() for name in ("id", "representative"))
    return pl.DataFrame({"id": ids, "cluster": ids.gather(pl.Series(find_connected(len(ids), *ends)))})


def put_members(draft: Draft, step: CurateStep) -> None:
    """Put the rows of a batch that have duplicates by cluster."""
    labels = step.job.exchange("labels").read(draft, step.number).drop("part")
    rows = read_rows(draft, step).select("row", *RANKING).join(labels, on="row", maintain_order="left")
    mixed = pl.Series(rows["cluster"].to_numpy() * _MIX, dtype=pl.UInt64)
    exchange = step.job.exchange("members")
    exchange.write(draft, step.number, rows, number_partitions(mixed, exchange.partitions))


def resolve_clusters(draft: Draft, step: CurateStep) -> None:
    """Put the name of each row's cluster, the smallest uid, and whether a near-duplicate is better, by batch."""
    rows = step.job.exchange("members").read(draft, step.number).with_columns(id=row_id())
    ordered = sort_best_first(rows.filter(pl.col("is_near") > 0))
    worse = ordered.filter(~pl.col("near").is_first_distinct())["id"]
    rows = rows.sort("uid_high", "uid_low")
    halves = [pl.col(f"uid_{half}").first().over("cluster").alias(f"name_{half}") for half in ("high", "low")]
    found = rows.select("part", "row", *halves, worse=pl.col("id").is_in(worse.implode()).cast(pl.UInt8))
    step.job.exchange("clusters").write(draft, step.number, found.drop("part"), found["part"])
