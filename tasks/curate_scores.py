"""Curate's last step before it writes: scores of the pairs that are left, and the rules over them.

Duplicates are resolved before, so each picture is scored once, and a fraction is one of distinct pairs. A row that left
earlier has no scores.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from dataops.schema import CURATED
from dataops.score_rules import drop_reasons
from dataops.snapshot import read_table
from tasks.curate_choose import Choice
from tasks.curate_config import CurateConfig
from tasks.curate_judge import RawShard
from tasks.score_config import Scorer
from tasks.scores import PICTURES, ShardPictures, score
from tasks.stage import Work

QUANTILES = (0.0, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98, 1.0)
"""Of each score, in the manifest: what a threshold would keep."""


def add_scores(choice: Choice, shards: Sequence[RawShard], sizes: Sequence[int], work: Work) -> dict[str, Any]:
    """Score the rows that are left, and drop those that a rule does not keep.

    Args:
        shards: in the order of the rows of `choice`; `sizes` says how many are of each.

    Returns: facts of each score, for the manifest.
    """
    config: CurateConfig = work.config
    left = choice.left()
    stays = np.zeros(sum(sizes), bool)
    stays[left] = True
    asked, languages, start = [], [pa.chunked_array([], pa.string())], 0
    for shard, size in zip(shards, sizes, strict=True):
        mask = pa.array(stays[start : start + size])
        rows = read_table(work.draft.store, shard.rows, ["key", "caption", "language"]).filter(mask)
        pictures = choice.judged["picture"].slice(start, size).filter(mask)
        table = pa.table([rows["key"], rows["caption"], pictures], schema=PICTURES)
        part = work.draft.put_table(f"_work/pictures-{shard.number}.parquet", table)
        asked.append(ShardPictures(shard.number, shard.tar, shard.image_extension, work.draft.path(part.name)))
        languages.append(rows["language"])
        start += size
    uids = choice.judged["uid"].take(pa.array(left))
    columns: dict[str, pl.Series] = {}
    facts: dict[str, Any] = {}
    for scorer, values in score(asked, config.scores, work.draft, work.context):
        columns |= {name: pl.Series(name, column) for name, column in values.items()}
        facts[scorer.name] = _facts(scorer, columns[scorer.name])
    language = pa.chunked_array([chunk for column in languages for chunk in column.chunks], pa.string())
    scored = pa.table({"uid": uids, "language": language, **{n: s.to_arrow() for n, s in columns.items()}})
    for row, reason in zip(left.tolist(), drop_reasons(scored, config.rules).to_pylist(), strict=True):
        choice.reasons[row] = reason
    choice.scores = {name: _spread(scores, left, len(stays)) for name, scores in columns.items()}
    return facts


def _spread(scores: pl.Series, left: np.ndarray, count: int) -> pa.Array:
    """Scores of some rows as a column of all; null for the others."""
    places = np.full(count, -1, np.int64)
    places[left] = np.arange(len(left))
    taken = scores.to_arrow().take(pa.array(places, mask=places < 0))
    return taken.cast(CURATED.field(scores.name).type)


def _facts(scorer: Scorer, scores: pl.Series) -> dict[str, Any]:
    known = scores.drop_nulls()
    points = {f"{q:g}": known.quantile(q, "nearest") for q in QUANTILES if len(known)}
    model = {"model": scorer.model.name} if scorer.model else {}
    counts = {"scored": len(known), "missing": len(scores) - len(known)}
    return {"scorer": scorer.digest, **model, **counts, "quantiles": points}
