"""The steps of the filter stage that judge and choose: each looks at a slice of a part, or at a range of hashes.

tasks.filter.stage puts them in order. Near-duplicate captions are in tasks.filter.near_captions, balancing and writing in
tasks.filter.write.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dataops.errors import CorruptPart
from dataops.filters import asked_of, first_reason
from dataops.kernels.hashes import hash128
from dataops.schema import PAIRS, conform
from dataops.snapshot import Draft, Record, read_table
from dataops.text.caption_counts import count_captions
from dataops.text.duplicates import CAPTION_STEPS, DEDUPE_STEPS, KEYED, compute_keys, find_duplicates
from dataops.text.query_matching import match_queries
from dataops.text.unsafe_words import load_unsafe_words
from tasks.engine.partition_steps import PartitionStep
from tasks.engine.partition_tables import (
    all_pieces,
    partition_by_hash,
    read_one,
    read_partition,
    table_name,
    write_partitions,
)
from tasks.filter.config import FilterConfig
from tasks.filter.language import detect_languages

NAME = "filter"
_PAIRS = pl.Schema(PAIRS)
DROP_REASONS = [*(f"duplicate_{step}" for step in DEDUPE_STEPS), "boilerplate", "seen", "duplicate_near_caption"]
"""Why rows go that were judged by hashes; tables have the place in this list, and 1 more: 0 is a row that stays."""
SLICE_ROWS = 1 << 17
"""Of a part, that are looked at together: what bounds the memory of a worker. Whole row groups are read fastest."""


@dataclass(frozen=True)
class PartSlice:
    """A slice of a part that came in. Scratch tables are by slice."""

    number: int
    """Among the slices of all parts."""
    start: int = 0
    """Its first row in the part."""
    rows: int | None = None
    """None is all that follow."""


@dataclass(frozen=True)
class FilterTask(PartitionStep):
    """One step's work on a slice of a part that came in, on a whole part (to write it), or on a range of hashes."""

    function: Callable[[Draft, "FilterTask"], Record]
    number: int
    """Of the slice, part or range."""
    part: str
    """Name in the store of the part."""
    parts: int
    """Slices of parts in all."""
    bits: int
    """There are 2^bits ranges."""
    seen: tuple[str, ...]
    """Names in the store of the parts of the datasets that were made before."""
    config: FilterConfig
    slices: tuple[PartSlice, ...] = ()
    """That the step looks at; without any, the part is one slice of the same number."""
    workers: int = 1
    """Processes that do such steps at the same time."""

    def each(self) -> list["FilterTask"]:
        """The same on each slice by itself."""
        return [replace(self, number=one.number, slices=(one,)) for one in self.slices] or [self]

    def tables(self, kind: str) -> list[str]:
        """Names of the scratch tables that a map over the slices wrote."""
        return [table_name(kind, number) for number in range(self.parts)]


def apply_rules(draft: Draft, step: FilterTask) -> Record:
    """The verdict on each row of a slice that needs no other row, and the keys of those that pass, by range of url."""
    rows = read_pairs(draft, step)
    counts = count_captions(rows["caption"])
    answers = asked_of(rows, step.config, counts)
    reasons = first_reason(answers)
    if step.config.unsafe_languages:
        reasons = _fill_reasons(reasons, rows.select("caption"), lambda left: _match_unsafe_words(left, step.config))
    asked = reasons.is_null()
    left = asked.arg_true()
    language = detect_languages(rows.select("caption", "page_url")[left], step.config)
    if len(left) < rows.height:  # a place that is null gives nulls
        places = pl.select(pl.when(asked).then(asked.cast(pl.UInt32).cum_sum() - 1)).to_series()
        language = language.select(pl.all().gather(places))
    verdicts = language.select(
        pl.when("foreign").then(pl.lit("language")).otherwise(reasons).alias("drop_reason"),
        "language",
        "language_score",
    )
    with ThreadPoolExecutor(1) as writer:  # which waits for the disk meanwhile
        written = writer.submit(write_partitions, draft, table_name("verdicts", step.number), verdicts)
        _put_keys(draft, step, rows, counts, verdicts)
        written.result()
    alone = {name: int(answers[name].sum()) for name in answers.columns}
    return Record(task=step.id, facts={"alone": alone})


def _put_keys(draft: Draft, step: FilterTask, rows: pl.DataFrame, counts: pl.DataFrame, verdicts: pl.DataFrame) -> None:
    """Write the keys of the rows that pass, by range of url; and the captions', by their own, where they are counted."""
    passed = verdicts["drop_reason"].is_null().arg_true()
    config = step.config
    captions = config.max_caption_count is not None or not CAPTION_STEPS.isdisjoint(config.dedupe)
    ranked = compute_keys(rows.select(KEYED)[passed], counts[passed], captions=captions)
    ranked = ranked.with_columns(row=passed.cast(pl.UInt32))
    write_partitions(draft, table_name("keys", step.number), *partition_by_hash(ranked, "url", step.bits))
    if config.max_caption_count is not None:
        pieces = partition_by_hash(ranked.select("caption"), "caption", step.bits)
        write_partitions(draft, table_name("captions", step.number), *pieces)


def find_frequent_captions(draft: Draft, step: FilterTask) -> Record:
    """The captions of a range that occur too often."""
    captions = read_partition(draft, step.tables("captions"), step.number)
    too_many = captions.group_by("caption").len().filter(pl.col("len") > step.config.max_caption_count)
    write_partitions(draft, table_name("frequent", step.number), too_many.drop("len"))
    return Record(task=step.id)


def put_seen_urls(draft: Draft, step: FilterTask) -> Record:
    """The addresses of a part of an earlier dataset, by range."""
    urls = read_table(draft.store, step.seen[step.number], ["url"])["url"].combine_chunks()
    frame = pl.DataFrame({"url": hash128(urls)[:, 0]}).unique(maintain_order=True)
    write_partitions(draft, table_name("seen", step.number), *partition_by_hash(frame, "url", step.bits))
    return Record(task=step.id)


def drop_duplicates(draft: Draft, step: FilterTask) -> Record:
    """The rows of a range of urls that go: boilerplate, seen before, and duplicates; a piece a slice."""
    rows = read_partition(draft, step.tables("keys"), step.number)
    reasons = np.zeros(rows.height, np.uint8)
    if step.seen:
        seen = read_partition(draft, [table_name("seen", i) for i in range(len(step.seen))], step.number)
        reasons[rows["url"].is_in(seen["url"].implode()).to_numpy()] = DROP_REASONS.index("seen") + 1
    if step.config.max_caption_count is not None:  # asked first, so written last
        frequent = read_partition(draft, step.range_tables("frequent"), 0)
        reasons[rows["caption"].is_in(frequent["caption"].implode()).to_numpy()] = DROP_REASONS.index("boilerplate") + 1
    left = reasons == 0
    several = rows if left.all() else rows.filter(pl.Series(left))
    reasons[left] = find_duplicates(several, [s for s in step.config.dedupe if s != "caption"])
    _put_dropped(draft, table_name("drop-reasons", step.number), rows["part", "row"], reasons, step.parts)
    return Record(task=step.id)


def put_by_caption(draft: Draft, step: FilterTask) -> Record:
    """The keys of the rows of a slice that are still there, by range of caption."""
    ranked = all_pieces(draft, table_name("keys", step.number), 1 << step.bits)
    gone = read_slice(draft, step, "drop-reasons")
    left = ranked.join(gone, on="row", how="anti", maintain_order="left")
    write_partitions(draft, table_name("keys-by-caption", step.number), *partition_by_hash(left, "caption", step.bits))
    return Record(task=step.id)


def drop_duplicate_captions(draft: Draft, step: FilterTask) -> Record:
    """The rows of a range of captions whose caption another row has already; a piece a slice."""
    rows = read_partition(draft, step.tables("keys-by-caption"), step.number)
    gone = find_duplicates(rows, ["caption"])
    _put_dropped(draft, table_name("drop-reasons-captions", step.number), rows["part", "row"], gone, step.parts)
    return Record(task=step.id)


def read_rows(draft: Draft, step: FilterTask, columns: list[str] | None = None) -> pl.DataFrame:
    """The rows of the slice that a step looks at, as they came in. Raises: CorruptPart when the part is no Parquet file."""
    path = draft.store.local(step.part)
    one = step.slices[0] if step.slices else PartSlice(step.number)
    try:
        rows = pl.scan_parquet(path).slice(one.start, one.rows)
        return cast(pl.DataFrame, (rows if columns is None else rows.select(columns)).collect())
    except pl.exceptions.PolarsError as error:
        raise CorruptPart(f"{draft.store.uri}/{step.part} is no Parquet file with such columns: {error}") from error


def read_pairs(draft: Draft, step: FilterTask) -> pl.DataFrame:
    """The same with exactly the columns of PAIRS. Raises: CorruptPart, SchemaError."""
    rows = read_rows(draft, step)
    if rows.schema == _PAIRS and not rows["uid"].null_count():
        return rows
    return cast(pl.DataFrame, pl.from_arrow(conform(rows.to_arrow(), PAIRS, step.part)))


def _fill_reasons(reasons: pl.Series, rows: pl.DataFrame, ask: Callable[[pl.DataFrame], pl.Series]) -> pl.Series:
    """The reasons, with those that `ask` gives for the rows that have none."""
    left = reasons.is_null().arg_true()
    if not len(left):
        return reasons
    if len(left) == rows.height:
        return ask(rows)
    return reasons.scatter(left, ask(rows[left]))


def _match_unsafe_words(rows: pl.DataFrame, config: FilterConfig) -> pl.Series:
    found = pl.Series(match_queries(rows["caption"].to_arrow(), load_unsafe_words(tuple(config.unsafe_languages))))
    return pl.select(pl.when(found.list.len() > 0).then(pl.lit("unsafe"))).to_series()


def _put_dropped(draft: Draft, name: str, rows: pl.DataFrame, reasons: NDArray[np.uint8], parts: int) -> None:
    """Write which rows (part, row), in the order of their parts, go and why; a piece a slice."""
    places = np.flatnonzero(reasons)
    gone = rows[pl.Series(places)].with_columns(reason=pl.Series(reasons[places]))
    sizes = np.bincount(gone["part"].to_numpy(), minlength=parts).tolist()
    write_partitions(draft, name, gone.drop("part"), sizes)


def read_slice(draft: Draft, step: FilterTask, kind: str) -> pl.DataFrame:
    """What a map over the ranges found out about the rows of a slice."""
    return read_partition(draft, step.range_tables(kind), step.number).drop("part")


def drop_reason_tables(config: FilterConfig, *, near: bool = True) -> list[str]:
    """The kinds of tables that say which rows go, with or without those of near-duplicate captions."""
    kinds = ["drop-reasons", *(["drop-reasons-captions"] if "caption" in config.dedupe else [])]
    return [*kinds, "drop-reasons-same", "drop-reasons-near"] if near and config.near_captions is not None else kinds


def read_drop_reasons(draft: Draft, step: FilterTask) -> pl.Series:
    """Why each row of a slice goes, as far as it is known before balancing."""
    reasons = read_one(draft, table_name("verdicts", step.number), 0)["drop_reason"]
    for kind in drop_reason_tables(step.config):
        gone = read_slice(draft, step, kind)
        reasons = reasons.scatter(gone["row"], pl.Series(DROP_REASONS)[gone["reason"] - 1])
    return reasons
