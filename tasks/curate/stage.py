"""The curate stage: what can only be decided with the pixels at hand.

1. judge, a task a raw shard: decode each picture whole, look at its size, shape and contrast, take its fingerprints;
2. look for the pictures of evaluation sets, where the config names some (tasks/curate/evaluation_overlap.py);
3. choose, by ranges of hashes (tasks/curate/choose.py): which pairs leave, and of duplicates which one stays;
4. score what is left, where the config names scores, and drop what the rules over scores do not keep;
5. write, a task a raw shard: the kept and the dropped rows.

Whatever is made by 1 to 4 is scratch, but for the table of matches with evaluation sets. The result does not depend on the
order or the partition of the rows.
"""

import logging
from collections import Counter
from dataclasses import replace
from typing import Any

import pyarrow as pa

from dataops.errors import CorruptPart
from dataops.schema import CURATED, SCORE_NAMES, conform, dropped
from dataops.snapshot import Counts, Draft, Input, Manifest, Part, Record, read_table
from tasks.curate.choose import RunSteps, choose_rows, decisions_name
from tasks.curate.config import CurateConfig
from tasks.curate.evaluation_overlap import digest_evaluation_sets, match_evaluation_sets
from tasks.curate.inspect_images import RawShard, inspect_shard
from tasks.curate.scoring import add_scores, join_scores, scored_name
from tasks.engine.map_parts import map_parts, shared_workers
from tasks.engine.partition_steps import run_steps
from tasks.engine.stage import Stage, StageOutput, Work, gather

logger = logging.getLogger(__name__)

MATCHES_PART = "evaluation-matches.parquet"
"""Training pictures that evaluation sets have (columns of tasks.curate.evaluation_overlap.MATCHES): for a contamination report."""


def make(work: Work[CurateConfig]) -> StageOutput:
    """Judge, look for evaluation sets, choose, score, write."""
    with shared_workers(work.context) as context:
        return _make(replace(work, context=context))


def _make(work: Work[CurateConfig]) -> StageOutput:
    config = work.config
    download = work.inputs["download"]
    judges = _shards("judge", download, config)
    map_parts(inspect_shard, judges, work.draft, work.context)
    numbers, sizes = [shard.number for shard in judges], [p.rows for p in download.named("part-", ".parquet")]
    facts: dict[str, Any] = {}
    matches: Part | None = None
    if work.config.overlap:
        found, facts = match_evaluation_sets(work, work.config.overlap, numbers)
        matches = work.draft.put_table(MATCHES_PART, found)
    choose_rows(numbers, sizes, config, matches and work.draft.path(matches.name), _over(work, sum(sizes)))
    if config.scores.names:
        facts = {**facts, "scores": add_scores(judges, work)}
    parts, counts = gather(map_parts(write, _shards("write", download, config), work.draft, work.context))
    return StageOutput([*parts, *([matches] if matches else [])], counts, facts)


def _over(work: Work[CurateConfig], rows: int) -> RunSteps:
    """Maps the steps of the choice; where there are few rows in this process, for another may take seconds to start."""
    return lambda steps: run_steps(steps, rows, work.draft, work.context.quiet())


def _shards(step: str, download: Manifest, config: CurateConfig) -> list[RawShard]:
    extension = str(download.config["encode_format"])
    tars = {part.name for part in download.named("", ".tar")}
    shards = []
    for part in download.named("part-", ".parquet"):
        tar = part.name.removeprefix("part-").removesuffix(".parquet") + ".tar"
        if tar not in tars:
            raise CorruptPart(f"{download.path(part.name)} has no {tar} beside it; remake it with --force download")
        shards.append(RawShard(step, download.path(part.name), download.path(tar), extension, config))
    return shards


def write(draft: Draft, shard: RawShard) -> Record:
    """Write the kept and the dropped rows of a raw shard."""
    rows = read_table(draft.store, shard.rows)
    chosen = read_table(draft.store, draft.path(decisions_name(shard.number)))
    if chosen["uid"] != rows["uid"]:
        raise CorruptPart(f"{shard.rows}: its rows are not those that were judged")
    if shard.config.scores.names:
        chosen = join_scores(chosen, read_table(draft.store, draft.path(scored_name(shard.number))))
    reasons = chosen["drop_reason"].to_pylist()
    phashes = [None if value is None else f"{value:016x}" for value in chosen["phash"].to_pylist()]
    rows = rows.append_column("phash", pa.array(phashes, pa.string()))
    for name in (
        "cluster",
        "evaluation_overlap",
        *(n for n in (*SCORE_NAMES, "face_bboxes") if n in chosen.column_names),
    ):
        rows = rows.append_column(name, chosen[name])
    kept = rows.filter(pa.array([reason is None for reason in reasons], pa.bool_()))
    lost = rows.append_column("drop_reason", chosen["drop_reason"])
    lost = lost.filter(pa.array([reason is not None for reason in reasons], pa.bool_()))
    lost = lost.append_column("drop_stage", pa.array(["curate"] * lost.num_rows, pa.string()))
    where = f"curate {shard.number}"
    parts = [
        draft.put_table(f"part-{shard.number}.parquet", conform(kept, CURATED, where)),
        draft.put_table(f"dropped-{shard.number}.parquet", conform(lost, dropped(CURATED), where)),
    ]
    counts = Counter(reason for reason in reasons if reason)
    return Record(
        task=shard.id,
        parts=parts,
        counts=Counts(input=rows.num_rows, kept=kept.num_rows, dropped=dict(sorted(counts.items()))),
    )


def external_inputs(config: CurateConfig) -> list[Input]:
    """The evaluation sets and the scorers, digested."""
    return digest_evaluation_sets(config) + config.scores.inputs()


CURATE = Stage(name="curate", version=5, make=make, external_inputs=external_inputs)
