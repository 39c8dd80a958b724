"""Curate's search for near-duplicates, in steps as those of tasks.curate.steps, and the clusters of all duplicates.

What is near by its hash agrees wholly in some block of bits (dataops.images.bit_blocks): rows go to the range of each block's
value. Only those that have mates there, few, go again, with their thumbnails, to be compared. What is found are links
between two rows. Links of all kinds are settled at once, by one worker: it holds the rows that have duplicates, no other.
"""

from functools import lru_cache

import numpy as np
import polars as pl

from dataops.images.bit_blocks import ALL_PAIRS, BlockSearch, plan_searches
from dataops.images.near_duplicates import find_clusters, find_connected, has_neighbour
from dataops.snapshot import Draft, Record, read_table
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

_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # of the golden ratio (Knuth, TAOCP 3, section 6.4): so that ranges are alike


@lru_cache(maxsize=8)
def block_searches(bits: int, distance: int) -> tuple[BlockSearch, ...]:
    """The searches that find all pairs; one where there is one range."""
    return tuple(plan_searches(distance)) if bits else (ALL_PAIRS,)


def _search_of(step: Step) -> BlockSearch:
    """What is searched in a range of a block's values: ranges are numbered block by block."""
    return block_searches(step.near_bits, step.config.near_duplicate_distance)[step.number >> step.near_bits]


def count_partitions(step: Step) -> int:
    """The ranges of all blocks."""
    return len(block_searches(step.near_bits, step.config.near_duplicate_distance)) << step.near_bits


def put_hashes(draft: Draft, step: Step) -> Record:
    """The hashes of the rows of a group that are still there, by range of each block's value."""
    kinds = ["gone-bytes", "gone-pixels"]
    rows = read_remaining(draft, step, kinds, ["uid", "caption", "original_area", "phash"])
    known = rank_columns(rows, step.config).select("row", "group").with_columns(rows["phash"])
    hashes, blocks, sizes = rows["phash"].to_numpy(), list[pl.DataFrame](), list[int]()
    for block in block_searches(step.near_bits, step.config.near_duplicate_distance):
        spread = pl.Series((hashes & np.uint64(block.shared)) * _SPREAD, dtype=pl.UInt64)
        found, more = partition_by_hash(known.with_columns(spread=spread), "spread", step.near_bits)
        blocks, sizes = [*blocks, found.drop("spread")], sizes + more
    write_partitions(draft, table_name("near-hashes", step.number), pl.concat(blocks), sizes)
    return Record(task=step.id)


def find_candidates(draft: Draft, step: Step) -> Record:
    """The rows of a range that another is near to by its hash; a piece a group."""
    rows = read_partition(draft, step.tables("near-hashes"), step.number)
    hashes, groups = rows["phash"].to_numpy(), rows["group"].to_numpy().view(np.int64)
    found = rows.filter(pl.Series(has_neighbour(hashes, groups, step.config.near_duplicate_distance, _search_of(step))))
    write_partitions(
        draft,
        table_name("near-mates", step.number),
        *partition_by_index(found.select("row"), found["part"], step.groups),
    )
    return Record(task=step.id)


def put_candidates(draft: Draft, step: Step) -> Record:
    """The rows of a group that have mates, with all that it takes to compare them, by range; and what ranks them."""
    places = [table_name("near-mates", number) for number in range(count_partitions(step))]
    found = read_partition(draft, places, step.number).rename({"part": "range"})
    rows = read_remaining(draft, step, [], ["uid", "caption", "original_area", "phash"])
    rows = rows.join(found.select("row").unique(), on="row", how="semi", maintain_order="left")
    nodes = rank_columns(rows, step.config).with_columns(rows["phash"], part=pl.lit(step.number, pl.UInt32))
    nodes = nodes.with_columns(id=row_id(), thumbnail=_thumbnails(draft, step, rows["row"]))
    write_partitions(draft, table_name("near-nodes", step.number), nodes.select("id", *RANKING))
    carried = found.join(nodes.select("row", "id", "phash", "group", "thumbnail"), on="row", maintain_order="left")
    pieces = partition_by_index(carried.drop("row", "range"), carried["range"], len(places))
    write_partitions(draft, table_name("near-carried", step.number), *pieces)
    return Record(task=step.id)


def _thumbnails(draft: Draft, step: Step, rows: pl.Series) -> pl.Series:
    """Of some rows of a group, ascending; those of one raw shard are in memory at a time."""
    found, start, wanted = list[bytes](), 0, rows.to_numpy()
    for number, size in zip(step.shards, step.sizes, strict=True):
        some = wanted[(wanted >= start) & (wanted < start + size)].astype(np.int64) - start
        if len(some):
            column = read_table(draft.store, draft.path(inspected_name(number)), ["thumbnail"])["thumbnail"]
            found += column.take(some).to_pylist()
        start += size
    return pl.Series(found, dtype=pl.Binary)


def link_near_duplicates(draft: Draft, step: Step) -> Record:
    """The near-duplicates in a range, each linked to one of those that it is near to, if not directly."""
    rows = read_partition(draft, step.tables("near-carried"), step.number)
    thumbnails = stack_bytes(rows["thumbnail"].to_list())
    distance, tolerance = step.config.near_duplicate_distance, step.config.near_duplicate_tolerance
    groups = rows["group"].to_numpy().view(np.int64)
    first = find_clusters(rows["phash"].to_numpy(), groups, thumbnails, distance, tolerance, _search_of(step))
    links = rows.select("id", better=pl.col("id").gather(pl.Series(first))).filter(pl.col("id") != pl.col("better"))
    write_partitions(draft, table_name("near-links", step.number), links)
    return Record(task=step.id)


def resolve_clusters(draft: Draft, step: Step) -> Record:
    """Of each row that has duplicates the name of its cluster, and whether a near-duplicate is better; a piece a group."""
    same = _all(draft, step.range_tables("same-bytes") + step.range_tables("same-pixels"))
    links, nodes, worse = same.select("id", "better"), same.drop("better"), same["id"].clear()
    if step.config.near_duplicates:
        near = _all(draft, [table_name("near-links", number) for number in range(count_partitions(step))])
        ends = pl.concat([near["id"], near["better"]]).unique()
        known = _all(draft, step.tables("near-nodes")).filter(pl.col("id").is_in(ends.implode()))
        links, nodes = pl.concat([links, near]), pl.concat([nodes, known.select(nodes.columns)])
        ordered = sort_best_first(known.join(_clusters(near), on="id"))
        worse = ordered.filter(pl.col("cluster").is_duplicated() & ~pl.col("cluster").is_first_distinct())["id"]
    found = nodes.unique("id").join(_clusters(links), on="id").sort("uid_high", "uid_low")
    halves = [pl.col(f"uid_{half}").first().over("cluster").alias(f"name_{half}") for half in ("high", "low")]
    settled = found.select("id", *halves, worse=pl.col("id").is_in(worse.implode()))
    rows = settled.sort("id").with_columns(row=(pl.col("id") % (1 << 32)).cast(pl.UInt32))
    write_partitions(draft, "settled.table", *partition_by_index(rows.drop("id"), rows["id"] // (1 << 32), step.groups))
    return Record(task=step.id)


def _all(draft: Draft, names: list[str]) -> pl.DataFrame:
    return pl.concat(read_one(draft, name, 0) for name in names)


def _clusters(links: pl.DataFrame) -> pl.DataFrame:
    """The connected components: `id`, `cluster`."""
    ids = pl.concat([links["id"], links["better"]]).unique().sort()
    ends = (ids.search_sorted(links[name]).cast(pl.Int64).to_numpy() for name in ("id", "better"))
    return pl.DataFrame({"id": ids, "cluster": find_connected(len(ids), *ends)})
