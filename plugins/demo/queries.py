"""Build the demo's queries: frequent English words and collocations in Google Books.

The counts are part of PyPI `symspellpy`: the 82,834 words and 242,342 pairs of Google Books Ngram that are English by
SCOWL's word lists. So the demo balances over the kind of list that `pairmill queries build` counts in Wikipedia, without a
download.
"""

import importlib.resources

import polars as pl

from dataops.text.query_building import (
    BIGRAMS,
    LEMMAS,
    TITLES,
    UNIGRAMS,
    Thresholds,
    merge_queries,
    select_bigrams,
    select_words,
)

THRESHOLDS = Thresholds(min_unigram=100_000, min_bigram=1_000_000, min_pmi=8.0)
"""Thresholds for counts in 500 billion words. They keep 'roller coaster' and 'police officer', not 'some customers'."""


def build_queries() -> pl.DataFrame:
    """Return the queries, with the columns dataops.text.query_building.QUERIES."""
    unigrams = pl.DataFrame(_counts("frequency_dictionary_en_82_765.txt"), UNIGRAMS, orient="row")
    words = select_words(unigrams, THRESHOLDS)
    index = {word: row for row, word in enumerate(words["word"])}
    pairs = [
        (index[one], index[two], count)
        for one, two, count in _counts("frequency_bigramdictionary_en_243_342.txt")
        if one in index and two in index
    ]
    bigrams = pl.DataFrame(pairs, BIGRAMS, orient="row")
    telling = select_bigrams(bigrams, words, int(unigrams["count"].sum()), THRESHOLDS)
    found = merge_queries(words, telling, pl.DataFrame(schema=TITLES), pl.DataFrame(schema=LEMMAS), THRESHOLDS)
    return found.with_columns(source=pl.lit("symspellpy"))


def _counts(name: str) -> list[tuple]:
    """Return the lines of a file as tuples of words and their count."""
    text = (importlib.resources.files("symspellpy") / name).read_text(encoding="utf-8-sig")
    return [(*words, int(count)) for *words, count in (line.split() for line in text.splitlines())]
