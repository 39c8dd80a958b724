"""Build lists of queries for filter.balance: `queries build`."""

import math
from pathlib import Path
from typing import Annotated

import polars as pl
from cyclopts import Parameter

from dataops.errors import ConfigError
from dataops.formatting import format_counts, format_quantity
from flows.commands.options import Json
from flows.commands.output import console, print_json
from plugins.queries.build import QuerySources, build_queries, check_out, write_queries
from plugins.queries.building import Thresholds

Several = Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")]


def build(
    *,
    out: Path,
    text: Several = (),
    titles: Several = (),
    project: Several = (),
    lemmas: Several = (),
    min_unigram: int = 100,
    min_bigram: int = 100,
    min_pmi: float = 6.0,
    min_views: int = 70,
    min_chars: int = 2,
    json: Json = False,
) -> int:
    """Build a list of queries: frequent words, word pairs with high mutual information, popular titles, lemmas.

    At least one of --text, --titles and --lemmas is required. Each input is one or more files, folders or
    globs; files may be compressed as .gz, .bz2 or .zst.

    Args:
        out: Parquet file to write.
        text: Text files, or Wikipedia page dumps in XML.
        titles: Files of lines `title<TAB>views`, or Wikimedia page views.
        project: Projects of Wikimedia page views to use, such as en, en.m, en.wikipedia. Default: all.
        lemmas: Files with one lemma per line, or WordNet index files.
        min_unigram: Minimum number of occurrences of a word in the text.
        min_bigram: Minimum number of occurrences of a word pair in the text.
        min_pmi: Minimum pointwise mutual information of a word pair, in bits.
        min_views: Minimum number of views of a title.
        min_chars: Minimum length of a query, in characters. Use 1 for languages in which one character is a word.
    """
    if not (text or titles or lemmas):
        raise ConfigError("no input is given; pass at least one of --text, --titles and --lemmas")
    sources = QuerySources(text, titles, project, lemmas)
    if not math.isfinite(min_pmi):
        raise ConfigError(f"--min-pmi is {min_pmi}; it must be a finite number of bits")
    if max(map(abs, (min_unigram, min_bigram, min_views, min_chars))) >= 1 << 63:
        raise ConfigError("a --min option has 2^63 or more, which no count reaches; write a smaller number")
    check_out(out, sources)
    thresholds = Thresholds(min_unigram, min_bigram, min_pmi, min_views, min_chars)
    queries = build_queries(sources, thresholds)
    write_queries(queries, out, sources, thresholds)
    return show_queries(queries, out, as_json=json)


def show_queries(queries: pl.DataFrame, path: Path, *, as_json: bool) -> int:
    """Print the number of queries in a list, by kind."""
    kinds = dict(sorted(queries.group_by("kind").len().iter_rows()))
    if as_json:
        print_json({"path": str(path), "queries": queries.height, "kinds": kinds})
        return 0
    console().write(f"{path}: {format_quantity(queries.height, 'query', 'queries')} ({format_counts(kinds.items())})")
    return 0
