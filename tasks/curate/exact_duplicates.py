"""Find rows with equal image bytes or equal pixels, and placeholders, in steps of tasks.curate.choose."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from dataops.kernels.hashes import hash128
from dataops.snapshot import Draft, Record
from tasks.curate.steps import (
    CANDIDATE,
    DROPPED,
    RANKING,
    Step,
    rank_columns,
    read_inspected,
    read_remaining,
    row_id,
    sort_best_first,
)
from tasks.engine.partition_tables import (
    partition_by_hash,
    partition_by_index,
    read_partition,
    table_name,
    write_partitions,
)

DROP_REASONS = ("drop-reasons-bytes", "drop-reasons-pixels")
"""Scratch tables of dropped rows, with one partition per group of shards: `row`, `drop_reason`."""
LINKS = ("links-bytes", "links-pixels")
"""Scratch tables of rows with duplicates: `id`, `representative`, `uid_high`, `uid_low`."""


def put_by_sha256(draft: Draft, step: Step) -> Record:
    """Write the rows of a group whose images can be decoded, partitioned by the SHA-256 of the downloaded bytes."""
    rows = read_inspected(draft, step, ["url", "sha256", "caption", "original_area", "phash"])
    rows = rows.filter(pl.col("phash").is_not_null())
    high, low = hash128(rows["sha256"].to_arrow()).T
    ranked = rank_columns(rows, step.config).with_columns(
        sha_high=pl.Series(high), sha_low=pl.Series(low), url=pl.Series(hash128(rows["url"].to_arrow())[:, 0])
    )
    write_partitions(draft, table_name("bytes", step.number), *partition_by_hash(ranked, "sha_high", step.bits))
    return Record(task=step.id)


def find_byte_duplicates(draft: Draft, step: Step) -> Record:
    """Find placeholders among all rows of a partition, then rows with equal bytes among those that can be kept.

    A row that another one is dropped for must be good enough to be kept.
    """
    rows = read_partition(draft, step.group_tables("bytes"), step.number)
    key = ["sha_high", "sha_low"]
    frequent = rows.group_by(key).len().filter(pl.col("len") > step.config.max_addresses).drop("len")
    urls = rows.join(frequent, on=key, how="semi").group_by(key).agg(pl.col("url").n_unique())
    placeholders = urls.filter(pl.col("url") > step.config.max_addresses).drop("url")
    rows = rows.filter(pl.col("state") != DROPPED)
    remaining = rows.filter(pl.col("state") == CANDIDATE).join(placeholders, on=key, how="anti", maintain_order="left")
    drops = rows.join(placeholders, on=key, how="semi").select(_with_reason("placeholder"))
    _put_duplicates(draft, step, 0, _link_equal_rows(remaining, [*key, "scope"]), "exact_duplicate", [drops])
    return Record(task=step.id)


def put_by_pixels(draft: Draft, step: Step) -> Record:
    """Write the remaining rows of a group, partitioned by the hash of their pixels."""
    rows = read_remaining(draft, step, DROP_REASONS[:1], ["uid", "caption", "original_area", "phash", "pixels"])
    pixels = np.frombuffer(b"".join(rows["pixels"].to_list()), ">u8").reshape(-1, 2).astype(np.uint64)
    ranked = rank_columns(rows, step.config).with_columns(
        rows["phash"], pixels_high=pl.Series(pixels[:, 0]), pixels_low=pl.Series(pixels[:, 1])
    )
    write_partitions(draft, table_name("pixels", step.number), *partition_by_hash(ranked, "pixels_high", step.bits))
    return Record(task=step.id)


def find_pixel_duplicates(draft: Draft, step: Step) -> Record:
    """Find the rows of a partition with equal pixels.

    The perceptual hash must agree too: an image made to collide with the 128-bit hash of another is not its duplicate.
    """
    rows = read_partition(draft, step.group_tables("pixels"), step.number)
    links = _link_equal_rows(rows, ["pixels_high", "pixels_low", "phash", "scope"])
    _put_duplicates(draft, step, 1, links, "pixel_duplicate")
    return Record(task=step.id)


def _link_equal_rows(rows: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """Return the rows that others equal in `key`: part, row, id, RANKING, and `representative`, the id of the best row."""
    repeated = rows.group_by(key).len().filter(pl.col("len") > 1).drop("len")
    found = sort_best_first(rows.join(repeated, on=key, how="semi").with_columns(id=row_id()))
    return found.select("part", "row", "id", *RANKING, representative=pl.col("id").first().over(key))


def _with_reason(reason: str) -> list[pl.Expr]:
    return [pl.col("part"), pl.col("row"), pl.lit(reason).alias("drop_reason")]


def _put_duplicates(
    draft: Draft, step: Step, kind: int, links: pl.DataFrame, reason: str, drops: Sequence[pl.DataFrame] = ()
) -> None:
    """Write the links, and the rows to drop: `drops`, and all linked rows except for the representatives."""
    columns = ["id", "representative", "uid_high", "uid_low"]
    write_partitions(draft, table_name(LINKS[kind], step.number), links.select(columns))
    worse = links.filter(pl.col("id") != pl.col("representative")).select(_with_reason(reason))
    rows = pl.concat([*drops, worse])
    partitions = partition_by_index(rows.drop("part"), rows["part"], step.groups)
    write_partitions(draft, table_name(DROP_REASONS[kind], step.number), *partitions)
