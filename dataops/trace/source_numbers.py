"""Number the sources of pairs by the values of their column `source`."""

from collections.abc import Sequence

import polars as pl


def number_sources(column: pl.Series, names: Sequence[str]) -> pl.Series:
    """Return the index among `names` of the source of each row; their number for a row of no source."""
    numbers = dict(zip(names, range(len(names)), strict=True))
    found = column.str.extract(r"^([^/]+)/", 1).fill_null("")
    return found.replace_strict(numbers, default=len(names), return_dtype=pl.UInt8)
