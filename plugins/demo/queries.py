"""Build the demo's queries: frequent English words and collocations in Google Books.

The counts are part of PyPI `symspellpy`: the 82,834 words and 242,342 pairs of Google Books Ngram that are English by
SCOWL's word lists. So the demo balances over the kind of list that `pairmill queries build` counts in Wikipedia, without a
download.
"""

import importlib.resources

import polars as pl

from dataops.text.query_list import QUERIES, WORDS

MIN_WORD, MIN_PAIR, MIN_INFORMATION = 100_000, 1_000_000, 8.0
"""Minimum counts in 500 billion words, and mutual information in bits: they keep 'roller coaster' and 'police officer', not
'some customers'."""


def build_queries() -> pl.DataFrame:
    """Return the queries, with the columns dataops.text.query_list.QUERIES, as `pairmill queries build` would."""
    names = ["one", "two", "count"]
    words = _counts("frequency_dictionary_en_82_765.txt", ["query", "count"])
    pairs = _counts("frequency_bigramdictionary_en_243_342.txt", names)
    total, words = int(words["count"].sum()), words.filter(pl.col("count") >= MIN_WORD)
    for name in names[:2]:
        pairs = pairs.join(words.select(pl.col("query").alias(name), pl.col("count").alias(f"of_{name}")), on=name)
    chance = (pl.col("count").cast(pl.Float64) * total) / (pl.col("of_one").cast(pl.Float64) * pl.col("of_two"))
    pairs = pairs.filter(pl.col("count") >= MIN_PAIR).with_columns(score=chance.log(2))
    pairs = pairs.filter(pl.col("score") >= MIN_INFORMATION)
    found = [
        words.with_columns(kind=pl.lit("unigram"), score=pl.lit(None, pl.Float64)),
        pairs.with_columns(kind=pl.lit("bigram"), query=pl.concat_str("one", "two", separator=" ")),
    ]
    every = pl.concat([one.with_columns(source=pl.lit("symspellpy")).select(*QUERIES) for one in found])
    is_query = (pl.col("query").str.len_chars() >= 2) & pl.col("query").str.contains(WORDS)
    return every.filter(is_query).unique("query", keep="first").sort("query")


def _counts(name: str, columns: list[str]) -> pl.DataFrame:
    """Return the lines of a file: words and their count."""
    text = (importlib.resources.files("symspellpy") / name).read_bytes()
    return pl.read_csv(text, separator=" ", has_header=False, new_columns=columns, quote_char=None)
