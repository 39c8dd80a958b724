"""Find rows with equal image bytes or equal pixels, and placeholders, in steps of tasks.curate.choose."""

from collections.abc import Sequence

import polars as pl

from dataops.snapshot import Draft
from tasks.curate.steps import (
    CANDIDATE,
    DROP_REASONS,
    DROPPED,
    RANKING,
    CurateStep,
    put_links,
    read_remaining,
    row_id,
    sort_best_first,
)

DROPS = ("drops-bytes", "drops-pixels")
"""Exchanges of dropped rows, by batch: `row`, `reason` (of DROP_REASONS)."""
LINKS = ("links-bytes", "links-pixels")


def find_byte_duplicates(draft: Draft, step: CurateStep) -> None:
    """Find placeholders among all rows of a partition, then rows with equal bytes among those that can be kept.

    A row that another one is dropped for must be good enough to be kept.
    """
    rows = step.job.exchange("bytes").read(draft, step.number)
    key, most = ["sha_high", "sha_low"], step.job.config.max_addresses
    frequent = rows.group_by(key).len().filter(pl.col("len") > most).drop("len")
    urls = rows.join(frequent, on=key, how="semi").group_by(key).agg(pl.col("url").n_unique())
    placeholders = urls.filter(pl.col("url") > most).drop("url")
    rows = rows.filter(pl.col("state") != DROPPED)
    remaining = rows.filter(pl.col("state") == CANDIDATE).join(placeholders, on=key, how="anti", maintain_order="left")
    drops = rows.join(placeholders, on=key, how="semi").select(_with_reason("placeholder"))
    _put_duplicates(draft, step, 0, _link_equal_rows(remaining, [*key, "scope"]), "exact_duplicate", [drops])


def put_by_pixels(draft: Draft, step: CurateStep) -> None:
    """Put the remaining rows of a batch by the hash of their pixels."""
    rows = read_remaining(draft, step, DROPS[:1])
    rows = rows.select("row", *RANKING, "scope", "phash", "pixels_high", "pixels_low")
    step.job.exchange("pixels").write_by_hash(draft, step.number, rows, "pixels_high")


def find_pixel_duplicates(draft: Draft, step: CurateStep) -> None:
    """Find the rows of a partition with equal pixels.

    The perceptual hash must agree too: an image made to collide with the 128-bit hash of another is not its duplicate.
    """
    rows = step.job.exchange("pixels").read(draft, step.number)
    links = _link_equal_rows(rows, ["pixels_high", "pixels_low", "phash", "scope"])
    _put_duplicates(draft, step, 1, links, "pixel_duplicate")


def _link_equal_rows(rows: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """Return the rows that others equal in `key`: part, row, id, and `representative`, the id of the best row."""
    repeated = rows.group_by(key).len().filter(pl.col("len") > 1).drop("len")
    found = sort_best_first(rows.join(repeated, on=key, how="semi").with_columns(id=row_id()))
    return found.select("part", "row", "id", representative=pl.col("id").first().over(key))


def _with_reason(reason: str) -> list[pl.Expr]:
    return [pl.col("part"), pl.col("row"), pl.lit(DROP_REASONS.index(reason) + 1, pl.UInt8).alias("reason")]


def _put_duplicates(
    draft: Draft, step: CurateStep, kind: int, links: pl.DataFrame, reason: str, drops: Sequence[pl.DataFrame] = ()
) -> None:
    """Write the links, and the rows to drop: `drops`, and all linked rows except for the representatives."""
    put_links(draft, step, LINKS[kind], links.select("id", "representative"))
    worse = links.filter(pl.col("id") != pl.col("representative")).select(_with_reason(reason))
    rows = pl.concat([*drops, worse])
    step.job.exchange(DROPS[kind]).write(draft, step.number, rows.drop("part"), rows["part"])
