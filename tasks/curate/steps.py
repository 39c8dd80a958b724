"""Define the steps of choose_rows: tasks on a batch of raw shards or on a partition of hashes, and how they read rows.

The columns that rows are compared by move between batches and partitions by exchanges (tasks.engine.exchange). No result
depends on the order of the rows or on how they are partitioned.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from dataops.images.bit_blocks import ALL_PAIRS, BlockSearch, plan_searches
from dataops.kernels.hashes import hash128, uid_halves
from dataops.snapshot import Draft, fetch_table, read_table
from dataops.trace.source_numbers import number_sources
from tasks.curate.config import CurateConfig
from tasks.curate.inspect_images import inspected_name
from tasks.engine.exchange import Exchange, Step, group_units, number_partitions, put_frame, read_frame

BATCH_ROWS, PARTITION_ROWS, NEAR_PARTITION_ROWS = 1 << 17, 1 << 20, 1 << 21
"""Approximate number of rows of a batch of raw shards, of a partition of hashes, and of one in the search for
near-duplicates, where each further partition costs a search in every block of bits."""
MAX_GROWTH = 8
"""Where there are many rows, units are up to so many times larger: they bound the memory of a worker, and fewer of them
need fewer requests."""
UNITS, NEAR_UNITS = 1024, 256
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
DROP_REASONS = ["placeholder", "exact_duplicate", "pixel_duplicate", "near_duplicate"]
"""Drop reasons of the steps. Scratch tables hold the index in this list plus 1; 0 is a kept row."""

EXCHANGES: dict[str, tuple[str, str, int]] = {
    "bytes": ("batches", "partitions", 65),
    "drops-bytes": ("partitions", "batches", 5),
    "links-bytes": ("partitions", "link_partitions", 8),
    "pixels": ("batches", "partitions", 69),
    "drops-pixels": ("partitions", "batches", 5),
    "links-pixels": ("partitions", "link_partitions", 8),
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


class ShardRows(NamedTuple):
    """A raw shard in a batch."""

    number: str
    rows: int


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
"""A step of choose_rows. `inputs` of a batch are its raw shards (ShardRows)."""


def plan_job(config: CurateConfig, rows: int, batches: int, matches: str | None = None) -> CurateJob:
    """Return the job for so many rows."""
    sizes = (scale_rows(rows, PARTITION_ROWS), scale_rows(rows, NEAR_PARTITION_ROWS, NEAR_UNITS))
    partitions, near = (max(-(-rows // size), 1) for size in sizes)
    return CurateJob(config, rows, batches, partitions, near, matches)


def scale_rows(rows: int, least: int, units: int = UNITS) -> int:
    """Return the rows of a unit: the least, or where that gives more than `units`, up to MAX_GROWTH times as many."""
    return min(max(rows // units, least), least * MAX_GROWTH)


def batch_shards(shards: Sequence[ShardRows]) -> list[tuple[ShardRows, ...]]:
    """Return batches of neighbouring raw shards, of about BATCH_ROWS rows or, of many rows, more."""
    sizes = [shard.rows for shard in shards]
    return group_units(shards, sizes, scale_rows(sum(sizes), BATCH_ROWS))


def put_rows(draft: Draft, step: CurateStep) -> None:
    """Write what all other steps need of the rows of a batch, and put those that can be decoded by their SHA-256."""
    columns = ["uid", "url", "caption", "sha256", "original_area", "drop_reason", "pixels", "phash"]
    columns += ["source"] if step.job.config.sources else []
    offset, frames, notes = 0, list[pl.DataFrame](), list[pl.DataFrame]()
    for shard in step.inputs:
        table = fetch_table(draft.store, draft.path(inspected_name(shard.number)), columns)
        rows = _add_overlap(draft, step.job, cast(pl.DataFrame, pl.from_arrow(table)).with_row_index("row", offset))
        frames.append(_describe(rows, step.job.config))
        noted = pl.col("drop_reason").is_not_null() | pl.col("overlap").is_not_null()
        notes.append(rows.filter(noted).select("row", "drop_reason", "overlap"))
        offset += shard.rows
    rows = pl.concat(frames)
    put_frame(draft, _rows_name(step), rows.drop("sha_high", "sha_low", "url"))
    put_frame(draft, _notes_name(step), pl.concat(notes))
    decoded = rows.filter(pl.col("is_decoded") > 0)
    decoded = decoded.select("row", "state", *RANKING, "scope", "sha_high", "sha_low", "url")
    step.job.exchange("bytes").write_by_hash(draft, step.number, decoded, "sha_high")


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
    scopes = np.zeros(rows.height, np.uint64)
    if config.same_caption:
        captions = [" ".join(caption.casefold().split()) for caption in rows["caption"].to_list()]
        scopes = hash128(pa.array(captions, pa.string()))[:, 0]
    pixels = np.frombuffer(b"".join(rows["pixels"].fill_null(b"\0" * 16).to_list()), ">u8").reshape(-1, 2)
    uids, shas = uid_halves(rows["uid"].to_arrow()), hash128(rows["sha256"].to_arrow())
    hashes = {"uid_high": uids[:, 0], "uid_low": uids[:, 1], "scope": scopes, "sha_high": shas[:, 0]}
    hashes |= {"sha_low": shas[:, 1], "url": hash128(rows["url"].to_arrow())[:, 0]}
    hashes |= {f"pixels_{name}": pixels[:, half].astype(np.uint64) for half, name in enumerate(("high", "low"))}
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


def read_remaining(draft: Draft, step: CurateStep, kinds: Sequence[str]) -> pl.DataFrame:
    """Return the rows of a batch that are not dropped, neither before the steps nor in the exchanges `kinds`."""
    rows = read_rows(draft, step).filter(pl.col("state") == CANDIDATE)
    for kind in kinds:
        drops = step.job.exchange(kind).read(draft, step.number)
        rows = rows.join(drops, on="row", how="anti", maintain_order="left")
    return rows


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
