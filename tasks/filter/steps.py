"""Functions of the filter stage that apply the rules and drop duplicates, each over one slice or one partition.

tasks.filter.stage has their order. Near-duplicate captions are in tasks.filter.near_captions, balancing and the output
in tasks.filter.write.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dataops.errors import CorruptPart
from dataops.filters import evaluate_rules, first_drop_reason
from dataops.kernels.hashes import hash128
from dataops.schema import PAIRS, conform
from dataops.snapshot import Draft, Record, read_table
from dataops.text.caption_counts import count_captions
from dataops.text.duplicates import CAPTION_STEPS, DEDUPE_STEPS, KEYED, compute_keys, find_duplicates
from dataops.text.personal_data import mask_personal_data
from dataops.text.query_matching import match_queries
from dataops.text.unsafe_words import load_unsafe_words
from tasks.engine.partition_steps import PartitionStep
from tasks.engine.partition_tables import (
    partition_by_hash,
    read_one,
    read_partition,
    read_partitions,
    table_name,
    write_partitions,
)
from tasks.filter.config import FilterConfig
from tasks.filter.language import detect_languages

NAME = "filter"
_PAIRS = pl.Schema(PAIRS)
DROP_REASONS = [*(f"duplicate_{step}" for step in DEDUPE_STEPS), "boilerplate", "seen", "duplicate_near_caption"]
"""Drop reasons that hashes decide. Scratch tables hold the index in this list plus 1; 0 is a kept row."""
SLICE_ROWS = 1 << 17
"""Maximum rows of a slice, which bounds the memory of a worker. Parquet reads whole row groups fastest."""


@dataclass(frozen=True)
class PartSlice:
    """Consecutive rows of one input part."""

    number: int
    """Index among the slices of all parts; scratch tables are named by it."""
    start: int = 0
    """Index of its first row in the part."""
    rows: int | None = None
    """Number of rows; None is all rows from `start` on."""


@dataclass(frozen=True)
class FilterTask(PartitionStep):
    """One function applied to a slice, to a partition, or to a whole input part (to write it)."""

    function: Callable[[Draft, "FilterTask"], Record]
    number: int
    """Index of the slice, partition or part."""
    part: str
    """Name of the input part in the store; empty for a partition."""
    slice_count: int
    """Number of slices of all parts."""
    bits: int
    """There are 2^bits partitions."""
    seen_parts: tuple[str, ...]
    """Names in the store of the parts of the datasets that the config's `seen` names."""
    config: FilterConfig
    slices: tuple[PartSlice, ...] = ()
    """Slices of the part; empty where the part is one slice with the task's number."""
    workers: int = 1
    """Number of processes that run such tasks at the same time on one machine."""

    def split(self) -> list["FilterTask"]:
        """Return one task for each slice."""
        return [replace(self, number=one.number, slices=(one,)) for one in self.slices] or [self]

    def slice_tables(self, kind: str) -> list[str]:
        """Return the names of the scratch tables that a map over the slices wrote."""
        return [table_name(kind, number) for number in range(self.slice_count)]


def apply_rules(draft: Draft, task: FilterTask) -> Record:
    """Apply the rules to each row of a slice, and put the keys of the rows that pass by partition of the URL."""
    rows = read_pairs(draft, task)
    counts = count_captions(rows["caption"])
    answers = evaluate_rules(rows, task.config, counts)
    reasons = first_drop_reason(answers)
    if task.config.unsafe_languages:
        reasons = _fill_reasons(reasons, rows.select("caption"), lambda rest: _match_unsafe_words(rest, task.config))
    passed = reasons.is_null()
    passed_rows = passed.arg_true()
    language = detect_languages(rows.select("caption", "page_url", "page_language")[passed_rows], task.config)
    if len(passed_rows) < rows.height:  # gathering a null index gives nulls
        indices = pl.select(pl.when(passed).then(passed.cast(pl.UInt32).cum_sum() - 1)).to_series()
        language = language.select(pl.all().gather(indices))
    verdicts = language.select(
        pl.when("foreign").then(pl.lit("language")).otherwise(reasons).alias("drop_reason"),
        "language",
        "language_score",
    )
    with ThreadPoolExecutor(1) as writer:  # waits for the disk while this thread computes keys
        written = writer.submit(write_partitions, draft, table_name("verdicts", task.number), verdicts)
        _put_keys(draft, task, rows, counts, verdicts)
        written.result()
    alone = {name: int(answers[name].sum()) for name in answers.columns}
    return Record(task=task.id, facts={"alone": alone})


def _put_keys(draft: Draft, task: FilterTask, rows: pl.DataFrame, counts: pl.DataFrame, verdicts: pl.DataFrame) -> None:
    """Write the keys of the rows that pass by partition of the URL, and their captions by partition of the caption."""
    passed = verdicts["drop_reason"].is_null().arg_true()
    config = task.config
    captions = config.max_caption_count is not None or not CAPTION_STEPS.isdisjoint(config.dedupe)
    keys = compute_keys(rows.select(KEYED)[passed], counts[passed], captions=captions)
    keys = keys.with_columns(row=passed.cast(pl.UInt32))
    write_partitions(draft, table_name("keys", task.number), *partition_by_hash(keys, "url", task.bits))
    if config.max_caption_count is not None:
        partitions = partition_by_hash(keys.select("caption"), "caption", task.bits)
        write_partitions(draft, table_name("captions", task.number), *partitions)


def find_frequent_captions(draft: Draft, task: FilterTask) -> Record:
    """Find the captions of a partition that occur more than `max_caption_count` times."""
    captions = read_partition(draft, task.slice_tables("captions"), task.number)
    frequent = captions.group_by("caption").len().filter(pl.col("len") > task.config.max_caption_count)
    write_partitions(draft, table_name("frequent", task.number), frequent.drop("len"))
    return Record(task=task.id)


def put_seen_urls(draft: Draft, task: FilterTask) -> Record:
    """Put the URLs of one part of an earlier dataset by partition."""
    urls = read_table(draft.store, task.seen_parts[task.number], ["url"])["url"].combine_chunks()
    frame = pl.DataFrame({"url": hash128(urls)[:, 0]}).unique(maintain_order=True)
    write_partitions(draft, table_name("seen", task.number), *partition_by_hash(frame, "url", task.bits))
    return Record(task=task.id)


def drop_duplicates(draft: Draft, task: FilterTask) -> Record:
    """Drop boilerplate, seen URLs and duplicates in a partition of URLs, and put the drop reasons by slice."""
    rows = read_partition(draft, task.slice_tables("keys"), task.number)
    reasons = np.zeros(rows.height, np.uint8)
    if task.seen_parts:
        seen = read_partition(draft, [table_name("seen", i) for i in range(len(task.seen_parts))], task.number)
        reasons[rows["url"].is_in(seen["url"].implode()).to_numpy()] = DROP_REASONS.index("seen") + 1
    if task.config.max_caption_count is not None:  # after "seen", which it overwrites
        frequent = read_partition(draft, task.partition_names("frequent"), 0)
        boilerplate = rows["caption"].is_in(frequent["caption"].implode()).to_numpy()
        reasons[boilerplate] = DROP_REASONS.index("boilerplate") + 1
    kept = reasons == 0
    candidates = rows if kept.all() else rows.filter(pl.Series(kept))
    reasons[kept] = find_duplicates(candidates, [s for s in task.config.dedupe if s != "caption"])
    _put_dropped(draft, task, "drop-reasons", rows["part", "row"], reasons)
    return Record(task=task.id)


def put_by_caption(draft: Draft, task: FilterTask) -> Record:
    """Put the keys of the rows of a slice that are still kept by partition of the caption."""
    keys = read_partitions(draft, table_name("keys", task.number), 1 << task.bits)
    dropped = read_slice(draft, task, "drop-reasons")
    kept = keys.join(dropped, on="row", how="anti", maintain_order="left")
    write_partitions(draft, table_name("keys-by-caption", task.number), *partition_by_hash(kept, "caption", task.bits))
    return Record(task=task.id)


def drop_duplicate_captions(draft: Draft, task: FilterTask) -> Record:
    """Drop all but one row of each caption in a partition of captions, and put the drop reasons by slice."""
    rows = read_partition(draft, task.slice_tables("keys-by-caption"), task.number)
    _put_dropped(draft, task, "drop-reasons-captions", rows["part", "row"], find_duplicates(rows, ["caption"]))
    return Record(task=task.id)


def read_rows(draft: Draft, task: FilterTask, columns: list[str] | None = None) -> pl.DataFrame:
    """Return the rows of a task's slice as `extract` wrote them.

    Raises: CorruptPart when the part is not a Parquet file, or lacks a column.
    """
    path = draft.store.local(task.part)
    part_slice = task.slices[0] if task.slices else PartSlice(task.number)
    try:
        rows = pl.scan_parquet(path).slice(part_slice.start, part_slice.rows)
        return cast(pl.DataFrame, (rows if columns is None else rows.select(columns)).collect())
    except pl.exceptions.PolarsError as error:
        raise CorruptPart(f"{draft.store.uri}/{task.part} is not a Parquet file with such columns: {error}") from error


def read_pairs(draft: Draft, task: FilterTask) -> pl.DataFrame:
    """Return the rows of a task's slice with exactly the columns of PAIRS.

    Raises: CorruptPart when the part is not a Parquet file; SchemaError when its columns do not fit.
    """
    rows = read_rows(draft, task)
    if rows.schema == _PAIRS and not rows["uid"].null_count():
        return rows
    return cast(pl.DataFrame, pl.from_arrow(conform(rows.to_arrow(), PAIRS, task.part)))


def kept_caption(config: FilterConfig) -> pl.Expr:
    """Return the caption as the output has it: with personal data masked where the config says so."""
    caption = pl.col("caption")
    return mask_personal_data(caption) if config.personal == "mask" else caption


def _fill_reasons(reasons: pl.Series, rows: pl.DataFrame, rule: Callable[[pl.DataFrame], pl.Series]) -> pl.Series:
    """Return the reasons, with those of `rule` for the rows that have none."""
    passed = reasons.is_null().arg_true()
    if not len(passed):
        return reasons
    if len(passed) == rows.height:
        return rule(rows)
    return reasons.scatter(passed, rule(rows[passed]))


def _match_unsafe_words(rows: pl.DataFrame, config: FilterConfig) -> pl.Series:
    matches = match_queries(rows["caption"].to_arrow(), load_unsafe_words(tuple(config.unsafe_languages)))
    return pl.select(pl.when(pl.Series(matches).list.len() > 0).then(pl.lit("unsafe"))).to_series()


def _put_dropped(draft: Draft, task: FilterTask, kind: str, rows: pl.DataFrame, reasons: NDArray[np.uint8]) -> None:
    """Write the dropped rows (part, row) and their reasons, by slice.

    Args:
        rows: in the order of `part`, the index of their slice.
        reasons: indices in DROP_REASONS plus 1; 0 for a kept row.
    """
    indices = np.flatnonzero(reasons)
    dropped = rows[pl.Series(indices)].with_columns(reason=pl.Series(reasons[indices]))
    sizes = np.bincount(dropped["part"].to_numpy(), minlength=task.slice_count).tolist()
    write_partitions(draft, table_name(kind, task.number), dropped.drop("part"), sizes)


def read_slice(draft: Draft, task: FilterTask, kind: str) -> pl.DataFrame:
    """Return what a map over the partitions wrote about the rows of a task's slice."""
    return read_partition(draft, task.partition_names(kind), task.number).drop("part")


def drop_reason_tables(config: FilterConfig, *, near: bool = True) -> list[str]:
    """Return the kinds of scratch tables that hold drop reasons, with or without those of near-duplicate captions."""
    kinds = ["drop-reasons", *(["drop-reasons-captions"] if "caption" in config.dedupe else [])]
    return [*kinds, "drop-reasons-same", "drop-reasons-near"] if near and config.near_captions is not None else kinds


def read_drop_reasons(draft: Draft, task: FilterTask) -> pl.Series:
    """Return the drop reason of each row of a task's slice before balancing; null for a kept row."""
    reasons = read_one(draft, table_name("verdicts", task.number), 0)["drop_reason"]
    for kind in drop_reason_tables(task.config):
        dropped = read_slice(draft, task, kind)
        reasons = reasons.scatter(dropped["row"], pl.Series(DROP_REASONS)[dropped["reason"] - 1])
    return reasons
