"""Counts values part by part and merges the counts, in bounded memory: a frequent value is so in some part."""

from collections import Counter
from collections.abc import Iterable, Mapping

import polars as pl

from dataops.formatting import rank_counts

PER_PART = 5_000
"""Maximum number of values that are counted in a part: the most frequent ones."""
MAX_VALUES = 100_000
"""Maximum number of values in memory while counts are merged; above it, the less frequent half of this number is
dropped."""

Tally = dict[str, int]
"""Number of occurrences of each value."""


def count_values(values: pl.Series, number: int = PER_PART) -> Tally:
    """Count the values, and return the most frequent ones; of equally frequent ones the smallest."""
    counted = values.alias("value").value_counts(name="n")
    if counted.height > number:  # sorting all values, most of which occur once, would be slow
        least = counted["n"].top_k(number).min()
        more = counted.filter(pl.col("n") > least)
        rest = counted.filter(pl.col("n") == least).bottom_k(number - more.height, by="value")
        counted = pl.concat([more, rest])
    return dict(counted.sort(pl.col("n"), "value", descending=[True, False]).iter_rows())


def most_frequent(counted: Mapping[str, int], number: int) -> Tally:
    """Return the first values in the order of frequency and then of name."""
    return dict(rank_counts(counted)[:number])


class Totals:
    """Merged counts of several columns, by name."""

    def __init__(self, names: Iterable[str]):
        self.by_name = {name: Counter[str]() for name in names}

    def add(self, tallies: Mapping[str, Mapping[str, int]]) -> None:
        """Add the counts of a part; other names are ignored."""
        for name, counter in self.by_name.items():
            counter.update(tallies.get(name, {}))
            if len(counter) > MAX_VALUES:
                self.by_name[name] = Counter(most_frequent(counter, MAX_VALUES // 2))

    def first(self, name: str, number: int) -> Tally:
        """Return the most frequent values of a column."""
        return most_frequent(self.by_name[name], number)
