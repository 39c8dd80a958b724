"""Choose which rows curate drops for their own image, as duplicates or for an evaluation set, over all raw shards.

Each step is a map over batches of raw shards or over partitions of hashes, so no process holds all
rows. The columns that rows are compared by move between batches and partitions by exchanges
(tasks.engine.exchange). A step compares only the rows that the steps before it have kept. No result
depends on the order of the rows or on how they are partitioned.

Near-duplicates: rows with close hashes agree completely in some block of bits
(images/near_duplicates.py), so each row is written to one partition per block, by the block's
value. The few rows that have a close hash there are written again, with their thumbnails, to be
compared. The result is links between two rows. The links of all kinds are connected by partitions,
in rounds. The rows of a cluster then meet in a partition, where the best one is chosen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from dataops.images.near_duplicates import (
    ALL_PAIRS,
    BlockSearch,
    find_clusters,
    find_connected,
    has_neighbour,
    plan_searches,
)
from dataops.kernels.hashes import hash128, uid_halves
from dataops.reasons import Reason
from dataops.snapshot import Draft, Record, fetch_table, read_table
from dataops.trace.sources import number_sources
from tasks.curate.config import CurateConfig, Units
from tasks.curate.inspect_images import RawShard, caption_scopes, inspected_name
from tasks.engine.exchange import Exchange, Step, group_units, number_partitions, put_frame, read_frame, receive, send

_MANY, _MANY_NEAR = 1024, 256
"""Number of units from which on they are larger; those of each block of bits have rows of few bytes."""
LINK_SHARE = 3
"""Number of partitions of rows for one of links."""
MEMORY_BYTES = 1 << 30
"""Memory of a merge task."""
RANKING = ["area", "characters", "uid_high", "uid_low"]
"""Order in which duplicates are kept: the largest original, then the longest caption, then the smallest uid. Of several
sources, `area` is larger for an earlier one, whatever the images."""
_AREA_BITS = 48
"""Bits of the area of an original: more pixels than any decoder accepts."""
MIX = np.uint64(0x9E3779B97F4A7C15)  # of the golden ratio (Knuth, TAOCP 3, section 6.4), for partitions of equal size
NEAR = 1 << 63
"""Bit of a node that only links of near-duplicates connect: a row is two nodes, its id with and without the bit."""
CANDIDATE, DROPPED, OVERLAP = 0, 1, 2
"""Values of `state`, before rows are compared: kept so far, dropped for its own image, dropped for an evaluation set."""
DROP_REASONS = [Reason.PLACEHOLDER, Reason.EXACT_DUPLICATE, Reason.NEAR_DUPLICATE]
"""Drop reasons of the steps. Scratch tables hold the index in this list plus 1; 0 is a kept row."""

EXCHANGES: dict[str, tuple[str, str, int]] = {
    "bytes": ("batches", "partitions", 65),
    "drops": ("partitions", "batches", 5),
    "links": ("partitions", "link_partitions", 8),
    "near-hashes": ("batches", "near_partitions", 20),
    "near-candidates": ("near_partitions", "batches", 1),
    "near-compared": ("batches", "near_partitions", 25),
    "near-links": ("near_partitions", "link_partitions", 4),
    "connected": ("link_partitions", "link_partitions", 16),
    "labels": ("link_partitions", "batches", 20),
    "members": ("batches", "partitions", 52),
    "clusters": ("partitions", "batches", 21),
}
"""The exchanges of the steps: from which units to which, and the expected bytes of a row (of a block, for blocks)."""
_ROW = (1 << 32) - 1
"""Mask of the number of a row in the id of a row (`row_id`)."""
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


@dataclass(frozen=True)
class CurateJob:
    """What all steps share."""

    config: CurateConfig
    rows: int
    batches: int
    partitions: int
    block_partitions: int
    """Number of partitions of each block of bits in the search for near-duplicates."""
    matches: str | None = None
    """Store name of the table of matches with evaluation sets."""
    round: int = 0
    """Number of the round of connect_links."""

    @property
    def layout(self) -> str:
        """Return the number of batches and partitions, and the round."""
        return f"{self.batches}x{self.partitions}x{self.block_partitions}" + (f"-{self.round}" if self.round else "")

    @property
    def searches(self) -> Sequence[BlockSearch]:
        """Return the searches that together find all near pairs: a single one if there is a single partition."""
        return plan_searches(self.config.near_duplicate_distance) if self.block_partitions > 1 else [ALL_PAIRS]

    @property
    def near_partitions(self) -> int:
        """Return the number of partitions of all blocks; they are numbered block by block."""
        return len(self.searches) * self.block_partitions

    @property
    def link_partitions(self) -> int:
        """Return the number of partitions of links: few rows have any."""
        return -(-self.partitions // LINK_SHARE)

    def exchange(self, kind: str) -> Exchange:
        """Return one of EXCHANGES."""
        writers, partitions, row_bytes = EXCHANGES[kind]
        size = self.rows * row_bytes * (len(self.searches) if kind.startswith("near-") else 1)
        name = f"{kind}-{self.round}" if kind == "connected" else kind
        return Exchange(name, getattr(self, writers), getattr(self, partitions), size, MEMORY_BYTES)


CurateStep = Step[CurateJob]
"""A step of choose_rows. `inputs` of a batch are its raw shards (RawShard)."""


def plan_job(config: CurateConfig, rows: int, batches: int, matches: str | None = None) -> CurateJob:
    """Return the job for so many rows."""
    units = config.units
    sizes = (
        _scale_rows(rows, units.partition_rows, units),
        _scale_rows(rows, units.near_partition_rows, units, _MANY_NEAR),
    )
    partitions, near = (max(-(-rows // size), 1) for size in sizes)
    return CurateJob(config, rows, batches, partitions, near, matches)


def _scale_rows(rows: int, least: int, units: Units, many: int = _MANY) -> int:
    """Return the rows of a unit: the least, or where that gives more than `many`, up to max_growth times as many."""
    return min(max(rows // many, least), least * units.max_growth)


def batch_shards(shards: Sequence[RawShard], units: Units) -> list[tuple[RawShard, ...]]:
    """Return batches of neighbouring raw shards, of about batch_rows rows or, of many rows, more."""
    sizes = [shard.size for shard in shards]
    return group_units(shards, sizes, _scale_rows(sum(sizes), units.batch_rows, units))


def put_rows(draft: Draft, step: CurateStep) -> None:
    """Write what all other steps need of the rows of a batch, and put those that can be decoded by their SHA-256."""
    columns = ["uid", "url", "caption", "sha256", "original_area", "drop_reason", "phash"]
    columns += ["source"] if step.job.config.sources else []
    offset, frames, notes = 0, list[pl.DataFrame](), list[pl.DataFrame]()
    for shard in step.inputs:
        table = fetch_table(draft.store, draft.path(inspected_name(shard.number)), columns)
        rows = _add_overlap(draft, step.job, cast(pl.DataFrame, pl.from_arrow(table)).with_row_index("row", offset))
        frames.append(_describe(rows, step.job.config))
        noted = pl.col("drop_reason").is_not_null() | pl.col("overlap").is_not_null()
        notes.append(rows.filter(noted).select("row", "drop_reason", "overlap"))
        offset += shard.size
    rows = pl.concat(frames)
    put_frame(draft, _rows_name(step), rows.drop("sha_high", "sha_low", "url"))
    put_frame(draft, _notes_name(step), pl.concat(notes))
    decoded = rows.filter(pl.col("is_decoded") > 0)
    decoded = decoded.select("row", "state", *RANKING, "scope", "sha_high", "sha_low", "url")
    send(draft, step, "bytes", decoded, "sha_high")


def _add_overlap(draft: Draft, job: CurateJob, rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows with `overlap`, the names of the evaluation sets that have the image, joined by commas."""
    if not job.matches:
        return rows.with_columns(overlap=pl.lit(None, pl.String))
    found = pl.DataFrame(read_table(draft.store, job.matches, ["uid", "evaluation_set"])).unique()
    found = found.sort("evaluation_set").group_by("uid", maintain_order=True)
    sets = found.agg(overlap=pl.col("evaluation_set").str.join(","))
    return rows.join(sets, on="uid", how="left", maintain_order="left")


def _describe(rows: pl.DataFrame, config: CurateConfig) -> pl.DataFrame:
    """Return the rows as numbers: `state`, RANKING, `scope`, hashes; rows of equal scope only can be duplicates."""
    drops = config.overlap is not None and config.overlap.action == "drop"
    state = pl.when(pl.col("drop_reason").is_not_null()).then(DROPPED)
    state = state.when(pl.col("overlap").is_not_null() & drops).then(OVERLAP).otherwise(CANDIDATE)
    scopes = caption_scopes(rows["caption"].to_list(), same_caption=config.same_caption)
    uids, shas = uid_halves(rows["uid"].to_arrow()), hash128(rows["sha256"].to_arrow())
    hashes = {"uid_high": uids[:, 0], "uid_low": uids[:, 1], "scope": scopes, "sha_high": shas[:, 0]}
    hashes |= {"sha_low": shas[:, 1], "url": hash128(rows["url"].to_arrow())[:, 0]}
    return rows.select(
        "row",
        state=state.cast(pl.UInt8),
        is_decoded=pl.col("phash").is_not_null().cast(pl.UInt8),
        phash=pl.col("phash").fill_null(0),
        area=pl.col("original_area") + (_rank_sources(rows, config.sources) if config.sources else 0),
        characters=pl.col("caption").str.len_chars(),
    ).with_columns(**{name: pl.Series(np.ascontiguousarray(column)) for name, column in hashes.items()})


def _rank_sources(rows: pl.DataFrame, names: Sequence[str]) -> pl.Series:
    """Return what is added to the area of each row, so that an earlier source is preferred."""
    return (len(names) - number_sources(rows["source"], names).cast(pl.Int64)) * (1 << _AREA_BITS)


def _rows_name(step: CurateStep) -> str:
    return f"rows-{step.job.layout}-{step.number:05d}.table"


def _notes_name(step: CurateStep) -> str:
    return f"notes-{step.job.layout}-{step.number:05d}.table"


def read_rows(draft: Draft, step: CurateStep) -> pl.DataFrame:
    """Return the rows of a batch, in their order, as put_rows wrote them."""
    return read_frame(draft, _rows_name(step))


def read_notes(draft: Draft, step: CurateStep) -> pl.DataFrame:
    """Return the rows of a batch that have one: `drop_reason` of the image alone, `overlap`."""
    return read_frame(draft, _notes_name(step))


def put_links(draft: Draft, step: CurateStep, kind: str, *links: pl.DataFrame) -> None:
    """Write links (two columns) by the partitions of both ends, the larger one first, for connect_links."""
    first, second = links[0].columns
    every = pl.concat(links).filter(pl.col(first) != pl.col(second))
    ends = every.select(node=pl.max_horizontal(first, second), label=pl.min_horizontal(first, second))
    exchange = step.job.exchange(kind)
    numbers = [partition_nodes(ends[name], exchange.partitions) for name in ends.columns]
    exchange.write(draft, step.number, pl.concat([ends, ends]), np.concatenate(numbers))


def partition_nodes(nodes: pl.Series, partitions: int) -> NDArray[np.uint64]:
    """Return the partition of each row id; both nodes of a row (NEAR) are in the same one."""
    return number_partitions(pl.Series((nodes.to_numpy() & np.uint64(NEAR - 1)) * MIX, dtype=pl.UInt64), partitions)


def row_id() -> pl.Expr:
    """Return an expression for the number (uint64) that identifies a row of all batches."""
    return pl.col("part").cast(pl.UInt64) * (1 << 32) + pl.col("row").cast(pl.UInt64)


def sort_best_first(rows: pl.DataFrame) -> pl.DataFrame:
    """Sort rows by RANKING; `id` decides between rows of one uid."""
    return rows.sort([*RANKING, "id"], descending=[True, True, False, False, False])


def stack_bytes(values: Sequence[bytes]) -> NDArray[np.uint8]:
    """Return N binary values of K bytes each as an array (N, K)."""
    return np.frombuffer(b"".join(values), np.uint8).reshape(len(values), -1 if len(values) else 0)


def choose_rows(shards: Sequence[RawShard], config: CurateConfig, matches: str | None, run: RunSteps) -> None:
    """Decide for each row whether it is dropped, with the first reason that applies; see `read_decisions`.

    Args:
        shards: raw shards whose INSPECTED tables are in the store.
        matches: store name of the table of matches with evaluation sets, if the config names any.
    """
    batches = batch_shards(shards, config.units)
    job = plan_job(config, sum(shard.size for shard in shards), len(batches), matches)
    partitions, near_partitions = [()] * job.partitions, [()] * job.near_partitions
    link_partitions = [()] * job.link_partitions

    def map_units(
        units: Sequence[tuple[object, ...]], function: Callable[[Draft, CurateStep], Record | None], *exchanges: str
    ) -> list[Record]:
        records = run([Step(function, number, job, inputs) for number, inputs in enumerate(units)])
        for kind in exchanges:
            run([*job.exchange(kind).merge_steps()])
        return records

    if not batches:
        return
    map_units(batches, put_rows, "bytes")
    map_units(partitions, find_byte_duplicates, "drops", "links")
    if config.near_duplicates:
        map_units(batches, put_hashes, "near-hashes")
        map_units(near_partitions, find_candidates, "near-candidates")
        map_units(batches, put_candidates, "near-compared")
        map_units(near_partitions, link_near_duplicates, "near-links")
    while any(record.facts["changed"] for record in map_units(link_partitions, connect_links, "connected")):
        job = replace(job, round=job.round + 1)
    map_units(link_partitions, put_labels, "labels")
    job = replace(job, round=0)
    map_units(batches, put_members, "members")
    map_units(partitions, resolve_clusters, "clusters")
    map_units(batches, put_decisions)


def put_decisions(draft: Draft, step: CurateStep) -> None:
    """Write the decisions on the rows of a batch, one table per raw shard."""
    rows = read_rows(draft, step).select("row", "uid_high", "uid_low", "state", "is_decoded", "phash")
    clusters = receive(draft, step, "clusters")
    reasons, names = np.zeros(rows.height, np.uint8), [""] * rows.height
    drops = receive(draft, step, "drops")
    reasons[drops["row"].to_numpy()] = drops["reason"].to_numpy()
    worse = clusters.filter(pl.col("worse") > 0)["row"].to_numpy()
    reasons[worse] = DROP_REASONS.index(Reason.NEAR_DUPLICATE) + 1
    for row, high, low in clusters.select("row", "name_high", "name_low").iter_rows():
        names[row] = f"{high:016x}{low:016x}"
    rows = rows.join(read_notes(draft, step), on="row", how="left", maintain_order="left")
    overlap = pl.when(pl.col("state") == OVERLAP).then(pl.lit(Reason.EVALUATION_OVERLAP))
    duplicate = pl.Series([None, *DROP_REASONS], dtype=pl.String)[reasons]
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
        put_frame(draft, _decisions_name(shard.number), decisions[start : start + shard.size])
        start += shard.size


def read_decisions(draft: Draft, number: str) -> pa.Table:
    """Return the decisions (DECISIONS) on the rows of a raw shard."""
    return cast(pa.Table, read_frame(draft, _decisions_name(number)).to_arrow().cast(DECISIONS))


def _decisions_name(number: str) -> str:
    return f"decisions-{number}.table"


def find_byte_duplicates(draft: Draft, step: CurateStep) -> None:
    """Find placeholders among all rows of a partition, then rows with equal bytes among those that can be kept.

    A row that another one is dropped for must be good enough to be kept.
    """
    rows = receive(draft, step, "bytes")
    key, most = ["sha_high", "sha_low"], step.job.config.max_addresses
    frequent = rows.group_by(key).len().filter(pl.col("len") > most).drop("len")
    urls = rows.join(frequent, on=key, how="semi").group_by(key).agg(pl.col("url").n_unique())
    placeholders = urls.filter(pl.col("url") > most).drop("url")
    rows = rows.filter(pl.col("state") != DROPPED)
    remaining = rows.filter(pl.col("state") == CANDIDATE).join(placeholders, on=key, how="anti", maintain_order="left")
    drops = rows.join(placeholders, on=key, how="semi").select(_with_reason(Reason.PLACEHOLDER))
    key += ["scope"]
    repeated = remaining.group_by(key).len().filter(pl.col("len") > 1).drop("len")
    links = sort_best_first(remaining.join(repeated, on=key, how="semi").with_columns(id=row_id()))
    links = links.select("part", "row", "id", representative=pl.col("id").first().over(key))
    put_links(draft, step, "links", links.select("id", "representative"))
    worse = links.filter(pl.col("id") != pl.col("representative")).select(_with_reason(Reason.EXACT_DUPLICATE))
    drops = pl.concat([drops, worse])
    send(draft, step, "drops", drops.drop("part"), drops["part"])


def _with_reason(reason: str) -> list[pl.Expr]:
    return [pl.col("part"), pl.col("row"), pl.lit(DROP_REASONS.index(reason) + 1, pl.UInt8).alias("reason")]


def put_hashes(draft: Draft, step: CurateStep) -> None:
    """Put the hashes of the remaining rows of a batch by the value of each block."""
    rows, size = read_rows(draft, step).filter(pl.col("state") == CANDIDATE), step.job.block_partitions
    drops = receive(draft, step, "drops")
    rows = rows.join(drops, on="row", how="anti", maintain_order="left").select("row", "scope", "phash")
    hashes = rows["phash"].to_numpy()
    mixed = (pl.Series((hashes & np.uint64(search.shared)) * MIX, dtype=pl.UInt64) for search in step.job.searches)
    numbers = [number_partitions(values, size) + np.uint64(block * size) for block, values in enumerate(mixed)]
    send(draft, step, "near-hashes", pl.concat([rows] * len(numbers)), np.concatenate(numbers))


def find_candidates(draft: Draft, step: CurateStep) -> None:
    """Put the rows of a partition that have a close hash in it by batch."""
    rows = receive(draft, step, "near-hashes")
    search = step.job.searches[step.number // step.job.block_partitions]
    hashes, scopes = rows["phash"].to_numpy(), rows["scope"].to_numpy().view(np.int64)
    found = rows.filter(pl.Series(has_neighbour(hashes, scopes, step.job.config.near_duplicate_distance, search)))
    send(draft, step, "near-candidates", found.select("row"), found["part"])


def put_candidates(draft: Draft, step: CurateStep) -> None:
    """Put the columns by which the candidates of a batch are compared by partition."""
    found = receive(draft, step, "near-candidates").rename({"part": "partition"})
    rows = read_rows(draft, step).filter(pl.col("state") == CANDIDATE)
    rows = rows.join(found.select("row").unique(), on="row", how="semi", maintain_order="left")
    rows = rows.select("row", "phash", "scope", thumbnail=_read_thumbnails(draft, step, rows["row"]))
    compared = found.join(rows, on="row", maintain_order="left")
    send(draft, step, "near-compared", compared.drop("partition"), compared["partition"])


def _read_thumbnails(draft: Draft, step: CurateStep, rows: pl.Series) -> pl.Series:
    """Return the thumbnails of rows of a batch, given in ascending order; it holds one raw shard's at a time."""
    found, start, numbers = list[bytes](), 0, rows.to_numpy()
    for shard in step.inputs:
        inside = numbers[(numbers >= start) & (numbers < start + shard.size)].astype(np.int64) - start
        if len(inside):
            column = fetch_table(draft.store, draft.path(inspected_name(shard.number)), ["thumbnail"])["thumbnail"]
            found += column.take(inside).to_pylist()
        start += shard.size
    return pl.Series(found, dtype=pl.Binary)


def link_near_duplicates(draft: Draft, step: CurateStep) -> None:
    """Compare the candidates of a partition, and link each near-duplicate to one row of its cluster."""
    rows = receive(draft, step, "near-compared").with_columns(id=row_id())
    thumbnails = stack_bytes(rows["thumbnail"].to_list())
    distance, tolerance = step.job.config.near_duplicate_distance, step.job.config.near_duplicate_tolerance
    scopes = rows["scope"].to_numpy().view(np.int64)
    search = step.job.searches[step.number // step.job.block_partitions]
    first = find_clusters(rows["phash"].to_numpy(), scopes, thumbnails, distance, tolerance, search)
    links = rows.select("id", representative=pl.col("id").gather(pl.Series(first)))
    put_links(draft, step, "near-links", links, links.select(pl.all() | pl.lit(NEAR, pl.UInt64)))


def connect_links(draft: Draft, step: CurateStep) -> Record:
    """Connect the links of a partition: put a link from each node to the smallest one that it is connected with here.

    Each link lies in the partitions of both its ends. If no partition has changed any in a round,
    each node of a connected component is linked to the smallest one of it, and to no other.
    """
    job = step.job
    previous, kinds = replace(job, round=job.round - 1), ["connected"]
    if not job.round:
        previous, kinds = job, ["links", *(["near-links"] if job.config.near_duplicates else [])]
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
    links = receive(draft, step, "connected").drop("part")
    links = pl.concat([links, links.with_columns(node="label")]).unique()
    links = links.filter(pl.Series(partition_nodes(links["node"], step.job.link_partitions) == step.number))
    is_near, row = pl.col("node") >= NEAR, [(pl.col(name) & (NEAR - 1)).alias(name) for name in links.columns]
    near, every = (links.filter(one).select(row) for one in (is_near, ~is_near))
    labels = every.rename({"label": "cluster"}).join(near.rename({"label": "near"}), on="node", how="left")
    labels = labels.with_columns(is_near=pl.col("near").is_not_null().cast(pl.UInt8), near=pl.col("near").fill_null(0))
    labels = labels.with_columns(row=(pl.col("node") & _ROW).cast(pl.UInt32))
    send(draft, step, "labels", labels.drop("node"), labels["node"] // (1 << 32))


def put_members(draft: Draft, step: CurateStep) -> None:
    """Put the rows of a batch that have duplicates by cluster."""
    labels = receive(draft, step, "labels").drop("part")
    rows = read_rows(draft, step).select("row", *RANKING).join(labels, on="row", maintain_order="left")
    exchange = step.job.exchange("members")
    exchange.write(draft, step.number, rows, partition_nodes(rows["cluster"], exchange.partitions))


def resolve_clusters(draft: Draft, step: CurateStep) -> None:
    """Put the name of each row's cluster, the smallest uid, and whether a near-duplicate is better, by batch."""
    rows = receive(draft, step, "members").with_columns(id=row_id())
    ordered = sort_best_first(rows.filter(pl.col("is_near") > 0))
    worse = ordered.filter(~pl.col("near").is_first_distinct())["id"]
    rows = rows.sort("uid_high", "uid_low")
    halves = [pl.col(f"uid_{half}").first().over("cluster").alias(f"name_{half}") for half in ("high", "low")]
    found = rows.select("part", "row", *halves, worse=pl.col("id").is_in(worse.implode()).cast(pl.UInt8))
    send(draft, step, "clusters", found.drop("part"), found["part"])
