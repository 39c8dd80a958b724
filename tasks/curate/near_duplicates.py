"""Find near-duplicates, and the clusters of all duplicates, in steps of tasks.curate.choose.

Rows with close hashes agree completely in some block of bits (dataops.images.bit_blocks), so each row is written to one
partition per block, by the block's value. The few rows that have a close hash there are written again, with their
thumbnails, to be compared. The result is links between two rows. The links of all kinds are connected by partitions, in
rounds. The rows of a cluster then meet in a partition, where the best one is chosen.
"""

from dataclasses import replace

import numpy as np
import polars as pl

from dataops.images.near_duplicates import find_clusters, find_connected, has_neighbour
from dataops.snapshot import Draft, Record, fetch_table
from tasks.curate.exact_duplicates import DROPS, LINKS
from tasks.curate.inspect_images import inspected_name
from tasks.curate.steps import (
    CANDIDATE,
    MIX,
    NEAR,
    RANKING,
    CurateStep,
    partition_nodes,
    put_links,
    read_remaining,
    read_rows,
    row_id,
    sort_best_first,
    stack_bytes,
)
from tasks.engine.exchange import number_partitions

_ROW = (1 << 32) - 1


def put_hashes(draft: Draft, step: CurateStep) -> None:
    """Put the hashes of the remaining rows of a batch by the value of each block."""
    rows, size = read_remaining(draft, step, DROPS).select("row", "scope", "phash"), step.job.block_partitions
    hashes = rows["phash"].to_numpy()
    mixed = (pl.Series((hashes & np.uint64(search.shared)) * MIX, dtype=pl.UInt64) for search in step.job.searches)
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
    put_links(draft, step, "near-links", links, links.select(pl.all() | pl.lit(NEAR, pl.UInt64)))


def connect_links(draft: Draft, step: CurateStep) -> Record:
    """Connect the links of a partition: put a link from each node to the smallest one that it is connected with here.

    Each link lies in the partitions of both its ends. If no partition has changed any in a round, each node of a connected
    component is linked to the smallest one of it, and to no other.
    """
    job = step.job
    previous, kinds = replace(job, round=job.round - 1), ["connected"]
    if not job.round:
        previous, kinds = job, [*LINKS, *(["near-links"] if job.config.near_duplicates else [])]
    links = pl.concat([previous.exchange(kind).read(draft, step.number).drop("part") for kind in kinds])
    nodes = pl.concat([links["node"], links["label"]]).unique().sort()
    ends = (nodes.search_sorted(links[name]).cast(pl.Int64).to_numpy() for name in links.columns)
    found = pl.DataFrame({"node": nodes, "label": nodes.gather(pl.Series(find_connected(len(nodes), *ends)))})
    found = found.filter(pl.col("node") != pl.col("label"))
    changed = found.join(links, on=links.columns, how="anti").height if job.link_partitions > 1 else 0
    put_links(draft, step, "connected", found)
    return Record(task=step.id, facts={"changed": changed})


def put_labels(draft: Draft, step: CurateStep) -> None:
    """Put the cluster of each row that has duplicates by batch, and its cluster by the near-duplicates' links alone."""
    links = step.job.exchange("connected").read(draft, step.number).drop("part")
    links = pl.concat([links, links.with_columns(node="label")]).unique()
    links = links.filter(pl.Series(partition_nodes(links["node"], step.job.link_partitions) == step.number))
    is_near, row = pl.col("node") >= NEAR, [(pl.col(name) & (NEAR - 1)).alias(name) for name in links.columns]
    near, every = (links.filter(one).select(row) for one in (is_near, ~is_near))
    labels = every.rename({"label": "cluster"}).join(near.rename({"label": "near"}), on="node", how="left")
    labels = labels.with_columns(is_near=pl.col("near").is_not_null().cast(pl.UInt8), near=pl.col("near").fill_null(0))
    labels = labels.with_columns(row=(pl.col("node") & _ROW).cast(pl.UInt32))
    step.job.exchange("labels").write(draft, step.number, labels.drop("node"), labels["node"] // (1 << 32))


def put_members(draft: Draft, step: CurateStep) -> None:
    """Put the rows of a batch that have duplicates by cluster."""
    labels = step.job.exchange("labels").read(draft, step.number).drop("part")
    rows = read_rows(draft, step).select("row", *RANKING).join(labels, on="row", maintain_order="left")
    exchange = step.job.exchange("members")
    exchange.write(draft, step.number, rows, partition_nodes(rows["cluster"], exchange.partitions))


def resolve_clusters(draft: Draft, step: CurateStep) -> None:
    """Put the name of each row's cluster, the smallest uid, and whether a near-duplicate is better, by batch."""
    rows = step.job.exchange("members").read(draft, step.number).with_columns(id=row_id())
    ordered = sort_best_first(rows.filter(pl.col("is_near") > 0))
    worse = ordered.filter(~pl.col("near").is_first_distinct())["id"]
    rows = rows.sort("uid_high", "uid_low")
    halves = [pl.col(f"uid_{half}").first().over("cluster").alias(f"name_{half}") for half in ("high", "low")]
    found = rows.select("part", "row", *halves, worse=pl.col("id").is_in(worse.implode()).cast(pl.UInt8))
    step.job.exchange("clusters").write(draft, step.number, found.drop("part"), found["part"])
