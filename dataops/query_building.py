"""Makes the list of what captions may speak of: frequent words, pairs of words that belong together, titles, lemmas.

Source: Radford et al. 2021, section 2.2: words that occur at least 100 times in Wikipedia, bigrams of high pointwise mutual
information, names of articles above a certain search volume, WordNet synsets not already in the list; Xu et al. 2023
(MetaCLIP), section 3.1, for thresholds.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import polars as pl

WORDS = r"[\p{L}\p{M}\p{N}]+"
"""What query_matching takes for words; there, runs of scripts without spaces are taken apart further."""

QUERIES = {"query": pl.String, "kind": pl.String, "count": pl.Int64, "score": pl.Float64, "source": pl.String}
"""The columns of a list. kind: unigram, bigram, title, lemma; count: occurrences in the text, or views of the title; score:
pointwise mutual information in bits (bigrams); source: where it is from."""


@dataclass(frozen=True)
class Thresholds:
    """Below which nothing is a query."""

    min_unigram: int = 100
    """Occurrences of a word."""
    min_bigram: int = 100
    """Occurrences of a pair of words that follow one another."""
    min_pmi: float = 6.0
    """Pointwise mutual information of such a pair, log2(p(xy) / (p(x) p(y))), in bits."""
    min_views: int = 70
    """Views of a title."""
    min_chars: int = 2
    """Characters of a query."""


def words_of(lines: pl.Series) -> pl.DataFrame:
    """The words of lines of text, in lower case and in their order: line (UInt32), word."""
    return (
        pl.DataFrame({"word": lines.str.to_lowercase().str.extract_all(WORDS)})
        .with_row_index("line")
        .explode("word")
        .drop_nulls("word")
    )


def count_unigrams(batches: Iterable[pl.Series]) -> pl.DataFrame:
    """How often each word occurs: word, count."""
    total = pl.DataFrame(schema={"word": pl.String, "count": pl.Int64})
    for lines in batches:
        counted = words_of(lines).group_by("word").agg(count=pl.len().cast(pl.Int64))
        total = pl.concat([total, counted]).group_by("word").agg(pl.col("count").sum())
    return total


def count_bigrams(batches: Iterable[pl.Series], vocabulary: pl.Series) -> pl.DataFrame:
    """How often each two words of a vocabulary follow one another: first, second (rows of the vocabulary), count."""
    numbers = pl.DataFrame({"word": vocabulary}).with_row_index("number")
    total = pl.DataFrame(schema={"first": pl.UInt32, "second": pl.UInt32, "count": pl.Int64})
    for lines in batches:
        words = words_of(lines).join(numbers, on="word", how="left", maintain_order="left")
        following = words.select(
            first="number",
            second=pl.when(pl.col("line") == pl.col("line").shift(-1)).then(pl.col("number").shift(-1)),
        )
        counted = following.drop_nulls().group_by("first", "second").agg(count=pl.len().cast(pl.Int64))
        total = pl.concat([total, counted]).group_by("first", "second").agg(pl.col("count").sum())
    return total


def frequent_words(unigrams: pl.DataFrame, thresholds: Thresholds) -> pl.DataFrame:
    """The words that are queries, by frequency and then by spelling: word, count."""
    enough = unigrams.filter(
        pl.col("count") >= thresholds.min_unigram, pl.col("word").str.len_chars() >= thresholds.min_chars
    )
    return enough.sort(pl.col("count"), "word", descending=[True, False])


def telling_bigrams(
    bigrams: pl.DataFrame, words: pl.DataFrame, total_words: int, thresholds: Thresholds
) -> pl.DataFrame:
    """The bigrams that are queries: query, count, score (bits)."""
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


def build(
    batches: Callable[[], Iterable[pl.Series]], titles: pl.DataFrame, lemmas: pl.DataFrame, thresholds: Thresholds
) -> pl.DataFrame:
    """The list of queries, with the columns QUERIES, each once, sorted.

    Args:
        batches: gives the lines of the text from the beginning each time that it is called; it is called twice.
        titles: title, count (its views), source.
        lemmas: lemma, source.
    """
    unigrams = count_unigrams(batches())
    words = frequent_words(unigrams, thresholds)
    pairs = telling_bigrams(count_bigrams(batches(), words["word"]), words, int(unigrams["count"].sum()), thresholds)
    popular = titles.filter(pl.col("count") >= thresholds.min_views)
    found = pl.concat(
        [
            words.select(query="word", kind=pl.lit("unigram"), count="count", source=pl.lit("text")),
            pairs.select("query", kind=pl.lit("bigram"), count="count", score="score", source=pl.lit("text")),
            popular.select(query=_plain("title"), kind=pl.lit("title"), count="count", source="source"),
            lemmas.select(query=_plain("lemma"), kind=pl.lit("lemma"), source="source"),
        ],
        how="diagonal_relaxed",
    )
    sayable = pl.col("query").str.len_chars() >= thresholds.min_chars, pl.col("query").str.contains(WORDS)
    missing = [pl.lit(None, dtype).alias(name) for name, dtype in QUERIES.items() if name not in found.columns]
    found = found.with_columns(missing).select(pl.col(name).cast(dtype) for name, dtype in QUERIES.items())
    sayable = pl.col("query").str.len_chars() >= thresholds.min_chars, pl.col("query").str.contains(WORDS)
    # The first of several stays: a word that is a title too is known by how often it is said.
    return found.filter(*sayable).unique("query", keep="first", maintain_order=True).sort("query")


def _plain(column: str) -> pl.Expr:
    """In lower case, with spaces for underscores."""
    return pl.col(column).str.replace_all("_", " ").str.to_lowercase().str.strip_chars()
