"""The steps of the filter stage: what each does to one part, or to one range of hashes. tasks.filter puts them in order."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import polars as pl
import pyarrow as pa

from dataops.duplicates import duplicates, keys
from dataops.errors import CorruptPart
from dataops.filters import asked_of, first_reason
from dataops.personal import masked
from dataops.schema import FILTERED, PAIRS, conform, dropped
from dataops.snapshot import Counts, Draft, Record, read_table
from tasks.filter_config import FilterConfig
from tasks.filter_language import told
from tasks.filter_summary import balance_facts, describe, merged
from tasks.part_file import PartFile
from tasks.queries import read_queries
from tasks.ranges import by_range, get_piece, pieces_of, put_pieces
from tasks.scratch import scratch_folder

if TYPE_CHECKING:
    from dataops.query_matching import Queries

NAME = "filter"
_PAIRS = pl.DataFrame(pl.from_arrow(PAIRS.empty_table())).schema


SLICE_ROWS = 1 << 18
"""Of a part, that are looked at together: what bounds the memory of a worker. Whole row groups are read fastest."""


@dataclass(frozen=True)
class Slice:
    """A slice of a part that came in. Scratch tables are by slice."""

    number: int
    """Among the slices of all parts."""
    start: int = 0
    """Its first row in the part."""
    rows: int | None = None
    """None is all that follow."""


@dataclass(frozen=True)
class Step:
    """One step's work on a slice of a part that came in, on a whole part (to write it), or on a range of hashes."""

    function: Callable[[Draft, "Step"], Record]
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
    slices: tuple[Slice, ...] = ()
    """That the step looks at; without any, the part is one slice of the same number."""
    workers: int = 1
    """Processes that do such steps at the same time."""

    @property
    def id(self) -> str:
        return f"{self.function.__name__}-{self.number:05d}"

    def each(self) -> list["Step"]:
        """The same on each slice by itself."""
        return [replace(self, number=one.number, slices=(one,)) for one in self.slices] or [self]

    def tables(self, kind: str) -> list[str]:
        """Names of the scratch tables that a map over the slices wrote."""
        return [table(kind, number) for number in range(self.parts)]

    def range_tables(self, kind: str) -> list[str]:
        """Names of the scratch tables that a map over the ranges wrote."""
        return [table(kind, number) for number in range(1 << self.bits)]


def table(kind: str, number: int) -> str:
    """Name of a scratch table."""
    return f"{kind}-{number:05d}.arrow"


def run(draft: Draft, step: Step) -> Record:
    """Do a step: what the worker processes call."""
    return step.function(draft, step)


def judge(draft: Draft, step: Step) -> Record:
    """The verdict on each row of a slice that needs no other row, and the keys of those that pass, by range of url."""
    from dataops.caption_counts import counted

    rows = _pairs(draft, step)
    counts = counted(rows["caption"])
    answers = asked_of(rows, step.config, counts)
    reasons = _then(first_reason(answers), rows, lambda left: _unsafe(left, step.config))
    left = reasons.is_null().arg_true()
    language = told(rows[left], step.config).with_columns(row=left)
    verdicts = (
        pl.DataFrame({"row": pl.int_range(rows.height, dtype=pl.UInt32, eager=True), "drop_reason": reasons})
        .join(language, on="row", how="left", maintain_order="left")
        .with_columns(pl.when("foreign").then(pl.lit("language")).otherwise("drop_reason").alias("drop_reason"))
        .drop("row", "foreign")
    )
    put_pieces(draft, table("verdicts", step.number), [verdicts])
    passed = verdicts["drop_reason"].is_null().arg_true()
    ranked = keys(rows[passed], counts[passed]).with_columns(row=passed.cast(pl.UInt32))
    put_pieces(draft, table("keys", step.number), by_range(ranked, "url_high", step.bits))
    if step.config.max_caption_count is not None:
        captions = ranked.select("caption_high", "caption_low")
        put_pieces(draft, table("captions", step.number), by_range(captions, "caption_high", step.bits))
    alone = {name: int(answers[name].sum()) for name in answers.columns}
    return Record(task=step.id, facts={"alone": alone})


def count_captions(draft: Draft, step: Step) -> Record:
    """The captions of a range that occur too often."""
    captions = pl.concat(pieces_of(draft, step.tables("captions"), step.number))
    counted = captions.group_by("caption_high", "caption_low").len()
    too_many = counted.filter(pl.col("len") > step.config.max_caption_count)
    put_pieces(draft, table("frequent", step.number), [too_many.drop("len")])
    return Record(task=step.id)


def read_seen(draft: Draft, step: Step) -> Record:
    """The addresses of a part of an earlier dataset, by range."""
    from dataops.hashes import hash128

    urls = read_table(draft.store, step.seen[step.number], ["url"])["url"].combine_chunks()
    high, low = hash128(urls).T
    frame = pl.DataFrame({"url_high": high, "url_low": low}).unique(maintain_order=True)
    put_pieces(draft, table("seen", step.number), by_range(frame, "url_high", step.bits))
    return Record(task=step.id)


def choose(draft: Draft, step: Step) -> Record:
    """The rows of a range of urls that go: boilerplate, seen before, and duplicates; a piece a slice."""
    rows = pl.concat(pieces_of(draft, step.tables("keys"), step.number))
    reasons = pl.Series("drop_reason", [None] * rows.height, pl.String)
    if step.config.max_caption_count is not None:
        frequent = pl.concat(get_piece(draft, name, 0) for name in step.range_tables("frequent"))
        reasons = _then(reasons, rows, lambda left: _among(left, frequent, "boilerplate"))
    if step.seen:
        seen = pl.concat(get_piece(draft, table("seen", i), step.number) for i in range(len(step.seen)))
        reasons = _then(reasons, rows, lambda left: _among(left, seen.unique(), "seen"))
    reasons = _then(reasons, rows, lambda left: duplicates(left, [s for s in step.config.dedupe if s != "caption"]))
    _put_gone(draft, table("gone", step.number), rows, reasons, step.parts)
    return Record(task=step.id)


def regroup(draft: Draft, step: Step) -> Record:
    """The keys of the rows of a slice that are still there, by range of caption."""
    ranked = pl.concat(get_piece(draft, table("keys", step.number), i) for i in range(1 << step.bits))
    gone = _gone(draft, step, "gone")
    left = ranked.join(gone, on="row", how="anti", maintain_order="left")
    put_pieces(draft, table("regrouped", step.number), by_range(left, "caption_high", step.bits))
    return Record(task=step.id)


def choose_captions(draft: Draft, step: Step) -> Record:
    """The rows of a range of captions whose caption another row has already; a piece a slice."""
    rows = pl.concat(pieces_of(draft, step.tables("regrouped"), step.number))
    _put_gone(draft, table("gone-captions", step.number), rows, duplicates(rows, ["caption"]), step.parts)
    return Record(task=step.id)


def count_queries(draft: Draft, step: Step) -> Record:
    """How many of the captions of a slice that are still there each query is found in."""
    from dataops.balance import query_counts
    from dataops.query_matching import match

    queries = _queries(step.config)
    rows = _pairs(draft, step)
    left = rows.filter(_reasons(draft, step).is_null())
    counts = query_counts(match(_captions(left, step.config), queries), len(queries.texts))
    put_pieces(draft, table("queries", step.number), [pl.DataFrame({"count": counts})])
    return Record(task=step.id)


def write(draft: Draft, step: Step) -> Record:
    """The kept and the dropped part of a part that came in, a slice at a time."""
    from dataops.hashes import uid_halves

    by_reason, described, balanced = Counter[str](), list[Mapping[str, Any]](), list[dict[str, Any]]()
    with (
        scratch_folder(NAME) as folder,
        closing(PartFile(folder / "part.parquet", FILTERED)) as kept,
        closing(PartFile(folder / "dropped.parquet", dropped(FILTERED))) as gone,
    ):
        for slice_ in step.each():
            stays, goes, said = _decided(draft, slice_)
            balanced += said
            for file, rows in ((kept, stays), (gone, goes)):
                written = conform(rows.to_arrow(), file.schema, slice_.id)
                file.write(written, uid_halves(written["uid"].combine_chunks()).astype(">u8").view(">u4"))
            by_reason.update(goes["drop_reason"].to_list())
            described.append(describe(stays, goes))
        parts = [
            kept.put(draft, f"part-{step.number:05d}.parquet"),
            gone.put(draft, f"dropped-{step.number:05d}.parquet"),
        ]
    counts = Counts(input=kept.rows + gone.rows, kept=kept.rows, dropped=dict(sorted(by_reason.items())))
    draft.store.put(draft.scratch(description(step.number)), json.dumps(merged(described)).encode())
    return Record(task=step.id, parts=parts, counts=counts, facts={"balance": balanced})


def description(part: int) -> str:
    """Name of the scratch object that describes the rows of a part: too much to have those of all parts in memory."""
    return f"described-{part:05d}.json"


def _decided(draft: Draft, step: Step) -> tuple[pl.DataFrame, pl.DataFrame, list[dict[str, Any]]]:
    """The rows of a slice that stay, those that go, and what balancing says of them where it is asked."""
    rows = _pairs(draft, step)
    reasons = _reasons(draft, step)
    verdicts = get_piece(draft, table("verdicts", step.number), 0)
    rows = rows.with_columns(verdicts["language"], verdicts["language_score"])
    facts: list[dict[str, Any]] = []
    balanced = pl.DataFrame(schema={"query_ids": pl.List(pl.UInt32), "sampling_probability": pl.Float32})
    balanced = balanced.clear(rows.height)  # as many rows of nulls
    if step.config.balance is not None:
        reasons, balanced, said = _balance(draft, step, rows, reasons)
        facts.append(said)
    if step.config.personal == "mask":
        rows = rows.with_columns(masked(pl.col("caption")).alias("caption"))
    whole = pl.concat([rows, balanced], how="horizontal").with_columns(drop_reason=reasons, drop_stage=pl.lit(NAME))
    stays, goes = (
        whole.filter(there) for there in (pl.col("drop_reason").is_null(), pl.col("drop_reason").is_not_null())
    )
    if step.config.balance is not None:
        from dataops.balance import expected_counts

        often = stays["sampling_probability"].fill_null(1).cast(pl.Float64).to_numpy()
        left = expected_counts(stays["query_ids"].to_arrow(), len(_queries(step.config).texts), often)
        put_pieces(draft, table("queries-left", step.number), [pl.DataFrame({"count": left})])
    return stays, goes, facts


def _balance(
    draft: Draft, step: Step, rows: pl.DataFrame, reasons: pl.Series
) -> tuple[pl.Series, pl.DataFrame, dict[str, Any]]:
    """The reasons with those of balancing, the columns query_ids and sampling_probability, and what is said of them."""
    from dataops.balance import query_probabilities, query_salts, sampled
    from dataops.hashes import uid_halves
    from dataops.query_matching import match

    balance = step.config.balance
    assert balance is not None
    queries = _queries(step.config)
    matches = match(_captions(rows, step.config), queries)
    counts = get_piece(draft, "query-counts.arrow", 0)["count"].to_numpy()
    chances = query_probabilities(counts, balance.max_per_query)
    keep, chance = sampled(
        uid_halves(rows["uid"].to_arrow()), matches, chances, query_salts(queries.texts, balance.seed)
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
    facts = balance_facts(
        rows["caption"].filter(came & unmatched), columns.filter(came & why.is_null()), int(came.sum())
    )
    return pl.select(pl.coalesce(reasons, why).alias("drop_reason")).to_series(), columns, facts


def read_rows(draft: Draft, step: Step, columns: list[str] | None = None) -> pl.DataFrame:
    """The rows of the slice that a step looks at, as they came in. Raises: CorruptPart when the part is no Parquet file."""
    path = draft.store.local(step.part)
    one = step.slices[0] if step.slices else Slice(step.number)
    try:
        rows = pl.scan_parquet(path).slice(one.start, one.rows)
        return cast(pl.DataFrame, (rows if columns is None else rows.select(columns)).collect())
    except pl.exceptions.PolarsError as error:
        msg = f"{draft.store.uri}/{step.part} is no Parquet file with such columns: {error}"
        raise CorruptPart(msg) from error


def _pairs(draft: Draft, step: Step) -> pl.DataFrame:
    rows = read_rows(draft, step)
    if rows.schema == _PAIRS and not rows["uid"].null_count():
        return rows
    return cast(pl.DataFrame, pl.from_arrow(conform(rows.to_arrow(), PAIRS, step.part)))


def _captions(rows: pl.DataFrame, config: FilterConfig) -> pa.Array:
    """The captions as they are kept."""
    caption = pl.col("caption")
    return rows.select(masked(caption) if config.personal == "mask" else caption).to_series().to_arrow()


def _then(reasons: pl.Series, rows: pl.DataFrame, ask: Callable[[pl.DataFrame], pl.Series]) -> pl.Series:
    """The reasons, with those that `ask` gives for the rows that have none."""
    left = reasons.is_null().arg_true()
    if not len(left):
        return reasons
    return reasons.scatter(left, ask(rows[left]))


def _unsafe(rows: pl.DataFrame, config: FilterConfig) -> pl.Series:
    if not config.unsafe_languages:
        return pl.Series([None] * rows.height, dtype=pl.String)
    from dataops.query_matching import match
    from dataops.unsafe_words import unsafe_words

    found = pl.Series(match(rows["caption"].to_arrow(), unsafe_words(tuple(config.unsafe_languages))))
    return pl.select(pl.when(found.list.len() > 0).then(pl.lit("unsafe"))).to_series()


def _among(rows: pl.DataFrame, hashes: pl.DataFrame, reason: str) -> pl.Series:
    """`reason` for each row whose hash is among some (the columns say which hash)."""
    marked = hashes.with_columns(drop_reason=pl.lit(reason))
    return rows.join(marked, on=hashes.columns, how="left", maintain_order="left")["drop_reason"]


def _put_gone(draft: Draft, name: str, rows: pl.DataFrame, reasons: pl.Series, parts: int) -> None:
    gone = rows.select("part", "row").with_columns(drop_reason=reasons.cast(pl.String))
    gone = gone.filter(pl.col("drop_reason").is_not_null()).sort("part", maintain_order=True)
    by_part = {int(part): frame for (part,), frame in gone.group_by(["part"], maintain_order=True)}
    empty = gone.clear()
    put_pieces(draft, name, [by_part.get(part, empty).drop("part") for part in range(parts)])


def _gone(draft: Draft, step: Step, kind: str) -> pl.DataFrame:
    """The rows of a slice that a map over the ranges found to go: row, drop_reason."""
    return pl.concat(get_piece(draft, name, step.number) for name in step.range_tables(kind))


def kinds_of_gone(config: FilterConfig, *, near: bool = True) -> list[str]:
    """The kinds of tables that say which rows go, with or without those of near-duplicate captions."""
    kinds = ["gone", *(["gone-captions"] if "caption" in config.dedupe else [])]
    return [*kinds, "gone-same", "gone-near"] if near and config.near_captions is not None else kinds


def _reasons(draft: Draft, step: Step) -> pl.Series:
    """Why each row of a slice goes, as far as it is known before balancing."""
    reasons = get_piece(draft, table("verdicts", step.number), 0)["drop_reason"]
    for kind in kinds_of_gone(step.config):
        gone = _gone(draft, step, kind)
        reasons = reasons.scatter(gone["row"], gone["drop_reason"])
    return reasons


@lru_cache(maxsize=1)
def _compiled_queries(path: str) -> "Queries":
    from dataops.query_matching import compile_queries

    return compile_queries(read_queries(Path(path)))


def _queries(config: FilterConfig) -> "Queries":
    assert config.balance is not None
    return _compiled_queries(config.balance.queries)
