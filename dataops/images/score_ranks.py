"""Find which row has a given rank by a score, among any number of rows, in bounded memory.

Rows are ranked by a key of 160 bits: the score from the highest down, then the uid. Each pass counts the rows of each batch
by the next BITS bits of their keys. The sums give these bits of the row at each rank, and the next pass counts only the
rows whose keys begin with the bits found so far. The search for a rank ends as soon as its row is the first of those rows:
then the bits alone decide whether a row comes before it.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import polars as pl

BITS = 12
"""Bits of a pass: a cut needs up to 2^BITS counts of 40 bytes."""
KEY = ["score_key", "uid_high", "uid_low"]
_WIDTHS = (32, 64, 64)
_KEY_BITS = sum(_WIDTHS)
_AFTER_ALL = 1 << 32
"""A score_key after that of each row."""
_GROUP = ["ranking", "group"]
_COUNTS = {"ranking": pl.UInt32, "group": pl.String, **dict.fromkeys(KEY, pl.UInt64), "rows": pl.Int64}
POSITIONS = {"cut": pl.UInt32, "ranking": pl.UInt32, "group": pl.String, **dict.fromkeys(KEY, pl.UInt64)}
"""Columns of the rows found: number of the cut, its ranking and group, and the key up to the bits that were needed."""
_SEARCH = {**POSITIONS, "inside": pl.Int64, "is_open": pl.Boolean}
"""POSITIONS of searches, with the rank among the rows whose keys begin so, and whether more bits are needed."""


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


def find_positions(cuts: Sequence[Cut], count: Callable[[pl.DataFrame, int], Iterable[pl.DataFrame]]) -> pl.DataFrame:
    """Return the row of each cut in each group that has rows (POSITIONS).

    Args:
        count: returns what count_keys returns for each batch of the rows, given positions and pass.
    """
    positions = pl.DataFrame(schema=_SEARCH)
    quantiles = pl.col("cut").is_in([number for number, cut in enumerate(cuts) if cut.is_quantile])
    for number in range(-(-_KEY_BITS // BITS)):
        counts = _add_counts(count(positions.filter("is_open"), number))
        if number == 0:
            positions = _begin(cuts, counts)
        positions = _narrow(positions, counts, number)
        # a quantile is a score, whichever row has it
        is_open = pl.when(quantiles).then((number + 1) * BITS < _WIDTHS[0]).otherwise(pl.col("inside") > 0)
        positions = positions.with_columns(is_open=pl.col("is_open") & is_open)
        if not positions["is_open"].any():
            break
    return positions.drop("inside", "is_open")


def count_keys(rows: pl.DataFrame, cuts: Sequence[Cut], positions: pl.DataFrame, number: int) -> pl.DataFrame:
    """Return the counts of a batch by the key's bits up to those of a pass.

    Args:
        rows: the scores, `uid_high`, `uid_low`, and the columns `by`.
        positions: the searches that have not ended, as the passes before have found them.
        number: number of the pass, from 0.
    """
    found = [pl.DataFrame(schema=_COUNTS)]
    for ranking, (score, by) in enumerate(_list_rankings(cuts)):
        keys = add_key(rows, score, by).select("group", *KEY)
        if number:
            prefixes = positions.filter(pl.col("ranking") == ranking)
            begun = [(pl.col(name) & bits).alias(f"{name}_begun") for name, bits in _masks(number)]
            on = ["group", *(f"{name}_begun" for name in KEY)]
            keys = keys.with_columns(begun).join(
                prefixes, left_on=on, right_on=["group", *KEY], how="semi", nulls_equal=True
            )
        keys = keys.select("group", *(pl.col(name) & bits for name, bits in _masks(number + 1)))
        counts = keys.group_by("group", *KEY).agg(rows=pl.len().cast(pl.Int64))
        found.append(counts.select(pl.lit(ranking, pl.UInt32).alias("ranking"), "group", *KEY, "rows"))
    return pl.concat(found)


def add_key(rows: pl.DataFrame, score: str, by: str | None) -> pl.DataFrame:
    """Return the rows that have a score, which is neither null nor NaN, with their `group` and `score_key`."""
    rows = rows.filter(pl.col(score).is_not_null() & pl.col(score).is_not_nan())
    bits = (rows[score].cast(pl.Float32).to_numpy() + np.float32(0)).view(np.uint32)  # + 0: -0.0 equals 0.0
    keys = np.where(bits >> 31, bits, ~(bits | np.uint32(1 << 31))).astype(np.uint64)
    group = pl.col(by) if by else pl.lit("")
    return rows.with_columns(group=group.cast(pl.String), score_key=pl.Series(keys, dtype=pl.UInt64))


def score_of_key(key: int) -> float:
    """Return the score that has a `score_key`."""
    bits = key if key >> 31 else ~key & ((1 << 31) - 1)
    return float(np.uint32(bits).view(np.float32))


def _list_rankings(cuts: Sequence[Cut]) -> list[tuple[str, str | None]]:
    return list(dict.fromkeys((cut.score, cut.by) for cut in cuts))


def _masks(passes: int) -> list[tuple[str, pl.Expr]]:
    """Return the mask of the bits that so many passes find, for each column of KEY."""
    left = max(_KEY_BITS - passes * BITS, 0)
    mask, found = ((1 << _KEY_BITS) - 1) >> left << left, list[tuple[str, pl.Expr]]()
    for name, width in zip(reversed(KEY), reversed(_WIDTHS), strict=True):
        found.append((name, pl.lit(mask & ((1 << width) - 1), pl.UInt64)))
        mask >>= width
    return found[::-1]


def _add_counts(tables: Iterable[pl.DataFrame]) -> pl.DataFrame:
    total = pl.DataFrame(schema=_COUNTS)
    for table in tables:
        total = pl.concat([total, table.select(total.columns)]).group_by(*_GROUP, *KEY).agg(pl.col("rows").sum())
    return total


def _begin(cuts: Sequence[Cut], counts: pl.DataFrame) -> pl.DataFrame:
    """Return the positions before the first pass; ends of a ranking need none."""
    rankings = _list_rankings(cuts)
    found = list[tuple[Any, ...]]()
    for ranking, group, size in counts.group_by(*_GROUP).agg(pl.col("rows").sum()).iter_rows():
        for number, cut in enumerate(cuts):
            if rankings[ranking] == (cut.score, cut.by):
                rank = cut.rank(size)
                key, is_open = 0 if rank < size else _AFTER_ALL, cut.is_quantile or 0 < rank < size
                found.append((number, ranking, group, key, 0, 0, rank, is_open))
    return pl.DataFrame(found, schema=_SEARCH, orient="row")


def _narrow(positions: pl.DataFrame, counts: pl.DataFrame, number: int) -> pl.DataFrame:
    """Return the positions with the bits of a pass."""
    begun = [(pl.col(name) & bits).alias(f"{name}_begun") for name, bits in _masks(number)]
    prefix = [*_GROUP, *(f"{name}_begun" for name in KEY)]
    counts = counts.sort(*_GROUP, *KEY).with_columns(begun)
    counts = counts.with_columns(before=pl.col("rows").cum_sum().over(prefix) - pl.col("rows"))
    searched = positions.filter("is_open")
    found = searched.join(counts, left_on=[*_GROUP, *KEY], right_on=prefix, suffix="_found", nulls_equal=True)
    found = found.filter(
        pl.col("inside").is_between(pl.col("before"), pl.col("before") + pl.col("rows"), closed="left")
    )
    keys = [pl.col(f"{name}_found").alias(name) for name in KEY]
    found = found.select("cut", *_GROUP, *keys, "is_open", inside=pl.col("inside") - pl.col("before"))
    return pl.concat([positions.filter(~pl.col("is_open")), found.select(positions.columns)])
