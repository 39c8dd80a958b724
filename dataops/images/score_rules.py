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

Source: Gadre et al. 2023 (DataComp), section 3.2 and appendix: CLIP score thresholds and top fractions.
"""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

import polars as pl
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from dataops.images.score_ranks import KEY, Cut, add_key
from dataops.kernels.hashes import uid_halves

Share = Annotated[float, Field(ge=0, le=1)]


class ScoreRule(BaseModel):
    """One `[[curate.rules]]`: the scores with which a row is kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    score: str = Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")
    """Name of the score's column."""
    min: FiniteFloat | None = None
    """Minimum score that is kept."""
    max: FiniteFloat | None = None
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
    """Return some columns of rows, and their `uid` as two numbers."""
    uids = uid_halves(table["uid"].combine_chunks())
    halves = {f"uid_{name}": pl.Series(uids[:, half]) for half, name in enumerate(("high", "low"))}
    return pl.DataFrame(table.select(names)).with_columns(**halves)


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
    ranked = add_key(rows, rule.score, rule.by).select("row", "group", *KEY)
    for number, end in enumerate(("first", "end")):
        found = positions.filter(pl.col("cut") == cut + number).select("group", pl.col(KEY).name.suffix(f"_{end}"))
        ranked = ranked.join(found, on="group", how="left", nulls_equal=True)
    outside = ranked.select(
        "row",
        pl.when(_is_before("first"))
        .then(pl.lit(f"{rule.score}_above_band"))
        .when(~_is_before("end"))
        .then(pl.lit(f"{rule.score}_{'below_band' if rule.band else 'not_top'}"))
        .otherwise(pl.lit(""))
        .alias("reason"),
    )
    reasons = rows.select("row").join(outside, on="row", how="left", maintain_order="left")["reason"]
    reasons = reasons.fill_null(f"{rule.score}_missing")
    return reasons.set(reasons == "", None)


def _is_before(end: str) -> pl.Expr:
    """Return whether a row's key is less than the position of a cut."""
    is_before = pl.lit(False)
    for name in reversed(KEY):
        key, position = pl.col(name), pl.col(f"{name}_{end}")
        is_before = (key < position) | ((key == position) & is_before)
    return is_before
