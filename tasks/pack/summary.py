"""Count the pairs of a dataset by language, host, licence, crawl, size, length and scores, for its manifest."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from dataops.schema import CAPTIONS
from dataops.snapshot import INDEX, Draft, Manifest, Part, fetch_table
from dataops.store import Store
from dataops.text.tallies import Tally, Totals, count_values
from dataops.web.urls import HOST

TOTALS = f"{INDEX}totals.pq"
LISTED = 40
"""Number of values of a kind that the manifest has, most frequent first."""
LENGTH_STEP, LENGTH_STEPS = 10, 30
"""Characters per step, and number of the last step, which holds all longer captions."""
SIDE_STEP, SIDE_STEPS = 64, 32
"""Pixels per step, and number of the last step, which holds all originals with a larger shorter side."""
SCORE_STEP = 0.05
SCORE = "_score"
"""Suffix of the columns that hold scores, for example `language_score`."""

NAMED = ("languages", "hosts", "licenses", "crawls", "sizes", "caption_sources")
"""Kinds whose values are names."""
FURTHER_CAPTIONS = "further_captions"
"""Kind whose values are the kinds of further captions, if the rows have such a column."""
SOURCES = "sources"
"""Kind whose values are the names of the config's sources, if they have names."""
STEPPED = ("lengths", "original_sides")
"""Kinds whose values are steps of a number, from 0."""


def summarise(packed: pa.Table) -> dict[str, Tally]:
    """Return how many pairs of one shard have each value, by kind.

    A kind `score:NAME` for each column of scores counts its values in steps of SCORE_STEP, rounded down.
    """
    rows = pl.DataFrame(pl.from_arrow(packed))
    source = pl.col("source")
    values = {
        "languages": pl.col("language"),
        # dataops' host parser is compiled, and takes longer to load than a worker may need for its shard
        "hosts": pl.col("url").str.extract(HOST, 1).str.to_lowercase(),
        "licenses": pl.col("license"),
        # a crawl by its name, as Common Crawl writes it in the paths of its files; else the file
        "crawls": pl.coalesce(source.str.extract(r"(CC-MAIN-\d{4}-\d{2})"), source.str.extract(r"([^/]+)/*$"), source),
        "sizes": pl.format("{}x{}", "width", "height"),
        "caption_sources": pl.col("caption_source"),
        SOURCES: source.str.extract(r"^([^/]+)/"),
        "lengths": _steps(pl.col("caption").str.len_chars(), LENGTH_STEP, LENGTH_STEPS),
        "original_sides": _steps(pl.min_horizontal("original_width", "original_height"), SIDE_STEP, SIDE_STEPS),
    }
    scores = [name for name in rows.columns if name.endswith(SCORE) and rows[name].dtype.is_float()]
    values |= {f"score:{name}": (pl.col(name) / SCORE_STEP + 1e-6).floor().cast(pl.Int64) for name in scores}
    named = rows.select(**{kind: value.cast(pl.String).fill_null("") for kind, value in values.items()})
    tallies = {kind: count_values(named[kind]) for kind in named.columns}
    if CAPTIONS.name in rows.columns:
        further = rows[CAPTIONS.name].explode().drop_nulls()
        tallies[FURTHER_CAPTIONS] = count_values(further.struct.field("caption_source").fill_null(""))
    return {kind: counts for kind, counts in tallies.items() if not kind.startswith("score:") or set(counts) != {""}}


def add_tallies(
    tallies: Iterable[Mapping[str, Tally]], removed: Iterable[Mapping[str, Tally]] = ()
) -> dict[str, Tally]:
    """Return the sum over shards as that of one; values that occur no more are left out."""
    sums = defaultdict[str, Counter[str]](Counter)
    for sign, some in ((1, tallies), (-1, removed)):
        for tally in some:
            for kind, counts in tally.items():
                for value, count in counts.items():
                    sums[kind][value] += sign * count
    return {kind: dict(sorted((+counts).items())) for kind, counts in sums.items() if +counts}


def write_totals(draft: Draft, totals: Mapping[str, Tally]) -> Part:
    """Write how many pairs of a dataset have each value, for the version that a takedown makes of it."""
    rows = [(kind, value, count) for kind, counts in sorted(totals.items()) for value, count in counts.items()]
    columns = zip(*rows, strict=True)
    return draft.put_table(TOTALS, pa.table(dict(zip(("kind", "value", "pairs"), columns, strict=True))))


def load_totals(store: Store, dataset: Manifest) -> dict[str, Tally] | None:
    """Return what `write_totals` wrote; None if the dataset has no index."""
    if not dataset.named(TOTALS):
        return None
    totals = defaultdict[str, Tally](dict)
    for row in fetch_table(store, dataset.path(TOTALS)).to_pylist():
        totals[row["kind"]][row["value"]] = row["pairs"]
    return totals


def _steps(number: pl.Expr, step: int, last: int) -> pl.Expr:
    return (number // step).clip(upper_bound=last)


def count_sources(shards: Iterable[Mapping[str, Any]], names: Sequence[str]) -> Tally:
    """Return the number of pairs of each source over all shards, in the order of the names."""
    totals = Totals([SOURCES])
    for shard in shards:
        totals.add(shard)
    return {name: totals.by_name[SOURCES][name] for name in names}


def merge(shards: Iterable[Mapping[str, Any]]) -> dict[str, Tally]:
    """Return the sum over all shards; steps are sorted, names start with the most frequent.

    Pairs without a value are always counted, as "": a page states from them how many pairs have a licence or a language.
    """
    shards = list(shards)
    scores = sorted({kind for shard in shards for kind in shard if kind.startswith("score:")})
    named = [*NAMED, *([FURTHER_CAPTIONS] if any(FURTHER_CAPTIONS in shard for shard in shards) else [])]
    totals = Totals([*named, *STEPPED, *scores])
    for shard in shards:
        totals.add(shard)
    found = {kind: totals.first(kind, LISTED) for kind in named}
    found = {kind: first | ({"": n} if (n := totals.by_name[kind][""]) else {}) for kind, first in found.items()}
    for kind in (*STEPPED, *scores):
        steps = sorted(totals.by_name[kind].items(), key=lambda item: (item[0] == "", int(item[0] or 0)))
        found[kind] = dict(steps)
    return found
