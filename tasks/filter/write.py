"""Functions of the filter stage that balance pairs over queries and write the kept and the dropped parts."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from dataops.facts import BalancedRows, FilteredParts
from dataops.kernels.hashes import hash128, uid_halves
from dataops.reasons import Reason
from dataops.rules.captions import kept_caption
from dataops.schema import CAPTIONS, FILTERED, conform, dropped_schema
from dataops.snapshot import Counts, Draft, Part, Record, read_table
from dataops.text.balance import (
    compute_probabilities,
    count_query_matches,
    expect_query_matches,
    hash_queries,
    sample_pairs,
)
from dataops.text.query_list import read_queries
from dataops.text.query_matching import Queries, compile_queries, match_queries
from tasks.engine.exchange import put_frame, read_frame
from tasks.engine.part_writer import PartWriter
from tasks.engine.scratch_folders import scratch_folder
from tasks.filter.added_steps import BALANCED, NO_QUERY
from tasks.filter.config import BalanceConfig, FilterConfig
from tasks.filter.further_captions import CaptionsOfRows
from tasks.filter.steps import NAME, FilterJob, FilterStep, PartSlice, read_pairs, read_verdicts
from tasks.filter.summary import merge_balanced_slices, merge_slices, summarise_balanced_slice, summarise_slice
from tasks.lists.opt_outs import mark_rows, match_rows

QUERY_COUNTS, QUERY_COUNTS_PART = "query-counts.table", "query-counts.parquet"
"""Scratch table with the number of kept captions that each query matches, `total` with those of earlier versions; and the
part with the same of a dataset that grows."""


def count_queries(draft: Draft, step: FilterStep) -> None:
    """Count how many of the kept captions of a batch each query matches."""
    queries = load_queries(_balance_config(step.job).queries)
    counts = np.zeros(len(queries.texts), np.int64)
    for part_slice, verdicts in read_verdicts(draft, step):
        rows = read_pairs(draft, part_slice).filter(verdicts["drop_reason"].is_null())
        counts += count_query_matches(_match(rows, step.job.config), len(queries.texts))
    put_frame(draft, counts_name("queries", step.number), pl.DataFrame({"count": counts}))


def sum_query_counts(draft: Draft, step: FilterStep) -> None:
    """Write how often each query occurs in the rows of all batches."""
    texts = load_queries(_balance_config(step.job).queries).texts
    found = pl.DataFrame(
        {
            "query": np.ascontiguousarray(hash128(pa.array(texts, pa.large_string()))[:, 0]),
            "count": sum_counts(draft, "queries", step.job.batches),
        }
    )
    names = [name for batch in known.batches for name in batch] if (known := step.job.known.get("queries")) else []
    tables = [pl.DataFrame(pl.from_arrow(read_table(draft.store, name))).cast(found.schema) for name in names]
    total = pl.concat([found, *tables]).group_by("query").agg(total=pl.col("count").sum())
    put_frame(draft, QUERY_COUNTS, found.join(total, on="query", how="left", maintain_order="left"))


def sum_counts(draft: Draft, kind: str, number: int) -> NDArray[Any]:
    """Return the sum of the counts of so many tasks."""
    counts = (read_frame(draft, counts_name(kind, index))["count"].to_numpy() for index in range(number))
    return sum(counts, np.zeros(1, np.int64))


def write_parts(draft: Draft, step: FilterStep) -> Record:
    """Write the kept and the dropped part of some input parts, one slice at a time."""
    by_part = groupby(read_verdicts(draft, step), lambda item: item[0].part_number)
    written = [_write_part(draft, step.job, number, slices) for number, slices in by_part]
    facts = FilteredParts()
    if step.job.config.balance is not None:
        left = np.sum([part.queries for part in written], axis=0)
        put_frame(draft, counts_name("queries-left", step.number), pl.DataFrame({"count": left}))
        facts = FilteredParts(balance=merge_balanced_slices([one for part in written for one in part.balance]))
    summary = merge_slices([part.summary for part in written])
    draft.store.put(draft.scratch(summary_name(step.number)), json.dumps(summary).encode())
    parts, counts = [part for one in written for part in one.parts], sum((one.counts for one in written), Counts())
    return Record(task=step.id, parts=parts, counts=counts, facts=facts.as_json())


class _Written(NamedTuple):
    """The output for one input part."""

    parts: list[Part]
    counts: Counts
    summary: dict[str, Any]
    queries: NDArray[np.float64]
    """Number of kept captions that each query matches; empty without balancing."""
    balance: list[BalancedRows]
    """Summaries of balancing, by slice."""


def _write_part(
    draft: Draft, job: FilterJob, number: int, slices: Iterable[tuple[PartSlice, pl.DataFrame]]
) -> _Written:
    reasons, summaries, balance, queries = (
        Counter[str](),
        list[Mapping[str, Any]](),
        list[BalancedRows](),
        np.zeros(1),
    )
    captions = CaptionsOfRows(draft, job) if job.config.captions_per_image > 1 else None
    schema = FILTERED.append(CAPTIONS) if captions else FILTERED
    with (
        scratch_folder(NAME) as folder,
        closing(PartWriter(folder / "part.parquet", schema)) as kept_file,
        closing(PartWriter(folder / "dropped.parquet", dropped_schema(FILTERED))) as dropped_file,
    ):
        for part_slice, verdicts in slices:
            kept_rows, dropped_rows, facts = _split_rows(draft, job, part_slice, verdicts, captions)
            if facts is not None:
                balance.append(facts)
                queries = queries + _count_left(kept_rows, job)
            for file, rows in ((kept_file, kept_rows), (dropped_file, dropped_rows)):
                table = conform(rows.to_arrow(), file.schema, part_slice.part)
                file.write(table, uid_halves(table["uid"].combine_chunks()).astype(">u8").view(">u4"))
            reasons.update(dropped_rows["drop_reason"].to_list())
            summaries.append(summarise_slice(kept_rows, dropped_rows, job.config.sources))
        parts = [
            kept_file.put(draft, f"part-{number:05d}.parquet"),
            dropped_file.put(draft, f"dropped-{number:05d}.parquet"),
        ]
    rows = kept_file.rows + dropped_file.rows
    counts = Counts(input=rows, kept=kept_file.rows, dropped=dict(sorted(reasons.items())))
    return _Written(parts, counts, merge_slices(summaries), queries, balance)


def summary_name(step: int) -> str:
    """Return the name of the scratch object with the summary of a step's parts; all of them may not fit in memory."""
    return f"summary-{step:05d}.json"


def counts_name(kind: str, step: int) -> str:
    """Return the name of the scratch table with the number of captions of a step that each query matches."""
    return f"{kind}-{step:05d}.table"


def _split_rows(
    draft: Draft, job: FilterJob, part_slice: PartSlice, verdicts: pl.DataFrame, captions: CaptionsOfRows | None
) -> tuple[pl.DataFrame, pl.DataFrame, BalancedRows | None]:
    """Return the kept and the dropped rows of a slice, and the facts of balancing (none without balancing)."""
    rows, reasons, facts = read_pairs(draft, part_slice), verdicts["drop_reason"], None
    rows = rows.with_columns(verdicts["language"], verdicts["language_score"])
    balanced = pl.DataFrame(schema={"query_ids": pl.List(pl.UInt32), "sampling_probability": pl.Float32})
    balanced = balanced.clear(rows.height)  # rows of nulls
    if job.config.balance is not None:
        reasons, balanced, facts = _balance(draft, job, rows, reasons)
    rows = rows.with_columns(kept_caption(job.config))
    rows = pl.concat([rows, balanced], how="horizontal").with_columns(drop_reason=reasons, drop_stage=pl.lit(NAME))
    is_kept = pl.col("drop_reason").is_null()
    dropped = _name_lists(draft, job, rows.filter(~is_kept))
    return (captions.add(rows, part_slice) if captions else rows).filter(is_kept), dropped, facts


def _name_lists(draft: Draft, job: FilterJob, dropped: pl.DataFrame) -> pl.DataFrame:
    """Return dropped rows with the names of the opt-out lists that match them in `page_opt_out`."""
    lists = job.opt_outs.load(draft)
    if not lists or not (dropped["drop_reason"] == Reason.OPT_OUT_LIST).any():
        return dropped
    return dropped.with_columns(mark_rows(dropped, match_rows(dropped.select("url", "page_url").to_arrow(), lists)))


def _count_left(kept_rows: pl.DataFrame, job: FilterJob) -> NDArray[np.float64]:
    """Return how many of the kept captions each query matches, weighted by their probabilities."""
    probabilities = kept_rows["sampling_probability"].fill_null(1).cast(pl.Float64).to_numpy()
    queries = load_queries(_balance_config(job).queries)
    return expect_query_matches(kept_rows["query_ids"].to_arrow(), len(queries.texts), probabilities)


def _balance(
    draft: Draft, job: FilterJob, rows: pl.DataFrame, reasons: pl.Series
) -> tuple[pl.Series, pl.DataFrame, BalancedRows]:
    """Balance the rows of a slice.

    Returns: the drop reasons with those of balancing; the columns query_ids and sampling_probability; the facts.
    """
    balance = _balance_config(job)
    matches = _match(rows, job.config)
    probabilities = compute_probabilities(read_frame(draft, QUERY_COUNTS)["total"].to_numpy(), balance.max_per_query)
    salts = hash_queries(load_queries(balance.queries).texts, balance.seed)
    sampled, probability = sample_pairs(uid_halves(rows["uid"].to_arrow()), matches, probabilities, salts)
    unmatched = pl.Series(matches).list.len() == 0
    balance_reasons = pl.select(
        pl.when(unmatched)
        .then(pl.lit(None if balance.keep_unmatched else NO_QUERY, pl.String))
        .when(~pl.lit(pl.Series(sampled)) & (balance.mode == "offline"))
        .then(pl.lit(BALANCED))
    ).to_series()
    # Offline balancing leaves the probability null: a loader must not sample its rows a second time.
    column = pl.lit(None)
    if balance.mode == "online":
        column = pl.when(pl.lit(unmatched)).then(1.0).otherwise(pl.lit(pl.Series(probability)))
    columns = pl.DataFrame({"query_ids": pl.Series(matches)}).with_columns(sampling_probability=column.cast(pl.Float32))
    is_input = reasons.is_null()
    facts = summarise_balanced_slice(
        rows["caption"].filter(is_input & unmatched),
        columns.filter(is_input & balance_reasons.is_null()),
        int(is_input.sum()),
    )
    return pl.select(pl.coalesce(reasons, balance_reasons).alias("drop_reason")).to_series(), columns, facts


def _balance_config(job: FilterJob) -> BalanceConfig:
    assert job.config.balance is not None
    return job.config.balance


def _match(rows: pl.DataFrame, config: FilterConfig) -> pa.Array:
    assert config.balance is not None
    captions = rows.select(kept_caption(config)).to_series()
    return match_queries(captions.to_arrow(), load_queries(config.balance.queries))


@lru_cache(maxsize=1)
def load_queries(path: str) -> Queries:
    """Read and compile a list of queries. Raises: ConfigError as read_queries."""
    return compile_queries(read_queries(Path(path)))
