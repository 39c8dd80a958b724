"""Score the rows that curate has not dropped yet, and apply the rules over scores.

Duplicates are resolved before, so each image is scored once, and a fraction in a rule counts distinct pairs. A row that was
dropped earlier has no scores.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import polars as pl

from dataops.facts import Facts
from dataops.snapshot import Draft, Record, fetch_table
from plugins.scores.compute import Lookup, compute_score, list_images, put_images, read_found
from plugins.scores.rules import (
    Cut,
    ScoreRule,
    count_keys,
    drop_reasons,
    find_positions,
    rows_to_rank,
    score_of_key,
)
from tasks.curate.choose import batch_shards
from tasks.curate.config import CurateConfig
from tasks.curate.inspect_images import RawShard
from tasks.curate.stage import put_result, read_kept
from tasks.curate.step import StepOutput
from tasks.engine.exchange import Exchange, Step, put_frame, read_frame, run_steps
from tasks.engine.stage import Work

QUANTILES = (0.0, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98, 1.0)
"""Quantiles of each score in the manifest: they show how much a threshold would keep."""
NAME = "scores"


@dataclass(frozen=True)
class ScoreJob:
    """What all steps share."""

    config: CurateConfig
    batches: int
    number: int = 0
    """Number of the pass over the rows."""
    lookups: tuple[Lookup, ...] = ()
    """The scores in the cache."""

    @property
    def layout(self) -> str:
        """Return the number of batches, and the pass."""
        return f"{self.batches}-{self.number}"

    @property
    def names(self) -> list[str]:
        """Return the names of the scores, in the order of their columns."""
        return list(getattr(self.config, NAME).wanted)

    @property
    def rules(self) -> tuple[ScoreRule, ...]:
        """Return `[[curate.rules]]`."""
        return getattr(self.config, "rules")  # noqa: B009  a key that this plugin adds

    @property
    def cuts(self) -> list[Cut]:
        """Cuts of the rules, then the quantiles of each score."""
        quantiles = [Cut(name, share, is_quantile=True) for name in self.names for share in QUANTILES]
        return [*(cut for rule in self.rules for cut in rule.cuts), *quantiles]

    @property
    def exchange(self) -> Exchange:
        """Return the exchange of a pass, to this process."""
        return Exchange(f"counts-{self.number}", self.batches, 1, 0, 0)


ScoreStep = Step[ScoreJob]
"""A step on a batch of raw shards; `inputs` are these (RawShard)."""


def add_scores(work: Work[CurateConfig], shards: Sequence[RawShard]) -> StepOutput:
    """Score the rows that are kept, and drop those that a rule does not keep; the facts are those of each score."""
    config, draft, units = work.config, work.draft, batch_shards(shards, work.config.units)
    rows, context = sum(shard.size for shard in shards), work.context.without_progress()
    job = ScoreJob(config, len(units))

    def run(function: Callable[[Draft, ScoreStep], Record | None], job: ScoreJob) -> list[Record]:
        return run_steps([Step(function, n, job, unit) for n, unit in enumerate(units)], rows, draft, context)

    kept = sum(part.rows for record in run(list_kept, job) for part in record.parts)
    images = [list_images(draft, unit, NAME) for unit in units]
    scorers = getattr(config, NAME).scorers()
    job = replace(job, lookups=tuple(compute_score(one, images, kept, draft, work.context) for one in scorers))
    missing = Counter[str]()
    for record in run(put_scores, job):
        missing.update(record.facts)
    facts = dict[str, dict[str, Any]]()
    for scorer in (lookup.scorer for lookup in job.lookups):
        model, absent = {"model": scorer.model} if scorer.model else {}, missing[scorer.name]
        scored = {"scored": kept - absent, "missing": absent, "quantiles": {}}
        facts[scorer.name] = {"scorer": scorer.digest, **model, **scored}

    def count(positions: pl.DataFrame, number: int) -> Iterator[pl.DataFrame]:
        counting = replace(job, number=number)
        draft.put_table(_searches_name(number), positions.to_arrow())
        run(count_batch, counting)
        return counting.exchange.read_tables(draft, 0)

    positions = find_positions(job.cuts, count)
    draft.put_table(_POSITIONS, positions.to_arrow())
    run(apply_rules, job)
    keys = dict(positions.select("cut", "key").iter_rows())
    for number, cut in enumerate(job.cuts):
        if cut.is_quantile and number in keys:
            facts[cut.score]["quantiles"][f"{cut.share:g}"] = score_of_key(keys[number])
    return StepOutput(facts=Facts(**facts))


def list_kept(draft: Draft, step: ScoreStep) -> Record:
    """Write the kept rows of each raw shard to score."""
    return Record(task=step.id, parts=[put_images(draft, shard, NAME) for shard in step.inputs])


def put_scores(draft: Draft, step: ScoreStep) -> Record:
    """Write the scores of the kept rows of each raw shard, and what the passes need of the rows of a batch."""
    names, frames, start = step.job.names, list[pl.DataFrame](), 0
    found = [read_found(draft, lookup, step.number) for lookup in step.job.lookups]
    for shard in step.inputs:
        rows = read_kept(draft, shard, NAME).select(["uid", "language"])
        for table in found:
            for name in table.column_names:
                rows = rows.append_column(name, table[name].slice(start, rows.num_rows))
        draft.put_table(_scored_name(shard.number), rows)
        frames.append(rows_to_rank(rows, ["language", *names]))
        start += rows.num_rows
    put_frame(draft, _ranked_name(step), pl.concat(frames))
    return Record(
        task=step.id,
        facts={
            lookup.scorer.name: table[lookup.scorer.name].null_count
            for lookup, table in zip(step.job.lookups, found, strict=True)
        },
    )


def count_batch(draft: Draft, step: ScoreStep) -> None:
    """Count the rows of a batch for a pass."""
    name = draft.path(_searches_name(step.job.number))
    positions = cast(pl.DataFrame, pl.from_arrow(fetch_table(draft.store, name)))
    counts = count_keys(read_frame(draft, _ranked_name(step)), step.job.cuts, positions, step.job.number)
    step.job.exchange.write(draft, step.number, counts, np.zeros(counts.height, np.uint16))


def apply_rules(draft: Draft, step: ScoreStep) -> None:
    """Write the result of each raw shard: the scores, and the reasons of the rules."""
    positions = cast(pl.DataFrame, pl.from_arrow(fetch_table(draft.store, draft.path(_POSITIONS))))
    for shard in step.inputs:
        rows = fetch_table(draft.store, draft.path(_scored_name(shard.number)))
        reasons = drop_reasons(rows, step.job.rules, positions)
        put_result(draft, shard, NAME, rows.drop_columns(["uid", "language"]).append_column("drop_reason", reasons))


_POSITIONS = "_work/positions.parquet"
"""Scratch table of the positions of the rules' cuts in the rankings (plugins.scores.rules)."""


def _scored_name(number: str) -> str:
    return f"_work/scored-{number}.parquet"


def _ranked_name(step: ScoreStep) -> str:
    return f"ranked-{step.job.batches}-{step.number:05d}.table"


def _searches_name(number: int) -> str:
    return f"_work/searches-{number}.parquet"
