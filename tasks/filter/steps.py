"""Functions of the filter stage that apply the rules and drop duplicates, each over one batch of slices or one partition.

tasks.filter.stage has their order. Balancing and the output are in tasks.filter.write.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dataops.errors import CorruptPart
from dataops.facts import FilterFacts
from dataops.filters import evaluate_rules, first_drop_reason
from dataops.lists.value_set import ValueSet
from dataops.parquet import read_row_range
from dataops.reasons import Reason
from dataops.schema import PAIRS, conform
from dataops.snapshot import Draft, Record, read_table
from dataops.text.caption_counts import count_captions
from dataops.text.duplicates import CAPTION_STEPS, DEDUPE_STEPS, KEY_BYTES, KEYED, compute_keys, find_duplicates
from tasks.engine.exchange import Exchange, Step, put_frame, read_frame, receive, send
from tasks.engine.map_progress import report_task
from tasks.filter.added_steps import BOILERPLATE, DUPLICATE, LANGUAGE, SEEN, Units, used_steps
from tasks.filter.config import FilterConfig
from tasks.filter.language import detect_languages
from tasks.lists.opt_outs import NO_LISTS, StoredLists, match_rows

NAME = "filter"
_PAIRS = pl.Schema(PAIRS)
DROP_REASONS = [*(f"{DUPLICATE}{step}" for step in DEDUPE_STEPS), BOILERPLATE, SEEN]
"""Drop reasons that hashes decide, before those of added steps. Scratch tables hold the index plus 1; 0 is a kept row."""
URL, CAPTION = ["url", "url_low"], ["caption", "caption_low"]
"""Columns of the halves of their hashes."""
FREQUENT = "frequent.table"
"""Scratch table with the hashes (CAPTION) of the captions that are boilerplate."""
SLICE_ROWS = 1 << 17
"""Maximum rows of a slice, which bounds the memory of a worker. Parquet reads whole row groups fastest."""
ROW_BYTES, REASON_BYTES = KEY_BYTES + 4, 5
"""Expected bytes of a row of keys, and of a dropped row."""
CAPTION_BYTES = 400
"""Expected bytes of a caption with its uid and origin."""

EXCHANGES: dict[str, Units] = {
    "captions": ("batches", "partitions", 20),
    "frequent": ("partitions", "one", 0),
    "known-urls": ("urls", "partitions", 16),
    "known-captions": ("captions", "partitions", 16),
    "known-caption_counts": ("caption_counts", "partitions", 24),
    "keys": ("batches", "partitions", ROW_BYTES),
    "drop-reasons": ("partitions", "batches", REASON_BYTES),
    "keys-by-caption": ("batches", "partitions", ROW_BYTES),
    "drop-reasons-captions": ("partitions", "batches", REASON_BYTES),
    "captions-by-url": ("batches", "partitions", CAPTION_BYTES),
    "captions-by-row": ("partitions", "batches", CAPTION_BYTES),
}
"""The exchanges of the stage: those of added steps are further ones."""


class Known(NamedTuple):
    """Tables of one kind of earlier versions of the dataset."""

    batches: tuple[tuple[str, ...], ...]
    """Their names in the store."""
    rows: int


class PartSlice(NamedTuple):
    """Consecutive rows of one input part."""

    number: int
    """Index among the slices of all parts."""
    part: str
    """Name of the part in the store."""
    part_number: int
    start: int
    """Index of its first row in the part."""
    rows: int
    batch: int
    """Number of its batch: consecutive slices, which one task reads."""
    offset: int
    """Index of its first row in the batch."""


@dataclass(frozen=True)
class FilterJob:
    """What all tasks of a filter share."""

    config: FilterConfig
    rows: int
    batches: int
    partitions: int
    memory_bytes: int
    """Memory for the rows of a task."""
    units: Mapping[str, int] = field(default_factory=dict)
    """Number of the units of added steps, by name."""
    opt_outs: StoredLists = NO_LISTS
    known: Mapping[str, Known] = field(default_factory=dict)
    """Tables of earlier versions of the dataset by kind (tasks/growth/tables.py), those that have rows."""

    @property
    def layout(self) -> str:
        """Return the number of batches and partitions."""
        return f"{self.batches}x{self.partitions}"

    @property
    def drop_reasons(self) -> list[str]:
        """Return DROP_REASONS and those of the added steps."""
        return [*DROP_REASONS, *(step.reason for step, _ in used_steps(self.config))]

    def exchange(self, kind: str) -> Exchange:
        """Return one of EXCHANGES, or of the exchanges of an added step."""
        added = {
            name: units for step, table in used_steps(self.config) for name, units in step.exchanges(table).items()
        }
        writers, readers, row_bytes = {**EXCHANGES, **added}[kind]
        sizes = {"batches": self.batches, "partitions": self.partitions, "one": 1, **self.units}
        sizes |= {name: len(known.batches) for name, known in self.known.items()}
        rows = self.known[writers].rows if writers in self.known else self.rows
        return Exchange(kind, sizes[writers], sizes[readers], rows * row_bytes, self.memory_bytes)


FilterStep = Step[FilterJob]
"""A step of the stage. `inputs` of a batch are its slices (PartSlice)."""


def apply_rules(draft: Draft, step: FilterStep) -> Record:
    """Apply the rules to each row of a batch, and put the keys of the rows that pass by partition of the URL."""
    config, alone, found = step.job.config, Counter[str](), list[pl.DataFrame]()
    with ThreadPoolExecutor(1) as writer:  # waits for the disk while this thread continues
        written: list[Future[None]] = []
        for count, part_slice in enumerate(step.inputs):
            rows = read_pairs(draft, part_slice)
            counts = count_captions(rows["caption"])
            verdicts = _decide(rows, counts, config, alone, step.job.opt_outs.load(draft))
            written.append(writer.submit(put_frame, draft, verdicts_name(part_slice), verdicts))
            found.append(_compute_keys(rows, counts, verdicts, part_slice, config))
            if count:
                written[count - 1].result()  # at most one waits to be written
            report_task((count + 1) / len(step.inputs))
        _put_keys(draft, step, pl.concat(found))
        written[-1].result()
    return Record(task=step.id, facts=FilterFacts(alone=alone).as_json())


def _decide(
    rows: pl.DataFrame,
    counts: pl.DataFrame,
    config: FilterConfig,
    alone: Counter[str],
    opt_outs: Sequence[tuple[str, ValueSet]],
) -> pl.DataFrame:
    """Return the drop reason and the language of each row of a slice; count what each rule alone would drop."""
    answers = evaluate_rules(rows, config, counts)
    reasons = first_drop_reason(answers)
    if opt_outs:
        reasons = _fill_reasons(reasons, rows, lambda rest: _match_opt_outs(rest, opt_outs))
    passed = reasons.is_null()
    passed_rows = passed.arg_true()
    language = detect_languages(rows.select("caption", "page_url", "page_language")[passed_rows], config)
    if len(passed_rows) < rows.height:  # gathering a null index gives nulls
        indices = pl.select(pl.when(passed).then(passed.cast(pl.UInt32).cum_sum() - 1)).to_series()
        language = language.select(pl.all().gather(indices))
    alone.update({name: int(answers[name].sum()) for name in answers.columns})
    return language.select(
        pl.when("foreign").then(pl.lit(LANGUAGE)).otherwise(reasons).alias("drop_reason"),
        "language",
        "language_score",
    )


def _compute_keys(
    rows: pl.DataFrame, counts: pl.DataFrame, verdicts: pl.DataFrame, part_slice: PartSlice, config: FilterConfig
) -> pl.DataFrame:
    passed = verdicts["drop_reason"].is_null().arg_true()
    captions = config.max_caption_count is not None or not CAPTION_STEPS.isdisjoint(config.dedupe)
    keys = compute_keys(rows.select(KEYED)[passed], counts[passed], captions=captions, sources=config.sources)
    if config.max_caption_count is None and "caption" not in config.dedupe:
        keys = keys.drop("caption_low", strict=False)  # with the hash of the URL, half of the caption's is enough
    return keys.with_columns(row=passed.cast(pl.UInt32) + part_slice.offset)


def _put_keys(draft: Draft, step: FilterStep, keys: pl.DataFrame) -> None:
    """Write the keys of a batch by partition of the URL, and how often each caption occurs by that of the caption."""
    send(draft, step, "keys", keys, "url")
    if step.job.config.max_caption_count is not None:
        send(draft, step, "captions", keys.group_by(CAPTION).len(), "caption")


def find_frequent_captions(draft: Draft, step: FilterStep) -> None:
    """Find the captions of a partition that occur more than `max_caption_count` times."""
    found = receive(draft, step, "captions").select(*CAPTION, pl.col("len").cast(pl.UInt64))
    if (known := read_known(draft, step, "caption_counts")) is not None:
        earlier = known.join(found, on=CAPTION, how="semi").select(*CAPTION, pl.col("count").alias("len"))
        found = pl.concat([found, earlier])
    captions = found.group_by(CAPTION).agg(pl.col("len").sum())
    frequent = captions.filter(pl.col("len") > step.job.config.max_caption_count).select(CAPTION)
    send(draft, step, "frequent", frequent, np.zeros(frequent.height, np.uint16))


def collect_frequent_captions(draft: Draft, step: FilterStep) -> None:
    """Write the frequent captions of all partitions as one table, which each partition of URLs reads."""
    put_frame(draft, FREQUENT, step.job.exchange("frequent").read(draft, 0).select(CAPTION))


def put_known(draft: Draft, step: FilterStep) -> None:
    """Put the rows of some tables of one kind, of earlier versions of the dataset, by partition of their first column."""
    kind, writer, *names = step.inputs
    rows = pl.concat(pl.DataFrame(pl.from_arrow(read_table(draft.store, name))) for name in names)
    step.job.exchange(f"known-{kind}").write(draft, writer, rows, rows.columns[0])


def read_known(draft: Draft, step: FilterStep, kind: str) -> pl.DataFrame | None:
    """Return the rows in a partition that earlier versions of the dataset have of a kind; None if there are none."""
    return receive(draft, step, f"known-{kind}") if kind in step.job.known else None


def drop_duplicates(draft: Draft, step: FilterStep) -> None:
    """Drop boilerplate, seen URLs and duplicates in a partition of URLs, and put the drop reasons by batch."""
    job, rows = step.job, receive(draft, step, "keys")
    reasons = np.zeros(rows.height, np.uint8)
    if (seen := read_known(draft, step, "urls")) is not None:
        reasons[_find_members(rows, seen, URL)] = DROP_REASONS.index(SEEN) + 1
    if job.config.max_caption_count is not None:  # after "seen", which it overwrites
        frequent = read_frame(draft, FREQUENT)
        reasons[_find_members(rows, frequent, CAPTION)] = DROP_REASONS.index(BOILERPLATE) + 1
    kept = reasons == 0
    candidates = rows if kept.all() else rows.filter(pl.Series(kept))
    reasons[kept] = find_duplicates(candidates, [s for s in job.config.dedupe if s != "caption"])
    put_dropped(draft, step, "drop-reasons", rows["part", "row"], reasons)


def _find_members(rows: pl.DataFrame, members: pl.DataFrame, columns: list[str]) -> NDArray[np.uint32]:
    """Return the indices of the rows whose values in these columns occur in `members`."""
    found = rows.select(columns).with_row_index("index").join(members.select(columns), on=columns, how="semi")
    return found["index"].to_numpy()


def put_by_caption(draft: Draft, step: FilterStep) -> None:
    """Put the keys of the rows of a batch that are still kept by partition of the caption."""
    keys = read_kept_keys(draft, step, ["drop-reasons"])
    send(draft, step, "keys-by-caption", keys, "caption")


def drop_duplicate_captions(draft: Draft, step: FilterStep) -> None:
    """Drop all but one row of each caption in a partition of captions, and put the drop reasons by batch."""
    rows = receive(draft, step, "keys-by-caption")
    reasons = find_duplicates(rows, ["caption"])
    if (known := read_known(draft, step, "captions")) is not None:
        reasons[_find_members(rows, known, CAPTION)] = DEDUPE_STEPS.index("caption") + 1
    put_dropped(draft, step, "drop-reasons-captions", rows["part", "row"], reasons)


def read_kept_keys(draft: Draft, step: FilterStep, kinds: list[str]) -> pl.DataFrame:
    """Return the keys of the rows of a batch that passed the rules and are in none of these tables of drop reasons."""
    keys = step.job.exchange("keys").read_written(draft, step.number)
    for kind in kinds:
        dropped = receive(draft, step, kind)
        keys = keys.join(dropped, on="row", how="anti", maintain_order="left")
    return keys


def read_rows(draft: Draft, part_slice: PartSlice, columns: list[str] | None = None) -> pl.DataFrame:
    """Return the rows of a slice as `extract` wrote them.

    Raises: CorruptPart when the part is damaged, or lacks a column.
    """
    where = f"{draft.store.uri}/{part_slice.part}"
    rows = read_row_range(draft.store.local(part_slice.part), where, part_slice.start, part_slice.rows, columns)
    if missing := [name for name in columns or () if name not in rows.column_names]:
        raise CorruptPart(f"{where} has no column {', '.join(missing)}; `run --verify` remakes it")
    return pl.DataFrame(pl.from_arrow(rows if columns is None else rows.select(columns)))


def read_pairs(draft: Draft, part_slice: PartSlice) -> pl.DataFrame:
    """Return the rows of a slice with exactly the columns of PAIRS.

    Raises: CorruptPart when the part is damaged; SchemaError when its columns do not fit.
    """
    rows = read_rows(draft, part_slice)
    if rows.schema == _PAIRS and not rows["uid"].null_count():
        return rows
    return cast(pl.DataFrame, pl.from_arrow(conform(rows.to_arrow(), PAIRS, part_slice.part)))


def _fill_reasons(reasons: pl.Series, rows: pl.DataFrame, rule: Callable[[pl.DataFrame], pl.Series]) -> pl.Series:
    """Return the reasons, with those of `rule` for the rows that have none."""
    passed = reasons.is_null().arg_true()
    if not len(passed):
        return reasons
    if len(passed) == rows.height:
        return rule(rows)
    return reasons.scatter(passed, rule(rows[passed]))


def _match_opt_outs(rows: pl.DataFrame, opt_outs: Sequence[tuple[str, ValueSet]]) -> pl.Series:
    is_listed = np.any([one.mask for one in match_rows(rows.to_arrow(), opt_outs)], axis=0)
    return pl.select(pl.when(pl.Series(is_listed)).then(pl.lit(Reason.OPT_OUT_LIST))).to_series()


def put_dropped(draft: Draft, step: FilterStep, kind: str, rows: pl.DataFrame, reasons: NDArray[np.uint8]) -> None:
    """Write the dropped rows and their reasons, by batch.

    Args:
        rows: `part`, the batch, and `row`, the index in it.
        reasons: indices in `drop_reasons` of the job plus 1; 0 for a kept row.
    """
    indices = np.flatnonzero(reasons)
    dropped = rows[pl.Series(indices)].with_columns(reason=pl.Series(reasons[indices]))
    send(draft, step, kind, dropped.select("row", "reason"), dropped["part"])


def drop_reason_tables(config: FilterConfig, *, added: bool = True) -> list[str]:
    """Return the exchanges of drop reasons, with or without those of added steps."""
    kinds = ["drop-reasons", *(["drop-reasons-captions"] if "caption" in config.dedupe else [])]
    return kinds + [kind for step, _ in used_steps(config) if added for kind in step.reason_tables]


def verdicts_name(part_slice: PartSlice) -> str:
    """Return the name of the scratch table with the drop reason by the rules, and the language, of a slice's rows."""
    return f"verdicts-{part_slice.number:05d}.table"


def read_verdicts(draft: Draft, step: FilterStep) -> Iterator[tuple[PartSlice, pl.DataFrame]]:
    """Yield each slice of a step, and the drop reason before balancing (null for a kept row) and language of its rows."""
    batch, codes, names = -1, np.empty(0, np.uint8), pl.Series(step.job.drop_reasons)
    for part_slice in step.inputs:
        if part_slice.batch != batch:
            batch = part_slice.batch
            codes = _read_codes(draft, step.job, batch, step.inputs)
        verdicts = read_frame(draft, verdicts_name(part_slice))
        ours = codes[part_slice.offset : part_slice.offset + part_slice.rows]
        dropped = np.flatnonzero(ours)
        reasons = verdicts["drop_reason"].scatter(dropped, names[ours[dropped] - 1])
        yield part_slice, verdicts.with_columns(drop_reason=reasons)


def _read_codes(draft: Draft, job: FilterJob, batch: int, slices: tuple[PartSlice, ...]) -> NDArray[np.uint8]:
    """Return the drop reason of each row of a batch, as its index in `drop_reasons` plus 1; 0 if hashes drop it not."""
    codes = np.zeros(sum(one.rows for one in slices if one.batch == batch), np.uint8)
    for kind in drop_reason_tables(job.config):
        dropped = job.exchange(kind).read(draft, batch)
        codes[dropped["row"].to_numpy()] = dropped["reason"].to_numpy()
    return codes
