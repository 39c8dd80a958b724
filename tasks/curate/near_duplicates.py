"""Find near-duplicates, and the clusters of all duplicates, in steps of tasks.curate.choose.

Rows with close hashes agree completely in some block of bits (dataops.images.bit_blocks), so each row is written to one
partition per block, by the block's value. The few rows that have a close hash there are written again, with their
thumbnails, to be compared. The result is links between two rows. One worker resolves the links of all kinds at once: it
holds only the rows that have duplicates.
"""

from functools import lru_cache

import numpy as np
import polars as pl

from dataops.images.bit_blocks import ALL_PAIRS, BlockSearch, plan_searches
from dataops.images.near_duplicates import find_clusters, find_connected, has_neighbour
from dataops.snapshot import Draft, Record, read_table
from tasks.curate.exact_duplicates import DROP_REASONS, LINKS
from tasks.curate.inspect_images import inspected_name
from tasks.curate.steps import RANKING, Step, rank_columns, read_remaining, row_id, sort_best_first, stack_bytes
from tasks.engine.partition_tables import (
    partition_by_hash,
    partition_by_index,
    read_one,
    read_partition,
    table_name,
    write_partitions,
)

CLUSTERS = "clusters.table"
"""Scratch table, with one partition per group of shards: `row`, `name_high`, `name_low`, `worse`."""
_MIX = np.uint64(0x9E3779B97F4A7C15)  # of the golden ratio (Knuth, TAOCP 3, section 6.4), for partitions of equal size


@lru_cache(maxsize=8)
def block_searches(bits: int, distance: int) -> tuple[BlockSearch, ...]:
    """Return the searches that together find all pairs: a single one if there is a single partition."""
    return tuple(plan_searches(distance)) if bits else (ALL_PAIRS,)


def count_partitions(step: Step) -> int:
    """Return the number of partitions of all blocks."""
    return len(block_searches(step.near_bits, step.config.near_duplicate_distance)) << step.near_bits


def _search_of(step: Step) -> BlockSearch:
    """Return the search of a partition: partitions are numbered block by block."""
    return block_searches(step.near_bits, step.config.near_duplicate_distance)[step.number >> step.near_bits]


def put_hashes(draft: Draft, step: Step) -> Record:
    """Write the hashes of the remaining rows of a group, partitioned by the value of each block."""
    rows = read_remaining(draft, step, DROP_REASONS, ["uid", "caption", "original_area", "phash"])
    scoped = rank_columns(rows, step.config).select("row", "scope").with_columns(rows["phash"])
    hashes, blocks, sizes = rows["phash"].to_numpy(), list[pl.DataFrame](), list[int]()
    for search in block_searches(step.near_bits, step.config.near_duplicate_distance):
        mixed = pl.Series((hashes & np.uint64(search.shared)) * _MIX, dtype=pl.UInt64)
        block, more = partition_by_hash(scoped.with_columns(mixed=mixed), "mixed", step.near_bits)
        blocks, sizes = [*blocks, block.drop("mixed")], sizes + more
    write_partitions(draft, table_name("near-hashes", step.number), pl.concat(blocks), sizes)
    return Record(task=step.id)


def find_candidates(draft: Draft, step: Step) -> Record:
    """Write the rows of a partition that have a close hash in it, partitioned by group."""
    rows = read_partition(draft, step.group_tables("near-hashes"), step.number)
    hashes, scopes = rows["phash"].to_numpy(), rows["scope"].to_numpy().view(np.int64)
    found = rows.filter(pl.Series(has_neighbour(hashes, scopes, step.config.near_duplicate_distance, _search_of(step))))
    partitions = partition_by_index(found.select("row"), found["part"], step.groups)
    write_partitions(draft, table_name("near-candidates", step.number), *partitions)
    return Record(task=step.id)


def put_candidates(draft: Draft, step: Step) -> Record:
    """Write the candidates of a group: their ranking, and, by partition, the columns that they are compared by."""
    names = [table_name("near-candidates", number) for number in range(count_partitions(step))]
    found = read_partition(draft, names, step.number).rename({"part": "partition"})
    rows = read_remaining(draft, step, [], ["uid", "caption", "original_area", "phash"])
    rows = rows.join(found.select("row").unique(), on="row", how="semi", maintain_order="left")
    ranked = rank_columns(rows, step.config).with_columns(rows["phash"], part=pl.lit(step.number, pl.UInt32))
    ranked = ranked.with_columns(id=row_id(), thumbnail=_read_thumbnails(draft, step, rows["row"]))
    write_partitions(draft, table_name("near-ranking", step.number), ranked.select("id", *RANKING))
    compared = found.join(ranked.select("row", "id", "phash", "scope", "thumbnail"), on="row", maintain_order="left")
    partitions = partition_by_index(compared.drop("row", "partition"), compared["partition"], len(names))
    write_partitions(draft, table_name("near-compared", step.number), *partitions)
    return Record(task=step.id)


def _read_thumbnails(draft: Draft, step: Step, rows: pl.Series) -> pl.Series:
    """Return the thumbnails of rows of a group, given in ascending order; it holds one raw shard's at a time."""
    found, start, numbers = list[bytes](), 0, rows.to_numpy()
    for number, size in zip(step.shards, step.sizes, strict=True):
        inside = numbers[(numbers >= start) & (numbers < start + size)].astype(np.int64) - start
        if len(inside):
            column = read_table(draft.store, draft.path(inspected_name(number)), ["thumbnail"])["thumbnail"]
            found += column.take(inside).to_pylist()
        start += size
    return pl.Series(found, dtype=pl.Binary)


def link_near_duplicates(draft: Draft, step: Step) -> Record:
    """Compare the candidates of a partition, and link each near-duplicate to one row of its cluster."""
    rows = read_partition(draft, step.group_tables("near-compared"), step.number)
    thumbnails = stack_bytes(rows["thumbnail"].to_list())
    distance, tolerance = step.config.near_duplicate_distance, step.config.near_duplicate_tolerance
    scopes = rows["scope"].to_numpy().view(np.int64)
    first = find_clusters(rows["phash"].to_numpy(), scopes, thumbnails, distance, tolerance, _search_of(step))
    links = rows.select("id", representative=pl.col("id").gather(pl.Series(first)))
    links = links.filter(pl.col("id") != pl.col("representative"))
    write_partitions(draft, table_name("near-links", step.number), links)
    return Record(task=step.id)


def resolve_clusters(draft: Draft, step: Step) -> Record:
    """Write the cluster of each row that has duplicates, and whether a near-duplicate is better (CLUSTERS)."""
    exact = _read_all(draft, [name for kind in LINKS for name in step.partition_names(kind)])
    links, rows, worse = exact.select("id", "representative"), exact.drop("representative"), exact["id"].clear()
    if step.config.near_duplicates:
        near = _read_all(draft, [table_name("near-links", number) for number in range(count_partitions(step))])
        linked = pl.concat([near["id"], near["representative"]]).unique()
        ranked = _read_all(draft, step.group_tables("near-ranking")).filter(pl.col("id").is_in(linked.implode()))
        links, rows = pl.concat([links, near]), pl.concat([rows, ranked.select(rows.columns)])
        ordered = sort_best_first(ranked.join(_connect(near), on="id"))
        worse = ordered.filter(pl.col("cluster").is_duplicated() & ~pl.col("cluster").is_first_distinct())["id"]
    rows = rows.unique("id").join(_connect(links), on="id").sort("uid_high", "uid_low")
    halves = [pl.col(f"uid_{half}").first().over("cluster").alias(f"name_{half}") for half in ("high", "low")]
    clusters = rows.select("id", *halves, worse=pl.col("id").is_in(worse.implode())).sort("id")
    clusters = clusters.with_columns(row=(pl.col("id") % (1 << 32)).cast(pl.UInt32))
    write_partitions(
        draft, CLUSTERS, *partition_by_index(clusters.drop("id"), clusters["id"] // (1 << 32), step.groups)
    )
    return Record(task=step.id)


def _read_all(draft: Draft, names: list[str]) -> pl.DataFrame:
    return pl.concat(read_one(draft, name, 0) for name in names)


def _connect(links: pl.DataFrame) -> pl.DataFrame:
    """Return the connected components of the links: `id`, `cluster`."""
    ids = pl.concat([links["id"], links["representative"]]).unique().sort()
    ends = (ids.search_sorted(links[name]).cast(pl.Int64).to_numpy() for name in ("id", "representative"))
    return pl.DataFrame({"id": ids, "cluster": find_connected(len(ids), *ends)})
