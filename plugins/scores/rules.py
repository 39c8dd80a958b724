"""Apply rules over scores: keep the rows above a threshold, in a top fraction or in a band of the ranking.

Each rule sees all rows, independent of the other rules, so neither the order of the rows nor that of the rules changes
which rows are kept: those that all rules keep. The first rule that does not keep a row gives the reason::

    <score>_missing       there is no score, or it is NaN
    <score>_low, _high    below `min`, above `max`
    <score>_not_top       not in the `top_fraction`
    <score>_above_band, _below_band    better, or worse, than the `band`

Rows are ranked from the highest score down, equal scores by uid. With n rows, rank r (from 0) is in a band [low, high]
if low * n <= r < high * n, in exact arithmetic; `top_fraction = f` is the band [0, f]. So each fraction keeps at least
one row of each language that has rows.

Any number of rows is ranked in bounded memory, by a key of 20 bytes: the score from the highest down, then the uid. Each
pass counts the rows of each batch by the next BYTES bytes of their keys. The sums give these bytes of the row at each rank,
and the next pass counts only the rows whose keys begin with the bytes found so far. The search for a rank ends as soon as
its row is the first of those rows: then the bytes alone decide whether a row comes before it.

Source: Gadre et al. 2023 (DataComp), section 3.2 and appendix: CLIP score thresholds and top fractions.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
import polars as pl
import pyarrow as pa
from pydantic import Field, model_validator

from dataops.config import FrozenModel, Share

BYTES = 2
"""Bytes of a pass: a cut needs up to 256^BYTES counts."""
_SCORE_BYTES, _KEY_BYTES = 4, 20
_AFTER_ALL = b"\xff" * _KEY_BYTES
"""A key after that of each row: no score has such bytes."""
_GROUP = ["ranking", "group"]
_COUNTS = {"ranking": pl.UInt32, "group": pl.String, "key": pl.Binary, "rows": pl.Int64}
POSITIONS = {"cut": pl.UInt32, "ranking": pl.UInt32, "group": pl.String, "key": pl.Binary}
"""Columns of the rows found: number of the cut, its ranking and group, and the bytes of the key that were needed."""
_SEARCH = {**POSITIONS, "inside": pl.Int64, "is_open": pl.Boolean}
"""POSITIONS of searches, with the rank among the rows whose keys begin so, and whether more bytes are needed."""


class Cut(NamedTuple):
    """A place in a ranking: the first row after a share of the rows."""

    score: str
    share: float
    by: str | None = None
    """Column of the groups that are ranked separately."""
    is_quantile: bool = False
    """True: the place is that of the quantile `share`, counted from the lowest score."""

    def rank(self, size: int) -> int:
        """Return the rank, from 0, among `size` rows; a share of 0.07 is exactly 7/100, not its double."""
        if self.is_quantile:
            return size - 1 - math.floor((size - 1) * self.share + 0.5)
        return math.ceil(Fraction(repr(self.share)) * size)


class ScoreRule(FrozenModel):
    """One `[[curate.rules]]`: the scores with which a row is kept."""

    score: str = Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")
    """Name of the score's column."""
    min: float | None = None
    """Minimum score that is kept."""
    max: float | None = None
    """Maximum score that is kept."""
    top_fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the rows that is kept: those with the highest scores."""
    band: tuple[Share, Share] | None = None
    """Shares of the ranking between which rows are kept, from the highest score: [0.02, 0.3] drops the best 2% of all rows
    (with CLIP scores, mostly images of their own caption) and all rows after the best 30%."""
    by: Literal["language"] | None = None
    """With `top_fraction` or `band`: rank the rows of each language separately; rows without a language are one group."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        threshold = self.min is not None or self.max is not None
        if threshold + (self.top_fraction is not None) + (self.band is not None) != 1:
            raise ValueError("give one of: min and/or max, top_fraction, band")
        if self.by and threshold:
            raise ValueError("by goes with top_fraction or band: a threshold is the same for every row")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        if self.band is not None and self.band[0] >= self.band[1]:
            raise ValueError(f"band: its lower end {self.band[0]:g} is not below its upper end {self.band[1]:g}")
        return self

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """The first row that is kept, and the first one after the last that is; none for a threshold."""
        low, high = self.band or (0.0, self.top_fraction)
        return () if high is None else (Cut(self.score, low, self.by), Cut(self.score, high, self.by))


def rows_to_rank(table: pa.Table, names: Sequence[str]) -> pl.DataFrame:
    """Return some columns of rows, and the bytes of their `uid`."""
    return pl.DataFrame(table.select([*names, "uid"])).with_columns(pl.col("uid").str.decode("hex"))


def drop_reasons(table: pa.Table, rules: Sequence[ScoreRule], positions: pl.DataFrame) -> pa.Array:
    """Return the drop reason of each row (string); null if it is kept.

    Args:
        table: some of the rows: unique `uid`; a float column for each rule's score, null or NaN if there is none;
            `language` if a rule is `by` it.
        positions: what find_positions returns for the cuts of the rules, in their order, among all rows.
    """
    columns = list(dict.fromkeys(rule.score for rule in rules))
    columns += ["language"] if any(rule.by for rule in rules) else []
    rows = rows_to_rank(table, columns).with_row_index("row")
    reasons, cut = pl.Series("drop_reason", [None] * rows.height, pl.String), 0
    for rule in rules:
        found = _apply_rank(rows, rule, positions, cut) if rule.cuts else _apply_threshold(rows, rule)
        reasons, cut = reasons.fill_null(found), cut + len(rule.cuts)
    return pa.array(reasons.to_arrow(), pa.string())


def _apply_threshold(rows: pl.DataFrame, rule: ScoreRule) -> pl.Series:
    score = pl.col(rule.score)
    return rows.select(
        pl.when(score.is_null() | score.is_nan())
        .then(pl.lit(f"{rule.score}_missing"))
        .when(pl.lit(False) if rule.min is None else score < rule.min)
        .then(pl.lit(f"{rule.score}_low"))
        .when(pl.lit(False) if rule.max is None else score > rule.max)
        .then(pl.lit(f"{rule.score}_high"))
        .alias("reason")
    )["reason"]


def _apply_rank(rows: pl.DataFrame, rule: ScoreRule, positions: pl.DataFrame, cut: int) -> pl.Series:
    ranked = add_key(rows, rule.score, rule.by).select("row", "group", "key")
    for number, end in enumerate(("first", "end")):
        found = positions.filter(pl.col("cut") == cut + number).select("group", pl.col("key").alias(end))
        ranked = ranked.join(found, on="group", how="left", nulls_equal=True)
    outside = ranked.select(
        "row",
        pl.when(pl.col("key") < pl.col("first"))
        .then(pl.lit(f"{rule.score}_above_band"))
        .when(pl.col("key") >= pl.col("end"))
        .then(pl.lit(f"{rule.score}_{'below_band' if rule.band else 'not_top'}"))
        .otherwise(pl.lit(""))
        .alias("reason"),
    )
    reasons = rows.select("row").join(outside, on="row", how="left", maintain_order="left")["reason"]
    reasons = reasons.fill_null(f"{rule.score}_missing")
    return reasons.set(reasons == "", None)


def find_positions(cuts: Sequence[Cut], count: Callable[[pl.DataFrame, int], Iterable[pl.DataFrame]]) -> pl.DataFrame:
    """Return the row of each cut in each group that has rows (POSITIONS).

    Args:
        count: returns what count_keys returns for each batch of the rows, given positions and pass.
    """
    positions = pl.DataFrame(schema=_SEARCH)
    quantiles = pl.col("cut").is_in([number for number, cut in enumerate(cuts) if cut.is_quantile])
    for number in range(_KEY_BYTES // BYTES):
        counts = _add_counts(count(positions.filter("is_open"), number))
        if number == 0:
            positions = _begin(cuts, counts)
        positions = _narrow(positions, counts, number)
        # a quantile is a score, whichever row has it
        is_open = pl.when(quantiles).then((number + 1) * BYTES < _SCORE_BYTES).otherwise(pl.col("inside") > 0)
        positions = positions.with_columns(is_open=pl.col("is_open") & is_open)
        if not positions["is_open"].any():
            break
    return positions.drop("inside", "is_open")


def count_keys(rows: pl.DataFrame, cuts: Sequence[Cut], positions: pl.DataFrame, number: int) -> pl.DataFrame:
    """Return the counts of a batch by the key's bytes up to those of a pass.

    Args:
        rows: the scores, `uid`, and the columns `by`.
        positions: the searches that have not ended, as the passes before have found them.
        number: number of the pass, from 0.
    """
    found = [pl.DataFrame(schema=_COUNTS)]
    for ranking, (score, by) in enumerate(_list_rankings(cuts)):
        keys = add_key(rows, score, by).select("group", "key")
        if number:
            begun = positions.filter(pl.col("ranking") == ranking).select("group", begun="key")
            keys = keys.with_columns(begun=_begin_of("key", number))
            keys = keys.join(begun, on=["group", "begun"], how="semi", nulls_equal=True)
        counts = keys.group_by("group", _begin_of("key", number + 1)).agg(rows=pl.len().cast(pl.Int64))
        found.append(counts.select(pl.lit(ranking, pl.UInt32).alias("ranking"), "group", "key", "rows"))
    return pl.concat(found)


def _begin_of(name: str, passes: int) -> pl.Expr:
    """Return the bytes of a key that so many passes find."""
    return pl.col(name).bin.slice(0, passes * BYTES)


def add_key(rows: pl.DataFrame, score: str, by: str | None) -> pl.DataFrame:
    """Return the rows that have a score, which is neither null nor NaN, with their `group` and `key`."""
    rows = rows.filter(pl.col(score).is_not_null() & pl.col(score).is_not_nan())
    bits = (rows[score].cast(pl.Float32).to_numpy() + np.float32(0)).view(np.uint32)  # + 0: -0.0 equals 0.0
    keys = np.empty((rows.height, _KEY_BYTES), np.uint8)
    ordered = np.where(bits >> 31, bits, ~(bits | np.uint32(1 << 31))).astype(">u4")
    keys[:, :_SCORE_BYTES] = ordered.view(np.uint8).reshape(-1, _SCORE_BYTES)
    keys[:, _SCORE_BYTES:] = np.frombuffer(b"".join(rows["uid"].to_list()), np.uint8).reshape(-1, 16)
    column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(_KEY_BYTES), rows.height, [None, pa.py_buffer(keys)])
    group = pl.col(by) if by else pl.lit("")
    return rows.with_columns(group=group.cast(pl.String), key=pl.Series(column.cast(pa.binary())))


def score_of_key(key: bytes) -> float:
    """Return the score of a key."""
    bits = int.from_bytes(key[:_SCORE_BYTES], "big")
    return float(np.uint32(bits if bits >> 31 else ~bits & ((1 << 31) - 1)).view(np.float32))


def _list_rankings(cuts: Sequence[Cut]) -> list[tuple[str, str | None]]:
    return list(dict.fromkeys((cut.score, cut.by) for cut in cuts))


def _add_counts(tables: Iterable[pl.DataFrame]) -> pl.DataFrame:
    total = pl.DataFrame(schema=_COUNTS)
    for table in tables:
        total = pl.concat([total, table.select(total.columns)]).group_by(*_GROUP, "key").agg(pl.col("rows").sum())
    return total


def _begin(cuts: Sequence[Cut], counts: pl.DataFrame) -> pl.DataFrame:
    """Return the positions before the first pass; ends of a ranking need none."""
    rankings = _list_rankings(cuts)
    found = list[tuple[Any, ...]]()
    for ranking, group, size in counts.group_by(*_GROUP).agg(pl.col("rows").sum()).iter_rows():
        for number, cut in enumerate(cuts):
            if rankings[ranking] == (cut.score, cut.by):
                rank = cut.rank(size)
                key, is_open = b"" if rank < size else _AFTER_ALL, cut.is_quantile or 0 < rank < size
                found.append((number, ranking, group, key, rank, is_open))
    return pl.DataFrame(found, schema=_SEARCH, orient="row")


def _narrow(positions: pl.DataFrame, counts: pl.DataFrame, number: int) -> pl.DataFrame:
    """Return the positions with the bytes of a pass."""
    counts = counts.sort(*_GROUP, "key").with_columns(begun=_begin_of("key", number))
    counts = counts.with_columns(before=pl.col("rows").cum_sum().over(*_GROUP, "begun") - pl.col("rows"))
    searched, on = positions.filter("is_open"), [*_GROUP, "begun"]
    found = searched.join(counts, left_on=[*_GROUP, "key"], right_on=on, suffix="_found", nulls_equal=True)
    found = found.filter(
        pl.col("inside").is_between(pl.col("before"), pl.col("before") + pl.col("rows"), closed="left")
    )
    found = found.select("cut", *_GROUP, "is_open", key="key_found", inside=pl.col("inside") - pl.col("before"))
    return pl.concat([positions.filter(~pl.col("is_open")), found.select(positions.columns)])
