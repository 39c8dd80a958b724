"""Counts of values, made part by part and added up, in bounded memory: what is frequent over all is so in some part."""

from collections import Counter
from collections.abc import Iterable, Mapping

import polars as pl

PER_PART = 5_000
"""Of a part's values, the most frequent, that are added up."""
MAX_VALUES = 100_000
"""Values that are held while they are added up, at most: the least frequent go, by half as many."""

Tally = dict[str, int]
"""How often each value is there."""


def count_values(values: pl.Series) -> Tally:
    """The most frequent values, of equally frequent ones the smallest."""
    counted = values.alias("value").value_counts(name="n")
    if counted.height > PER_PART:  # to sort them all, of which most are there once, would take longest
        least = counted["n"].top_k(PER_PART).min()
        more = counted.filter(pl.col("n") > least)
        rest = counted.filter(pl.col("n") == least).bottom_k(PER_PART - more.height, by="value")
        counted = pl.concat([more, rest])
    return dict(counted.sort(pl.col("n"), "value", descending=[True, False]).iter_rows())


def most_frequent(counted: Mapping[str, int], number: int) -> Tally:
    """The first of them, by number and then by name."""
    return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:number])


class Totals:
    """Tallies of several things, by name, added up."""

    def __init__(self, names: Iterable[str]):
        self.by_name = {name: Counter[str]() for name in names}

    def add(self, described: Mapping[str, Mapping[str, int]]) -> None:
        """Add the tallies of a part; others than those named are not looked at."""
        for name, counter in self.by_name.items():
            counter.update(described.get(name, {}))
            if len(counter) > MAX_VALUES:
                self.by_name[name] = Counter(most_frequent(counter, MAX_VALUES // 2))

    def first(self, name: str, number: int) -> Tally:
        """The most frequent values."""
        return most_frequent(self.by_name[name], number)
