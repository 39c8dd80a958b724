"""The file of a list of queries for balancing."""

from pathlib import Path

import polars as pl

from dataops.errors import ConfigError
from dataops.regular_files import check_regular

WORDS = r"[\p{L}\p{M}\p{N}]+"
"""Pattern of a word, as in query_matching, which also splits words of scripts without spaces into characters."""

QUERIES = {"query": pl.String, "kind": pl.String, "count": pl.Int64, "score": pl.Float64, "source": pl.String}
"""Columns of a list. kind: unigram, bigram, title or lemma; count: occurrences in the text, or views of the title;
score: pointwise mutual information of a bigram in bits; source: names of all its sources."""


def read_queries(path: Path) -> list[str]:
    """Return the queries of a list, in its order.

    Raises: ConfigError when there is no such file, or it is not Parquet with a column `query` of strings with words.
    """
    try:
        check_regular(path)
        queries = pl.read_parquet(path, columns=["query"], use_statistics=False)["query"]
    except FileNotFoundError:
        problem = "is not a file"
    except (OSError, pl.exceptions.PolarsError) as error:
        problem = f"cannot be read: {str(error).splitlines()[0]}"
    else:
        if queries.dtype != pl.String:
            problem = f"has a column query of type {queries.dtype}; it must be String"
        elif not (has_words := queries.str.contains(WORDS).fill_null(False)).all():
            problem = f"has no word in row {has_words.arg_min()} of column query"
        else:
            return queries.to_list()
    raise ConfigError(f"the list of queries {path} {problem}; make a list with `pairmill queries build`")
