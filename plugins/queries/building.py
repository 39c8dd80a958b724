"""Builds the list of queries for balancing: frequent words, bigrams with high mutual information, titles, lemmas.

Source: Radford et al. 2021, section 2.2: words that occur at least 100 times in Wikipedia, bigrams of high pointwise
    mutual
information, names of articles above a certain search volume, WordNet synsets not already in the list; Xu et al. 2023
(MetaCLIP), section 3.1, for thresholds.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from dataops.text.query_list import QUERIES, WORDS

UNIGRAMS = {"word": pl.String, "count": pl.Int64}
BIGRAMS = {"first": pl.UInt32, "second": pl.UInt32, "count": pl.Int64}
TITLES = {"title": pl.String, "count": pl.Int64, "source": pl.String}
LEMMAS = {"lemma": pl.String, "source": pl.String}


@dataclass(frozen=True)
class Thresholds:
    """Minimum values of queries."""

    min_unigram: int = 100
    """Minimum occurrences of a word."""
    min_bigram: int = 100
    """Minimum occurrences of two consecutive words."""
    min_pmi: float = 6.0
    """Minimum pointwise mutual information of two such words, log2(p(xy) / (p(x) p(y))), in bits."""
    min_views: int = 70
    """Minimum views of a title."""
    min_chars: int = 2
    """Minimum characters of a query."""


def split_words(lines: pl.Series) -> pl.DataFrame:
    """Split lines of text into words in lower case, in their order (columns line: UInt32, word)."""
    return (
        pl.DataFrame({"word": lines.str.to_lowercase().str.extract_all(WORDS)})
        .with_row_index("line")
        .explode("word")
        .drop_nulls("word")
    )


def count_unigrams(lines: pl.Series) -> pl.DataFrame:
    """Count how often each word occurs (columns word, count)."""
    return split_words(lines).group_by("word").agg(count=pl.len().cast(pl.Int64))


def count_bigrams(vocabulary: pl.Series, lines: pl.Series) -> pl.DataFrame:
    """Count how often two words of a vocabulary are consecutive in a line (columns first, second: its rows; count)."""
    numbers = pl.DataFrame({"word": vocabulary}).with_row_index("number")
    words = split_words(lines).join(numbers, on="word", how="left", maintain_order="left")
    following = words.select(
        first="number",
        second=pl.when(pl.col("line") == pl.col("line").shift(-1)).then(pl.col("number").shift(-1)),
    )
    return following.drop_nulls().group_by("first", "second").agg(count=pl.len().cast(pl.Int64))


def sum_counts(counts: Iterable[pl.DataFrame], schema: Mapping[str, Any]) -> pl.DataFrame:
    """Add up frames of counts; the order of the rows is undefined.

    Frames are collected until they have as many rows as the sum so far, so that each row is added log n times, not n
    times.

    Args:
        schema: columns of the counts; the last one is `count`.
    """
    *words, _ = schema

    def sum_of(frames: list[pl.DataFrame]) -> pl.DataFrame:
        return pl.concat(frames).group_by(words).agg(pl.col("count").sum())

    frames, new_rows = [pl.DataFrame(schema=schema)], 0
    for frame in counts:
        frames.append(frame)
        new_rows += frame.height
        if new_rows > frames[0].height:
            frames, new_rows = [sum_of(frames)], 0
    return sum_of(frames)


def select_words(unigrams: pl.DataFrame, thresholds: Thresholds) -> pl.DataFrame:
    """Select the words that may be queries or in bigrams, by frequency and then by spelling (columns word, count)."""
    enough = unigrams.filter(pl.col("count") >= min(thresholds.min_unigram, thresholds.min_bigram))
    return enough.sort(pl.col("count"), "word", descending=[True, False])


def select_bigrams(
    bigrams: pl.DataFrame, words: pl.DataFrame, total_words: int, thresholds: Thresholds
) -> pl.DataFrame:
    """Select the bigrams that are queries (columns query, count, score in bits).

    Args:
        bigrams: columns first, second (rows of `words`), count.
        words: columns word, count.
        total_words: occurrences of all words, including rare ones.
    """
    spelled = words.with_row_index("number")
    first = spelled.select(first="number", one="word", one_count="count")
    second = spelled.select(second="number", two="word", two_count="count")
    joined = bigrams.filter(pl.col("count") >= thresholds.min_bigram).join(first, on="first").join(second, on="second")
    together = pl.col("count").cast(pl.Float64) * total_words
    apart = pl.col("one_count").cast(pl.Float64) * pl.col("two_count")
    scored = joined.with_columns(score=(together / apart).log(2))
    return scored.filter(pl.col("score") >= thresholds.min_pmi).select(
        query=pl.concat_str("one", "two", separator=" "), count="count", score="score"
    )


def merge_queries(
    words: pl.DataFrame, bigrams: pl.DataFrame, titles: pl.DataFrame, lemmas: pl.DataFrame, thresholds: Thresholds
) -> pl.DataFrame:
    """Merge words, bigrams, titles and lemmas into a list of queries (columns QUERIES), each once, sorted.

    A query of several kinds has the kind, count and score of the first (unigram, bigram, title, lemma), and all
    sources.

    Args:
        words: result of select_words.
        bigrams: result of select_bigrams.
        titles: columns title, count (its views), source.
        lemmas: columns lemma, source.
    """
    often = words.filter(pl.col("count") >= thresholds.min_unigram)
    by_title = titles.group_by(query=_normalise("title"), maintain_order=True)
    views = by_title.agg(pl.col("count").sum(), pl.col("source").unique(maintain_order=True).str.join(", "))
    popular = views.filter(pl.col("count") >= thresholds.min_views)
    found = pl.concat(
        [
            pl.DataFrame(schema=QUERIES),
            often.select(query="word", kind=pl.lit("unigram"), count="count", source=pl.lit("text")),
            bigrams.select("query", kind=pl.lit("bigram"), count="count", score="score", source=pl.lit("text")),
            popular.select("query", "count", "source", kind=pl.lit("title")),
            lemmas.select(query=_normalise("lemma"), kind=pl.lit("lemma"), source="source"),
        ],
        how="diagonal_relaxed",
    )
    is_valid = pl.col("query").str.len_chars() >= thresholds.min_chars, pl.col("query").str.contains(WORDS)
    by_query = found.filter(*is_valid).group_by("query", maintain_order=True)
    first = pl.col("kind", "count", "score").first()
    return by_query.agg(first, pl.col("source").unique(maintain_order=True).str.join(", ")).sort("query")


def _normalise(column: str) -> pl.Expr:
    """Convert a column to lower case, with spaces for underscores."""
    return pl.col(column).str.replace_all("_", " ").str.to_lowercase().str.strip_chars()
