"""Curate's choice, in steps that see a group of raw shards, or a range of hashes: which rows leave, and why.

tasks.curate.choose puts them in order. Near-duplicates, and the clusters that rows are part of, are in tasks.curate.near_duplicates.
What a row is compared by crosses in scratch tables (tasks.engine.partition_tables). Nothing depends on the order or partition of the rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from dataops.kernels.hashes import hash128, uid_halves
from dataops.snapshot import Draft, Record, read_table
from tasks.curate.config import CurateConfig
from tasks.curate.inspect_images import inspected_name
from tasks.engine.partition_steps import PartitionStep
from tasks.engine.partition_tables import (
    partition_by_hash,
    partition_by_index,
    read_partition,
    table_name,
    write_partitions,
)

GROUP_ROWS = 1 << 17
"""Of a group of raw shards, about: what bounds the memory of a worker."""
PARTITION_ROWS = 1 << 20
"""Of a range of hashes, about."""
NEAR_PARTITION_ROWS = 1 << 21
"""Of a range of hashes that are searched for near ones: to cut them costs a search for each block of bits."""
RANKING = ["area", "characters", "uid_high", "uid_low"]
"""What of duplicates one stays by: the largest original, then the longest caption, then the smallest uid."""
LEFT, GONE, OVERLAPS = 0, 1, 2
"""The `state` of a row before anything is compared: it is there, has left for its picture, or for an evaluation set's."""


@dataclass(frozen=True)
class Step(PartitionStep):
    """One step's work on a group of raw shards, or on a range of hashes."""

    function: Callable[[Draft, "Step"], Record]
    number: int
    """Of the group or range."""
    groups: int
    """In all."""
    bits: int
    """There are 2^bits ranges."""
    near_bits: int
    """And 2^near_bits of each block of bits, in the search for near-duplicates."""
    config: CurateConfig
    shards: tuple[str, ...] = ()
    """Numbers of the group's raw shards."""
    sizes: tuple[int, ...] = ()
    """Rows of each."""
    matches: str | None = None
    """Name in the store of the table of matches with evaluation sets."""

    def tables(self, kind: str) -> list[str]:
        """Names of the scratch tables that a map over the groups wrote."""
        return [table_name(kind, number) for number in range(self.groups)]


def group_shards(sizes: Sequence[int]) -> list[range]:
    """Raw shards of so many rows in groups, by their places."""
    found, start, rows = list[range](), 0, 0
    for place, size in enumerate(sizes):
        if rows and rows + size > GROUP_ROWS:
            found.append(range(start, place))
            start, rows = place, 0
        rows += size
    return [*found, range(start, len(sizes))] if sizes else []


def partition_bits(rows: int, most: int) -> int:
    """Into how many ranges (2^bits) the hashes of so many rows are cut, so that one has about `most`."""
    return (max(-(-rows // most), 1) - 1).bit_length()


def put_by_sha256(draft: Draft, step: Step) -> Record:
    """What is compared of the rows of a group whose pictures could be decoded, by range of the digest as fetched."""
    rows = read_inspected(draft, step, ["url", "sha256", "caption", "original_area", "phash"])
    rows = rows.filter(pl.col("phash").is_not_null())
    high, low = hash128(rows["sha256"].to_arrow()).T
    found = rank_columns(rows, step.config).with_columns(
        sha_high=pl.Series(high), sha_low=pl.Series(low), url=pl.Series(hash128(rows["url"].to_arrow())[:, 0])
    )
    write_partitions(draft, table_name("bytes", step.number), *partition_by_hash(found, "sha_high", step.bits))
    return Record(task=step.id)


def find_byte_duplicates(draft: Draft, step: Step) -> Record:
    """Of a range: pictures from too many addresses, among all that could be decoded, then the duplicates as fetched."""
    rows = read_partition(draft, step.tables("bytes"), step.number)
    same = ["sha_high", "sha_low"]
    often = rows.group_by(same).len().filter(pl.col("len") > step.config.max_addresses).drop("len")
    seen = rows.join(often, on=same, how="semi").group_by(same).agg(pl.col("url").n_unique())
    placeholders = seen.filter(pl.col("url") > step.config.max_addresses).drop("url")
    there = rows.filter(pl.col("state") != GONE)
    left = there.filter(pl.col("state") == LEFT).join(placeholders, on=same, how="anti", maintain_order="left")
    links = link_equal_rows(left, [*same, "group"])
    _put_links(draft, step, "bytes", links)
    gone = [there.join(placeholders, on=same, how="semi").select(_reason("placeholder"))]
    put_drop_reasons(
        draft, table_name("gone-bytes", step.number), [*gone, _worse(links, "exact_duplicate")], step.groups
    )
    return Record(task=step.id)


def put_by_pixels(draft: Draft, step: Step) -> Record:
    """What is compared of the rows of a group that are still there, by range of their pixels."""
    rows = read_remaining(draft, step, ["gone-bytes"], ["uid", "caption", "original_area", "phash", "pixels"])
    pixels = np.frombuffer(b"".join(rows["pixels"].to_list()), ">u8").reshape(-1, 2).astype(np.uint64)
    found = rank_columns(rows, step.config).with_columns(
        rows["phash"], pixels_high=pl.Series(pixels[:, 0]), pixels_low=pl.Series(pixels[:, 1])
    )
    write_partitions(draft, table_name("pixels", step.number), *partition_by_hash(found, "pixels_high", step.bits))
    return Record(task=step.id)


def find_pixel_duplicates(draft: Draft, step: Step) -> Record:
    """The rows of a range whose pixels another row has.

    The perceptual hash keeps what was made to have another picture's 128 bits from being taken for it.
    """
    rows = read_partition(draft, step.tables("pixels"), step.number)
    links = link_equal_rows(rows, ["pixels_high", "pixels_low", "phash", "group"])
    _put_links(draft, step, "pixels", links)
    put_drop_reasons(draft, table_name("gone-pixels", step.number), [_worse(links, "pixel_duplicate")], step.groups)
    return Record(task=step.id)


def read_inspected(draft: Draft, step: Step, columns: Sequence[str]) -> pl.DataFrame:
    """The rows of a group: `row`, `uid`, `overlap` (its evaluation sets, joined by commas), `state`, columns of JUDGED."""
    wanted = list(dict.fromkeys(["uid", "drop_reason", *columns]))
    tables = [read_table(draft.store, draft.path(inspected_name(number)), wanted) for number in step.shards]
    rows = cast(pl.DataFrame, pl.from_arrow(pa.concat_tables(tables))).with_row_index("row")
    overlap = pl.lit(None, pl.String)
    if step.matches:
        found = pl.DataFrame(read_table(draft.store, step.matches, ["uid", "evaluation_set"])).unique()
        found = found.sort("evaluation_set").group_by("uid", maintain_order=True)
        sets = found.agg(overlap=pl.col("evaluation_set").str.join(","))
        rows, overlap = rows.join(sets, on="uid", how="left", maintain_order="left"), pl.col("overlap")
    drops = step.config.overlap is not None and step.config.overlap.action == "drop"
    state = pl.when(pl.col("drop_reason").is_not_null()).then(GONE)
    state = state.when(overlap.is_not_null() & drops).then(OVERLAPS).otherwise(LEFT)
    return rows.with_columns(overlap=overlap, state=state.cast(pl.UInt8))


def read_remaining(draft: Draft, step: Step, kinds: Sequence[str], columns: Sequence[str]) -> pl.DataFrame:
    """The rows of a group that are still there, after those that the tables of some kinds say are gone."""
    rows = read_inspected(draft, step, columns).filter(pl.col("state") == LEFT)
    for kind in kinds:
        gone = read_partition(draft, step.range_tables(kind), step.number)
        rows = rows.join(gone, on="row", how="anti", maintain_order="left")
    return rows


def rank_columns(rows: pl.DataFrame, config: CurateConfig) -> pl.DataFrame:
    """What a row is chosen by (RANKING), its `row` and `state`, and `group`: only rows of one are duplicates."""
    groups = np.zeros(rows.height, np.uint64)
    if config.same_caption:
        captions = [" ".join(caption.casefold().split()) for caption in rows["caption"].to_list()]
        groups = hash128(pa.array(captions, pa.string()))[:, 0]
    high, low = uid_halves(rows["uid"].to_arrow()).T
    return rows.select(
        "row",
        "state",
        area="original_area",
        characters=pl.col("caption").str.len_chars(),
        uid_high=pl.Series(high),
        uid_low=pl.Series(low),
        group=pl.Series(groups),
    )


def link_equal_rows(rows: pl.DataFrame, same: Sequence[str]) -> pl.DataFrame:
    """The rows that others equal in some columns: part, row, id, RANKING, and `better`, the id of the best of them."""
    several = rows.group_by(same).len().filter(pl.col("len") > 1).drop("len")
    found = sort_best_first(rows.join(several, on=same, how="semi").with_columns(id=row_id()))
    return found.select("part", "row", "id", *RANKING, better=pl.col("id").first().over(same))


def row_id() -> pl.Expr:
    """The number that stands for a row of a group."""
    return pl.col("part").cast(pl.UInt64) * (1 << 32) + pl.col("row").cast(pl.UInt64)


def sort_best_first(rows: pl.DataFrame) -> pl.DataFrame:
    """In the order in which rows stay; `id` decides where there are two of a uid."""
    return rows.sort([*RANKING, "id"], descending=[True, True, False, False, False])


def stack_bytes(values: Sequence[bytes]) -> NDArray[np.uint8]:
    """Binary values of one length as (N, K)."""
    return np.frombuffer(b"".join(values), np.uint8).reshape(len(values), -1 if len(values) else 0)


def put_drop_reasons(draft: Draft, name: str, gone: Sequence[pl.DataFrame], groups: int) -> None:
    """Tell the groups which of their rows leave: `row`, `drop_reason`."""
    rows = pl.concat(gone)
    write_partitions(draft, name, *partition_by_index(rows.drop("part"), rows["part"], groups))


def _reason(reason: str) -> list[pl.Expr]:
    return [pl.col("part"), pl.col("row"), pl.lit(reason).alias("drop_reason")]


def _worse(links: pl.DataFrame, reason: str) -> pl.DataFrame:
    return links.filter(pl.col("id") != pl.col("better")).select(_reason(reason))


def _put_links(draft: Draft, step: Step, kind: str, links: pl.DataFrame) -> None:
    write_partitions(
        draft, table_name(f"same-{kind}", step.number), links.select("id", "better", "uid_high", "uid_low")
    )
