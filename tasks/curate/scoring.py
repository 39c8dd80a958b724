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
import pyarrow as pa

from dataops.images.score_ranks import Cut, count_keys, find_positions, score_of_key
from dataops.images.score_rules import drop_reasons, rows_to_rank
from dataops.snapshot import Draft, Record, fetch_table, read_table
from tasks.curate.choose import read_decisions
from tasks.curate.config import CurateConfig
from tasks.curate.inspect_images import RawShard, inspected_name
from tasks.curate.scores.compute import IMAGES, Lookup, ShardImages, compute_scores, read_found
from tasks.curate.steps import ShardRows, batch_shards
from tasks.engine.exchange import Exchange, Step, put_frame, read_frame, run_steps
from tasks.engine.stage import Work

QUANTILES = (0.0, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98, 1.0)
"""Quantiles of each score in the manifest: they show how much a threshold would keep."""
POSITIONS = "_work/positions.parquet"
"""Scratch table of the positions of the rules' cuts in the rankings (dataops.images.score_ranks)."""


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
    def cuts(self) -> list[Cut]:
        """Cuts of the rules, then the quantiles of each score."""
        quantiles = [Cut(name, share, is_quantile=True) for name in self.config.scores.names for share in QUANTILES]
        return [*(cut for rule in self.config.rules for cut in rule.cuts), *quantiles]

    @property
    def exchange(self) -> Exchange:
        """Return the exchange of a pass, to this process."""
        return Exchange(f"counts-{self.number}", self.batches, 1, 0, 0)


ScoreStep = Step[ScoreJob]
"""A step on a batch of raw shards; `inputs` are these (RawShard)."""


def add_scores(shards: Sequence[RawShard], sizes: Sequence[int], work: Work[CurateConfig]) -> dict[str, Any]:
    """Score the rows that choose_rows kept, and find the rows at the cuts of the rules; see `join_scores`.

    Args:
        sizes: number of rows of each raw shard.

    Returns: facts of each score, for the manifest.
    """
    config, draft = work.config, work.draft
    batches = batch_shards([ShardRows(shard.number, size) for shard, size in zip(shards, sizes, strict=True)])
    by_number = {shard.number: shard for shard in shards}
    units = [tuple(by_number[shard.number] for shard in batch) for batch in batches]
    job = ScoreJob(config, len(units))
    context = work.context.without_progress()

    def run(function: Callable[[Draft, ScoreStep], Record | None], job: ScoreJob) -> list[Record]:
        return run_steps([Step(function, n, job, unit) for n, unit in enumerate(units)], sum(sizes), draft, context)

    kept = sum(part.rows for record in run(put_images, job) for part in record.parts)
    images = [
        [ShardImages(s.number, s.tar, s.image_extension, draft.path(_images_name(s.number))) for s in unit]
        for unit in units
    ]
    job = replace(job, lookups=tuple(compute_scores(images, kept, config.scores, draft, work.context)))
    missing = Counter[str]()
    for record in run(put_scores, job):
        missing.update(record.facts)
    facts = dict[str, dict[str, Any]]()
    for scorer in (lookup.scorer for lookup in job.lookups):
        model, absent = {"model": scorer.model.name} if scorer.model else {}, missing[scorer.name]
        facts[scorer.name] = {"scorer": scorer.digest, **model, "scored": kept - absent, "missing": absent}

    def count(positions: pl.DataFrame, number: int) -> Iterator[pl.DataFrame]:
        counting = replace(job, number=number)
        draft.put_table(_searches_name(number), positions.to_arrow())
        run(count_batch, counting)
        return counting.exchange.read_tables(draft, 0)

    positions = find_positions(job.cuts, count)
    draft.put_table(POSITIONS, positions.to_arrow())
    keys = dict(positions.select("cut", "score_key").iter_rows())
    for score in facts.values():
        score["quantiles"] = {}
    for number, cut in enumerate(job.cuts):
        if cut.is_quantile and number in keys:
            facts[cut.score]["quantiles"][f"{cut.share:g}"] = score_of_key(keys[number])
    return facts


def put_images(draft: Draft, step: ScoreStep) -> Record:
    """Write the kept rows of each raw shard to score (IMAGES)."""
    parts = []
    for shard in step.inputs:
        kept = read_decisions(draft, shard.number)["drop_reason"].is_null()
        rows = read_table(draft.store, shard.rows, ["key", "caption"]).filter(kept)
        digests = read_table(draft.store, draft.path(inspected_name(shard.number)), ["image_digest"]).filter(kept)
        table = pa.table([rows["key"], rows["caption"], digests["image_digest"]], schema=IMAGES)
        parts.append(draft.put_table(_images_name(shard.number), table))
    return Record(task=step.id, parts=parts)


def put_scores(draft: Draft, step: ScoreStep) -> Record:
    """Write the scores of each raw shard, and what the passes need of the rows of a batch."""
    names, frames, start = step.job.config.scores.names, list[pl.DataFrame](), 0
    found = [read_found(draft, lookup, step.number) for lookup in step.job.lookups]
    scored = pa.table({name: table[name] for table in found for name in table.column_names})
    for shard in step.inputs:
        kept = read_decisions(draft, shard.number)["drop_reason"].is_null()
        rows = read_table(draft.store, shard.rows, ["uid", "language"]).filter(kept)
        scores = scored.slice(start, rows.num_rows)
        draft.put_table(_scored_name(shard.number), scores)
        for name in names:
            rows = rows.append_column(name, scores[name])
        frames.append(rows_to_rank(rows, ["language", *names]))
        start += rows.num_rows
    put_frame(draft, _ranked_name(step), pl.concat(frames))
    return Record(task=step.id, facts={name: scored[name].null_count for name in names})


def count_batch(draft: Draft, step: ScoreStep) -> None:
    """Count the rows of a batch for a pass."""
    name = draft.path(_searches_name(step.job.number))
    positions = cast(pl.DataFrame, pl.from_arrow(fetch_table(draft.store, name)))
    counts = count_keys(read_frame(draft, _ranked_name(step)), step.job.cuts, positions, step.job.number)
    step.job.exchange.write(draft, step.number, counts, np.zeros(counts.height, np.uint16))


def _images_name(number: str) -> str:
    return f"_work/images-{number}.parquet"


def _scored_name(number: str) -> str:
    return f"_work/scored-{number}.parquet"


def _ranked_name(step: ScoreStep) -> str:
    return f"ranked-{step.job.batches}-{step.number:05d}.table"


def _searches_name(number: int) -> str:
    return f"_work/searches-{number}.parquet"


def join_scores(draft: Draft, shard: RawShard, rows: pa.Table, decisions: pa.Table) -> pa.Table:
    """Return the decisions on a raw shard with its scores, null for rows dropped before, and with the rules' reasons."""
    scored = fetch_table(draft.store, draft.path(_scored_name(shard.number)))
    kept = decisions["drop_reason"].is_null()
    indices = pa.array(np.cumsum(kept.to_numpy()) - 1, mask=~kept.to_numpy())
    for name in scored.column_names:
        decisions = decisions.append_column(name, scored[name].take(indices))
    positions = cast(pl.DataFrame, pl.from_arrow(fetch_table(draft.store, draft.path(POSITIONS))))
    ranked = decisions.append_column("language", rows["language"]).filter(kept)
    found = drop_reasons(ranked, shard.config.rules, positions).take(indices)
    reasons = pl.Series(decisions["drop_reason"]).fill_null(pl.Series(found)).to_arrow()
    index = decisions.column_names.index("drop_reason")
    return decisions.set_column(index, "drop_reason", pa.array(reasons, pa.string()))
