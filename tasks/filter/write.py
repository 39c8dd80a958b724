"""Functions of the filter stage that balance pairs over queries and write the kept and the dropped parts."""

import json
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from dataops.kernels.hashes import uid_halves
from dataops.schema import FILTERED, conform, dropped_schema
from dataops.snapshot import Counts, Draft, Record
from dataops.text.balance import (
    compute_probabilities,
    count_query_matches,
    expect_query_matches,
    hash_queries,
    sample_pairs,
)
from dataops.text.query_matching import Queries, compile_queries, match_queries
from tasks.engine.part_writer import PartWriter
from tasks.engine.partition_tables import read_one, table_name, write_partitions
from tasks.engine.scratch_folders import scratch_folder
from tasks.filter.config import BalanceConfig, FilterConfig
from tasks.filter.queries import read_queries
from tasks.filter.steps import NAME, FilterTask, kept_caption, read_drop_reasons, read_pairs
from tasks.filter.summary import merge_slices, summarise_balanced_slice, summarise_slice


def count_queries(draft: Draft, task: FilterTask) -> Record:
    """Count how many of the kept captions of a slice each query matches."""
    queries = _compile_queries(_balance_config(task).queries)
    rows = read_pairs(draft, task).filter(read_drop_reasons(draft, task).is_null())
    counts = count_query_matches(_match(rows, queries, task.config), len(queries.texts))
    write_partitions(draft, table_name("queries", task.number), pl.DataFrame({"count": counts}))
    return Record(task=task.id)


def write_parts(draft: Draft, task: FilterTask) -> Record:
    """Write the kept and the dropped part of an input part, one slice at a time."""
    reasons, summaries, balance_facts = Counter[str](), list[Mapping[str, Any]](), list[dict[str, Any]]()
    with (
        scratch_folder(NAME) as folder,
        closing(PartWriter(folder / "part.parquet", FILTERED)) as kept_file,
        closing(PartWriter(folder / "dropped.parquet", dropped_schema(FILTERED))) as dropped_file,
    ):
        for slice_task in task.split():
            kept_rows, dropped_rows, facts = _split_rows(draft, slice_task)
            balance_facts += facts
            for file, rows in ((kept_file, kept_rows), (dropped_file, dropped_rows)):
                table = conform(rows.to_arrow(), file.schema, slice_task.id)
                file.write(table, uid_halves(table["uid"].combine_chunks()).astype(">u8").view(">u4"))
            reasons.update(dropped_rows["drop_reason"].to_list())
            summaries.append(summarise_slice(kept_rows, dropped_rows))
        parts = [
            kept_file.put(draft, f"part-{task.number:05d}.parquet"),
            dropped_file.put(draft, f"dropped-{task.number:05d}.parquet"),
        ]
    rows = kept_file.rows + dropped_file.rows
    counts = Counts(input=rows, kept=kept_file.rows, dropped=dict(sorted(reasons.items())))
    draft.store.put(draft.scratch(summary_name(task.number)), json.dumps(merge_slices(summaries)).encode())
    return Record(task=task.id, parts=parts, counts=counts, facts={"balance": balance_facts})


def summary_name(part: int) -> str:
    """Return the name of the scratch object with the summary of a part; all of them may not fit in memory."""
    return f"summary-{part:05d}.json"


def _split_rows(draft: Draft, task: FilterTask) -> tuple[pl.DataFrame, pl.DataFrame, list[dict[str, Any]]]:
    """Return the kept and the dropped rows of a slice, and the facts of balancing (none without balancing)."""
    rows, reasons = read_pairs(draft, task), read_drop_reasons(draft, task)
    verdicts = read_one(draft, table_name("verdicts", task.number), 0)
    rows = rows.with_columns(verdicts["language"], verdicts["language_score"])
    facts: list[dict[str, Any]] = []
    balanced = pl.DataFrame(schema={"query_ids": pl.List(pl.UInt32), "sampling_probability": pl.Float32})
    balanced = balanced.clear(rows.height)  # rows of nulls
    if task.config.balance is not None:
        reasons, balanced, slice_facts = _balance(draft, task, rows, reasons)
        facts.append(slice_facts)
    rows = rows.with_columns(kept_caption(task.config))
    rows = pl.concat([rows, balanced], how="horizontal").with_columns(drop_reason=reasons, drop_stage=pl.lit(NAME))
    is_kept = pl.col("drop_reason").is_null()
    kept_rows = rows.filter(is_kept)
    if task.config.balance is not None:
        probabilities = kept_rows["sampling_probability"].fill_null(1).cast(pl.Float64).to_numpy()
        count = len(_compile_queries(task.config.balance.queries).texts)
        left = expect_query_matches(kept_rows["query_ids"].to_arrow(), count, probabilities)
        write_partitions(draft, table_name("queries-left", task.number), pl.DataFrame({"count": left}))
    return kept_rows, rows.filter(~is_kept), facts


def _balance(
    draft: Draft, task: FilterTask, rows: pl.DataFrame, reasons: pl.Series
) -> tuple[pl.Series, pl.DataFrame, dict[str, Any]]:
    """Balance the rows of a slice.

    Returns: the drop reasons with those of balancing; the columns query_ids and sampling_probability; the facts.
    """
    balance = _balance_config(task)
    queries = _compile_queries(balance.queries)
    matches = _match(rows, queries, task.config)
    counts = read_one(draft, "query-counts.table", 0)["count"].to_numpy()
    probabilities = compute_probabilities(counts, balance.max_per_query)
    salts = hash_queries(queries.texts, balance.seed)
    sampled, probability = sample_pairs(uid_halves(rows["uid"].to_arrow()), matches, probabilities, salts)
    unmatched = pl.Series(matches).list.len() == 0
    balance_reasons = pl.select(
        pl.when(unmatched)
        .then(pl.lit(None if balance.keep_unmatched else "no_query", pl.String))
        .when(~pl.lit(pl.Series(sampled)) & (balance.mode == "offline"))
        .then(pl.lit("balanced"))
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


def _balance_config(task: FilterTask) -> BalanceConfig:
    assert task.config.balance is not None
    return task.config.balance


def _match(rows: pl.DataFrame, queries: Queries, config: FilterConfig) -> pa.Array:
    return match_queries(rows.select(kept_caption(config)).to_series().to_arrow(), queries)


@lru_cache(maxsize=1)
def _compile_queries(path: str) -> Queries:
    return compile_queries(read_queries(Path(path)))
