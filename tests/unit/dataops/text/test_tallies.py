import polars as pl

from dataops.text.tallies import Totals, count_values


def test_frequent_values_are_found_among_more_than_fit():
    totals = Totals(["captions"], max_values=10)
    for part in range(9):
        texts = ["a kite"] * 3 + ["a dog"] * 2 + [f"number {part} {i}" for i in range(8)]
        totals.add({"captions": count_values(pl.Series(texts)), "other": {}})
    assert list(totals.first("captions", 2).items()) == [("a kite", 27), ("a dog", 18)]
    assert len(totals.by_name["captions"]) <= 10


def test_the_most_frequent_values_of_a_part_are_kept_and_the_smallest_of_equals():
    found = count_values(pl.Series(["d", "c", "b", "a", "e", "b", "c", "c"]), 4)
    assert list(found.items()) == [("c", 3), ("b", 2), ("a", 1), ("d", 1)]
