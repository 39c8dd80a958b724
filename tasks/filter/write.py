"""The last steps of the filter stage: balance over queries, and the parts that it writes."""

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
from dataops.schema import FILTERED, conform, dropped
from dataops.snapshot import Counts, Draft, Record
from dataops.text.balance import (
    compute_probabilities,
    count_query_matches,
    expect_query_matches,
    hash_queries,
    sample_pairs,
)
from dataops.text.personal_data import mask_personal_data
from dataops.text.query_matching import Queries, compile_queries, match_queries
from tasks.engine.part_writer import PartFile
from tasks.engine.partition_tables import read_one, table_name, write_partitions
from tasks.engine.scratch_folders import scratch_folder
from tasks.filter.config import FilterConfig
from tasks.filter.queries import read_queries
from tasks.filter.steps import NAME, FilterTask, read_drop_reasons, read_pairs
from tasks.filter.summary import merge_slices, summarise_balanced_slice, summarise_slice


def count_queries(draft: Draft, step: FilterTask) -> Record:
    """How many of the captions of a slice that are still there each query is found in."""
    queries = _queries(step.config)
    rows = read_pairs(draft, step)
    left = rows.filter(read_drop_reasons(draft, step).is_null())
    counts = count_query_matches(match_queries(_captions(left, step.config), queries), len(queries.texts))
    write_partitions(draft, table_name("queries", step.number), pl.DataFrame({"count": counts}))
    return Record(task=step.id)


def write_parts(draft: Draft, step: FilterTask) -> Record:
    """The kept and the dropped part of a part that came in, a slice at a time."""
    by_reason, described, balanced = Counter[str](), list[Mapping[str, Any]](), list[dict[str, Any]]()
    with (
        scratch_folder(NAME) as folder,
        closing(PartFile(folder / "part.parquet", FILTERED)) as kept,
        closing(PartFile(folder / "dropped.parquet", dropped(FILTERED))) as gone,
    ):
        for slice_ in step.each():
            stays, goes, said = _split_rows(draft, slice_)
            balanced += said
            for file, rows in ((kept, stays), (gone, goes)):
                written = conform(rows.to_arrow(), file.schema, slice_.id)
                file.write(written, uid_halves(written["uid"].combine_chunks()).astype(">u8").view(">u4"))
            by_reason.update(goes["drop_reason"].to_list())
            described.append(summarise_slice(stays, goes))
        parts = [
            kept.put(draft, f"part-{step.number:05d}.parquet"),
            gone.put(draft, f"dropped-{step.number:05d}.parquet"),
        ]
    counts = Counts(input=kept.rows + gone.rows, kept=kept.rows, dropped=dict(sorted(by_reason.items())))
    draft.store.put(draft.scratch(description_name(step.number)), json.dumps(merge_slices(described)).encode())
    return Record(task=step.id, parts=parts, counts=counts, facts={"balance": balanced})


def description_name(part: int) -> str:
    """Name of the scratch object that describes the rows of a part: too much to have those of all parts in memory."""
    return f"summary-{part:05d}.json"


def _split_rows(draft: Draft, step: FilterTask) -> tuple[pl.DataFrame, pl.DataFrame, list[dict[str, Any]]]:
    """The rows of a slice that stay, those that go, and what balancing says of them where it is asked."""
    rows = read_pairs(draft, step)
    reasons = read_drop_reasons(draft, step)
    verdicts = read_one(draft, table_name("verdicts", step.number), 0)
    rows = rows.with_columns(verdicts["language"], verdicts["language_score"])
    facts: list[dict[str, Any]] = []
    balanced = pl.DataFrame(schema={"query_ids": pl.List(pl.UInt32), "sampling_probability": pl.Float32})
    balanced = balanced.clear(rows.height)  # as many rows of nulls
    if step.config.balance is not None:
        reasons, balanced, said = _balance(draft, step, rows, reasons)
        facts.append(said)
    if step.config.personal == "mask":
        rows = rows.with_columns(mask_personal_data(pl.col("caption")).alias("caption"))
    whole = pl.concat([rows, balanced], how="horizontal").with_columns(drop_reason=reasons, drop_stage=pl.lit(NAME))
    stays, goes = (
        whole.filter(there) for there in (pl.col("drop_reason").is_null(), pl.col("drop_reason").is_not_null())
    )
    if step.config.balance is not None:
        often = stays["sampling_probability"].fill_null(1).cast(pl.Float64).to_numpy()
        left = expect_query_matches(stays["query_ids"].to_arrow(), len(_queries(step.config).texts), often)
        write_partitions(draft, table_name("queries-left", step.number), pl.DataFrame({"count": left}))
    return stays, goes, facts


def _balance(
    draft: Draft, step: FilterTask, rows: pl.DataFrame, reasons: pl.Series
) -> tuple[pl.Series, pl.DataFrame, dict[str, Any]]:
    """The reasons with those of balancing, the columns query_ids and sampling_probability, and what is said of them."""
    balance = step.config.balance
    assert balance is not None
    queries = _queries(step.config)
    matches = match_queries(_captions(rows, step.config), queries)
    counts = read_one(draft, "query-counts.table", 0)["count"].to_numpy()
    chances = compute_probabilities(counts, balance.max_per_query)
    keep, chance = sample_pairs(
        uid_halves(rows["uid"].to_arrow()), matches, chances, hash_queries(queries.texts, balance.seed)
    )
    unmatched = pl.Series(matches).list.len() == 0
    why = pl.select(
        pl.when(unmatched)
        .then(pl.lit(None if balance.keep_unmatched else "no_query", pl.String))
        .when(~pl.lit(pl.Series(keep)) & (balance.mode == "offline"))
        .then(pl.lit("balanced"))
    ).to_series()
    often = pl.lit(None)  # what offline balancing keeps is to be seen in every epoch: no loader must sample it again
    if balance.mode == "online":
        often = pl.when(pl.lit(unmatched)).then(1.0).otherwise(pl.lit(pl.Series(chance)))
    columns = pl.DataFrame({"query_ids": pl.Series(matches)}).with_columns(sampling_probability=often.cast(pl.Float32))
    came = reasons.is_null()
    facts = summarise_balanced_slice(
        rows["caption"].filter(came & unmatched), columns.filter(came & why.is_null()), int(came.sum())
    )
    return pl.select(pl.coalesce(reasons, why).alias("drop_reason")).to_series(), columns, facts


def _captions(rows: pl.DataFrame, config: FilterConfig) -> pa.Array:
    """The captions as they are kept."""
    caption = pl.col("caption")
    return rows.select(mask_personal_data(caption) if config.personal == "mask" else caption).to_series().to_arrow()


@lru_cache(maxsize=1)
def _compiled_queries(path: str) -> Queries:
    return compile_queries(read_queries(Path(path)))


def _queries(config: FilterConfig) -> Queries:
    assert config.balance is not None
    return _compiled_queries(config.balance.queries)
