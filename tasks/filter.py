"""The filter stage: all that text and addresses can decide, before a byte is downloaded.

Three steps: `judge` asks the rules of each row, part by part; `resolve` chooses among duplicates over all parts, seeing
only hashes; `write` makes a kept and a dropped part of each part that came in.
"""

import io
import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import polars as pl
import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from dataops.config import StageConfig
from dataops.errors import ContractError
from dataops.filters import (
    DEDUPE_SCHEMA,
    DEDUPE_STEPS,
    Dedupe,
    TextBounds,
    dedupe_columns,
    duplicates,
    first_reason,
    rules,
)
from dataops.language_profiles import profile_names
from dataops.schema import FILTERED, LANGUAGE, PAIRS, conform, dropped
from dataops.snapshot import Counts, Draft, Manifest, Part, Record, read_table
from tasks.parts import map_parts
from tasks.stage import Context, Made, Stage, Work, gather

if TYPE_CHECKING:
    from dataops.language import Detection

logger = logging.getLogger(__name__)

NAME, VERSION = "filter", 2


class FilterConfig(StageConfig):
    """`[filter]`: which pairs are worth a download. All bounds are inclusive."""

    min_chars: int = Field(default=3, ge=0)
    """Shorter captions are dropped as too_short."""
    max_chars: int | None = Field(default=1000, ge=1)
    """Longer captions are dropped as too_long."""
    min_words: int = Field(default=1, ge=0)
    """Captions of fewer words are dropped as too_few_words. A letter of a script that sets no spaces counts as a word."""
    max_words: int | None = Field(default=200, ge=1)
    """Captions of more words are dropped as too_many_words."""
    min_letter_fraction: float = Field(default=0.4, ge=0, le=1)
    """Least share of letters among a caption's visible characters; below it few_letters."""
    drop_file_names: bool = True
    """Drop captions that are only a file name ("IMG_2034.jpg", "DSC 0042") as file_name."""
    max_url_chars: int | None = Field(default=2048, ge=16)
    """Longer addresses are dropped as url_too_long."""
    blocked_extensions: list[str] = Field(default=["svg", "ico"])
    """Addresses that end so are dropped as url_extension: the default are formats that no image decoder here reads."""
    languages: list[str] = Field(default=[])
    """Languages that captions may be in (names of langdetect's profiles: en, de, zh-cn, ...); empty is all."""
    language_min_score: float = Field(default=0.5, ge=0, le=1)
    """A caption stays when the summed probability of `languages` is at least this; else it is dropped as language."""
    language_candidates: list[str] | None = None
    """Languages that are told apart; default all. Fewer make short captions safer where the others do not occur."""
    language_page_weight: float = Field(default=0.0, ge=0, le=1)
    """Share of the page in a caption's probabilities: the language of all captions of its page, read as one text. Two words
    are little to tell a language by, a page of them is plenty. 0: each caption is judged alone."""
    dedupe: list[Dedupe] = Field(default=["uid", "pair", "url"])
    """Keep one row of each uid, of each url and caption (in any case and spacing), and one caption of each url."""
    max_drop_fraction: float = Field(default=1.0, ge=0, le=1)
    """A stage that drops a greater share of its rows fails; one that keeps no row fails always."""

    @field_validator("languages", "language_candidates")
    @classmethod
    def _known(cls, names: list[str] | None) -> list[str] | None:
        if unknown := [name for name in names or [] if name not in profile_names()]:
            msg = f"no language profile {', '.join(map(repr, unknown))}; there are {', '.join(profile_names())}"
            raise ValueError(msg)
        return names if names is None else sorted(set(names))

    @field_validator("blocked_extensions")
    @classmethod
    def _bare(cls, extensions: list[str]) -> list[str]:
        return sorted({extension.lower().removeprefix(".") for extension in extensions} - {""})

    @field_validator("dedupe")
    @classmethod
    def _in_order(cls, steps: list[Dedupe]) -> list[Dedupe]:
        return [step for step in DEDUPE_STEPS if step in steps]

    @model_validator(mode="after")
    def _consistent(self) -> "FilterConfig":
        wrong = []
        if self.max_chars is not None and self.max_chars < self.min_chars:
            wrong.append(f"max_chars {self.max_chars} is less than min_chars {self.min_chars}")
        if self.max_words is not None and self.max_words < self.min_words:
            wrong.append(f"max_words {self.max_words} is less than min_words {self.min_words}")
        if self.language_candidates is not None:
            if len(self.language_candidates) < 2:
                wrong.append("language_candidates must be at least two languages (or left out: all)")
            if missing := [name for name in self.languages if name not in self.language_candidates]:
                wrong.append(f"languages {missing} are not among language_candidates")
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    def bounds(self) -> TextBounds:
        """The bounds of the text rules."""
        return TextBounds(
            min_chars=self.min_chars,
            max_chars=self.max_chars,
            min_words=self.min_words,
            max_words=self.max_words,
            min_letter_fraction=self.min_letter_fraction,
            drop_file_names=self.drop_file_names,
            max_url_chars=self.max_url_chars,
            blocked_extensions=tuple(self.blocked_extensions),
        )


@dataclass(frozen=True)
class PartTask:
    """One part of extract, to be judged or written."""

    step: Literal["judge", "write"]
    index: int
    name: str
    """Of the part in the store."""
    config: FilterConfig

    @property
    def id(self) -> str:
        return f"{self.step}-{self.index:05d}"

    def verdicts(self, draft: Draft) -> str:
        """Name in the store of what judge found of each row: drop_reason, language, language_score, DEDUPE_SCHEMA."""
        return draft.scratch(f"verdicts-{self.index:05d}.parquet")

    def duplicates(self, draft: Draft) -> str:
        """Name in the store of what resolve found of each row: drop_reason."""
        return draft.scratch(f"duplicates-{self.index:05d}.parquet")


def make(work: Work) -> Made:
    """Judge, resolve, write. Raises: ContractError when nothing, or too little, is left."""
    config: FilterConfig = work.config
    names = part_names(work.inputs["extract"])
    judging = [PartTask("judge", i, name, config) for i, name in enumerate(names)]
    writing = [PartTask("write", i, name, config) for i, name in enumerate(names)]
    if any(work.draft.done(task.id) is None for task in writing):
        map_parts(judge, judging, work.draft, _quiet(work.context))
        resolve(work.draft, judging)
    records = map_parts(write, writing, work.draft, work.context)
    parts, counts = gather(records)
    check_left(counts, config.max_drop_fraction)
    languages = Counter[str]()
    for record in records:
        languages.update(record.facts["languages"])
    return Made(parts, counts, {"languages": dict(sorted(languages.items(), key=lambda item: (-item[1], item[0])))})


def part_names(manifest: Manifest) -> list[str]:
    """Names in the store of the parts whose rows go on."""
    return [manifest.path(part.name) for part in manifest.named("part-", ".parquet")]


def _quiet(context: Context) -> Context:
    """The context without its progress, which counts the parts that are written."""
    return Context(store=context.store, home=context.home, workers=context.workers)


def judge(draft: Draft, task: PartTask) -> Record:
    """The verdict on each row of a part that needs no other row.

    A caption all in capitals is shown to the language detector in lower case: it passes over words in capitals.
    """
    rows = _frame(conform(read_table(draft.store, task.name), PAIRS, task.name))
    config = task.config
    reasons = rows.select(first_reason(rules(config.bounds()))).to_series()
    asked = reasons.is_null()
    found = _languages(rows.filter(asked), config)
    where = asked.arg_true()
    language = pl.DataFrame(
        {
            "language": pl.Series(found.labels, dtype=pl.String),
            "language_score": pl.Series(found.scores, dtype=pl.Float32),
            "wanted": pl.Series(found.summed(config.languages or found.candidates), dtype=pl.Float64),
            "row": where,
        }
    )
    judged = (
        rows.select(row=pl.int_range(pl.len(), dtype=pl.UInt32))
        .with_columns(reasons)
        .join(language, on="row", how="left", maintain_order="left")
    )
    if config.languages:
        foreign = pl.col("drop_reason").is_null() & (pl.col("wanted") < config.language_min_score)
        judged = judged.with_columns(
            pl.when(foreign).then(pl.lit("language")).otherwise(pl.col("drop_reason")).alias("drop_reason")
        )
    verdicts = pl.concat(
        [judged.select("drop_reason", "language", "language_score"), dedupe_columns(rows)], how="horizontal"
    )
    _put(draft, task.verdicts(draft), verdicts)
    return Record(task=task.id)


def _languages(rows: pl.DataFrame, config: FilterConfig) -> "Detection":
    """The languages of captions, each with as much of its page's language as the config says."""
    from dataops.language import detect  # here, so that only workers that judge load the compiler

    texts = [text.lower() if text.isupper() else text for text in rows["caption"].to_list()]
    found = detect(texts, config.language_candidates)
    if not config.language_page_weight:
        return found
    captions = rows.select("page_url").with_columns(text=pl.Series(texts, dtype=pl.String))
    pages = captions.group_by("page_url", maintain_order=True).agg(
        pl.col("text").unique(maintain_order=True).str.join(" ")
    )
    number = pages.select("page_url", number=pl.int_range(pl.len(), dtype=pl.UInt32))
    of_page = captions.join(number, on="page_url", how="left", maintain_order="left", nulls_equal=True)[
        "number"
    ].to_numpy()
    return found.blended(
        detect(pages["text"].to_list(), config.language_candidates), of_page, config.language_page_weight
    )


def resolve(draft: Draft, tasks: list[PartTask]) -> None:
    """Choose among the duplicates of all parts, and note the choice part by part."""
    verdicts = [_get(draft, task.verdicts(draft), ["drop_reason", *DEDUPE_SCHEMA]) for task in tasks]
    passed = [frame.filter(pl.col("drop_reason").is_null()).drop("drop_reason") for frame in verdicts]
    reasons = duplicates(pl.concat(passed), tasks[0].config.dedupe) if passed else pl.Series(dtype=pl.String)
    start = 0
    for task, frame, part in zip(tasks, verdicts, passed, strict=True):
        chosen = pl.DataFrame(
            {"row": frame["drop_reason"].is_null().arg_true(), "drop_reason": reasons.slice(start, part.height)}
        )
        rows = pl.DataFrame({"row": pl.int_range(frame.height, dtype=pl.UInt32, eager=True)})
        _put(draft, task.duplicates(draft), rows.join(chosen, on="row", how="left", maintain_order="left").drop("row"))
        start += part.height


def write(draft: Draft, task: PartTask) -> Record:
    """The kept and the dropped part of a part that came in."""
    pairs = conform(read_table(draft.store, task.name), PAIRS, task.name)
    verdicts = _get(draft, task.verdicts(draft), ["drop_reason", "language", "language_score"])
    chosen = _get(draft, task.duplicates(draft))
    reasons = pl.select(pl.coalesce(verdicts["drop_reason"], chosen["drop_reason"])).to_series()
    columns = [verdicts[field.name].to_arrow().cast(field.type) for field in LANGUAGE]
    table = pa.table([*pairs.columns, *columns], schema=FILTERED)
    keep = reasons.is_null()
    kept, gone = table.filter(keep.to_arrow()), table.filter((~keep).to_arrow())
    gone = gone.append_column("drop_reason", reasons.filter(~keep).to_arrow().cast(pa.string()))
    gone = gone.append_column("drop_stage", pa.array([NAME] * gone.num_rows, pa.string()))
    parts: list[Part] = [
        draft.put_table(f"part-{task.index:05d}.parquet", conform(kept, FILTERED, task.id).combine_chunks()),
        draft.put_table(
            f"dropped-{task.index:05d}.parquet", conform(gone, dropped(FILTERED), task.id).combine_chunks()
        ),
    ]
    by_reason = Counter(reasons.drop_nulls().to_list())
    counts = Counts(input=table.num_rows, kept=kept.num_rows, dropped=dict(sorted(by_reason.items())))
    languages = Counter(language or "unknown" for language in kept["language"].to_pylist())
    return Record(task=task.id, parts=parts, counts=counts, facts={"languages": dict(sorted(languages.items()))})


def check_left(counts: Counts, max_drop_fraction: float) -> None:
    """Raise ContractError with the funnel when no row is left, or a greater share was dropped than is allowed."""
    gone = counts.input - counts.kept
    if counts.kept and gone <= max_drop_fraction * counts.input:
        return
    lines = [f"  {reason:<16} {n:>12,}" for reason, n in sorted(counts.dropped.items(), key=lambda x: (-x[1], x[0]))]
    what = "keeps no row" if not counts.kept else f"drops {gone / counts.input:.1%}, over max_drop_fraction"
    msg = "\n".join([f"filter {what}: {counts.kept:,} of {counts.input:,} pairs are left", *lines])
    raise ContractError(msg)


def _frame(table: pa.Table) -> pl.DataFrame:
    return cast(pl.DataFrame, pl.from_arrow(table))


def _put(draft: Draft, name: str, frame: pl.DataFrame) -> None:
    sink = io.BytesIO()
    frame.write_parquet(sink)
    draft.store.put(name, sink.getvalue())


def _get(draft: Draft, name: str, columns: list[str] | None = None) -> pl.DataFrame:
    return pl.read_parquet(io.BytesIO(draft.store.read(name)), columns=columns)


FILTER = Stage(name=NAME, version=VERSION, make=make)
