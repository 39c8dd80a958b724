"""The curate stage: what can only be decided with the pixels at hand.

1. judge, a task a raw shard: decode each picture whole, look at its size, shape and contrast, take its fingerprints;
2. look for the pictures of evaluation sets, where the config names some (tasks/curate_overlap.py);
3. choose, once over all of them: which pairs leave, and of duplicates which one stays;
4. score what is left, where the config names scores, and drop what the rules over scores do not keep;
5. write, a task a raw shard: the kept and the dropped rows.

Whatever is made by 1 to 4 is scratch, but for the table of matches with evaluation sets. The result does not depend on the
order or the partition of the rows.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from dataops.errors import CorruptPart
from dataops.schema import CURATED, SCORE_NAMES, conform, dropped
from dataops.snapshot import Counts, Draft, Input, Manifest, Part, Record, read_table
from tasks.curate_choose import Choice, drop_duplicates, drop_placeholders, mark_overlaps
from tasks.curate_config import CurateConfig
from tasks.curate_judge import JUDGED, RawShard, judge, judged_name
from tasks.curate_overlap import MATCHES, evaluation_inputs, evaluation_matches
from tasks.curate_scores import add_scores
from tasks.parts import map_parts, shared_workers
from tasks.stage import Made, Stage, Work, gather

logger = logging.getLogger(__name__)

MATCHES_PART = "evaluation-matches.parquet"
"""Training pictures that evaluation sets have (columns of tasks.curate_overlap.MATCHES): for a contamination report."""


def make(work: Work) -> Made:
    """Judge, look for evaluation sets, choose, score, write."""
    with shared_workers(work.context) as context:
        return _make(replace(work, context=context))


def _make(work: Work) -> Made:
    config: CurateConfig = work.config
    judges = _shards("judge", work.inputs["download"], config)
    map_parts(judge, judges, work.draft, work.context)
    numbers = [shard.number for shard in judges]
    tables = [read_table(work.context.store, work.draft.path(judged_name(number))) for number in numbers]
    judged = pa.concat_tables(tables) if tables else JUDGED.empty_table()
    matches, facts = evaluation_matches(work, judged) if config.overlap else (MATCHES.empty_table(), {})
    choice = choose(judged, config, matches)
    sizes = [table.num_rows for table in tables]
    if config.scores.names:
        facts = {**facts, "scores": add_scores(choice, judges, sizes, work)}
    _put_choice(work.draft, choice, numbers, sizes)
    parts, counts = gather(
        map_parts(write, _shards("write", work.inputs["download"], config), work.draft, work.context)
    )
    if config.overlap:
        parts.append(_put_matches(work.draft, matches))
    return Made(parts, counts, facts)


def choose(judged: pa.Table, config: CurateConfig, matches: pa.Table) -> Choice:
    """Decide over all rows; a row leaves for the first reason that there is."""
    choice = Choice(judged)  # with the reasons of the judges
    drop_placeholders(choice, config.max_addresses)
    if config.overlap:
        mark_overlaps(choice, matches, drop=config.overlap.action == "drop")
    drop_duplicates(choice, config)  # last: what stays for the others must itself be good enough to stay
    return choice


def _shards(step: str, download: Manifest, config: CurateConfig) -> list[RawShard]:
    extension = str(download.config["encode_format"])
    tars = {part.name for part in download.named("", ".tar")}
    shards = []
    for part in download.named("part-", ".parquet"):
        tar = part.name.removeprefix("part-").removesuffix(".parquet") + ".tar"
        if tar not in tars:
            msg = f"{download.path(part.name)} has no {tar} beside it; remake it with --force download"
            raise CorruptPart(msg)
        shards.append(RawShard(step, download.path(part.name), download.path(tar), extension, config))
    return shards


def _put_choice(draft: Draft, choice: Choice, numbers: Sequence[str], sizes: Sequence[int]) -> None:
    """Hand out what was decided, a table a raw shard."""
    decided = pa.table(
        {
            "uid": choice.judged["uid"],
            "phash": choice.judged["phash"],
            "cluster": pa.array(choice.clusters, pa.string()),
            "evaluation_overlap": pa.array(choice.overlaps, pa.string()),
            **choice.scores,
            "drop_reason": pa.array(choice.reasons, pa.string()),
        }
    )
    start = 0
    for number, size in zip(numbers, sizes, strict=True):
        draft.put_table(_chosen_name(number), decided.slice(start, size))
        start += size


def _chosen_name(number: str) -> str:
    return f"_work/chosen-{number}.parquet"


def _put_matches(draft: Draft, matches: pa.Table) -> Part:
    order: Any = [(name, "ascending") for name in MATCHES.names]
    return draft.put_table(MATCHES_PART, matches.sort_by(order))


def write(draft: Draft, shard: RawShard) -> Record:
    """Write the kept and the dropped rows of a raw shard."""
    rows = read_table(draft.store, shard.rows)
    chosen = read_table(draft.store, draft.path(_chosen_name(shard.number)))
    if chosen["uid"] != rows["uid"]:
        msg = f"{shard.rows}: its rows are not those that were judged"
        raise CorruptPart(msg)
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


def outside(config: CurateConfig) -> list[Input]:
    """The evaluation sets and the scorers, digested."""
    return evaluation_inputs(config) + config.scores.inputs()


CURATE = Stage(name="curate", version=5, make=make, outside=outside)
