"""What the dataset's manifest says of its pairs: counts by language, host, licence, crawl, size, length and scores."""

from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl
import pyarrow as pa

from dataops.filters import HOST
from dataops.text.tallies import Tally, Totals, count_values

LISTED = 40
"""Values of a kind that the manifest names, most frequent first."""
LENGTH_STEP, LENGTH_STEPS = 10, 30
"""Captions are counted by their length in steps of so many characters; the last step is all that is longer."""
SIDE_STEP, SIDE_STEPS = 64, 32
"""Originals are counted by their shorter side in steps of so many pixels; the last step is all that is larger."""
SCORE_STEP = 0.05
SCORE = "_score"
"""How the columns end that hold scores; `language_score` is one."""

NAMED = ("languages", "hosts", "licenses", "crawls", "sizes", "caption_sources")
"""Kinds whose values are names."""
STEPPED = ("lengths", "original_sides")
"""Kinds whose values are steps of a number, from 0."""


def summarise(packed: pa.Table) -> dict[str, Tally]:
    """Of one shard: how many pairs there are of each value, by kind.

    A kind `score:NAME` for each column of scores counts its values in steps of SCORE_STEP, rounded down.
    """
    rows = pl.DataFrame(pl.from_arrow(packed))
    source = pl.col("source")
    values = {
        "languages": pl.col("language"),
        # not by `host`, whose compiled code takes longer to load than a worker may need for its shard
        "hosts": pl.col("url").str.extract(HOST, 1).str.to_lowercase(),
        "licenses": pl.col("license"),
        # a crawl by its name, as Common Crawl writes it in the paths of its files; else the file
        "crawls": pl.coalesce(source.str.extract(r"(CC-MAIN-\d{4}-\d{2})"), source.str.extract(r"([^/]+)/*$"), source),
        "sizes": pl.format("{}x{}", "width", "height"),
        "caption_sources": pl.col("caption_source"),
        "lengths": _steps(pl.col("caption").str.len_chars(), LENGTH_STEP, LENGTH_STEPS),
        "original_sides": _steps(pl.min_horizontal("original_width", "original_height"), SIDE_STEP, SIDE_STEPS),
    }
    scores = [name for name in rows.columns if name.endswith(SCORE) and rows[name].dtype.is_float()]
    values |= {f"score:{name}": (pl.col(name) / SCORE_STEP + 1e-6).floor().cast(pl.Int64) for name in scores}
    named = rows.select(**{kind: value.cast(pl.String).fill_null("") for kind, value in values.items()})
    tallies = {kind: count_values(named[kind]) for kind in named.columns}
    return {kind: counted for kind, counted in tallies.items() if not kind.startswith("score:") or set(counted) != {""}}


def _steps(number: pl.Expr, step: int, last: int) -> pl.Expr:
    return (number // step).clip(upper_bound=last)


def merge(shards: Iterable[Mapping[str, Any]]) -> dict[str, Tally]:
    """The descriptions of all shards as one; steps in their order, names by how many they are."""
    shards = list(shards)
    scores = sorted({kind for shard in shards for kind in shard if kind.startswith("score:")})
    totals = Totals([*NAMED, *STEPPED, *scores])
    for shard in shards:
        totals.add(shard)
    found = {kind: totals.first(kind, LISTED) for kind in NAMED}
    for kind in (*STEPPED, *scores):
        counted = sorted(totals.by_name[kind].items(), key=lambda item: (item[0] == "", int(item[0] or 0)))
        found[kind] = dict(counted)
    return found
