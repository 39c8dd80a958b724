"""Score the rows that curate has not dropped yet, and apply the rules over scores.

Duplicates are resolved before, so each image is scored once, and a fraction in a rule counts distinct pairs. A row that was
dropped earlier has no scores.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from dataops.images.score_rules import drop_reasons
from dataops.schema import CURATED
from dataops.snapshot import Draft, read_table
from tasks.curate.choose import read_decisions
from tasks.curate.config import CurateConfig
from tasks.curate.inspect_images import RawShard, inspected_name
from tasks.curate.scores.compute import IMAGES, ShardImages, compute_scores
from tasks.curate.scores.config import Scorer
from tasks.engine.stage import Work

_ROWS = pa.schema([("uid", pa.string()), ("language", pa.string())])
QUANTILES = (0.0, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98, 1.0)
"""Quantiles of each score in the manifest: they show how much a threshold would keep."""


def add_scores(shards: Sequence[RawShard], work: Work[CurateConfig]) -> dict[str, Any]:
    """Score the rows that choose_rows kept, and apply the rules; write `scored_name` for each shard.

    Rules rank all rows in this process, which holds the uid, language and scores of each.

    Returns: facts of each score, for the manifest.
    """
    config = work.config
    images, tables = list[ShardImages](), [_ROWS.empty_table()]
    for shard in shards:
        table, rows = _read_kept(shard, work.draft)
        part = work.draft.put_table(f"_work/images-{shard.number}.parquet", table)
        images.append(ShardImages(shard.number, shard.tar, shard.image_extension, work.draft.path(part.name)))
        tables.append(rows)
    scored, facts = pa.concat_tables(tables), dict[str, Any]()
    for scorer, columns in compute_scores(images, config.scores, work.draft, work.context):
        for name, column in columns.items():
            values = pl.Series(column).to_arrow().cast(CURATED.field(name).type)
            scored = scored.append_column(CURATED.field(name), values)
        facts[scorer.name] = _summarise(scorer, pl.Series(scorer.name, columns[scorer.name]))
    scored = scored.append_column("reason", drop_reasons(scored, config.rules))
    start = 0
    for shard, rows in zip(shards, tables[1:], strict=True):
        part = scored.slice(start, rows.num_rows).drop_columns(["uid", "language"])
        work.draft.put_table(scored_name(shard.number), part)
        start += rows.num_rows
    return facts


def scored_name(number: str) -> str:
    """Return the name of the scratch table of a raw shard's scored rows: scores, and `reason`, the drop reason."""
    return f"_work/scored-{number}.parquet"


def join_scores(decisions: pa.Table, scored: pa.Table) -> pa.Table:
    """Return the decisions on a raw shard with its scores, null for rows dropped before, and with the rules' reasons."""
    kept = decisions["drop_reason"].is_null()
    indices = pa.array(np.cumsum(kept.to_numpy()) - 1, mask=~kept.to_numpy())
    scores = scored.take(indices)
    for name in scored.column_names[:-1]:
        decisions = decisions.append_column(name, scores[name])
    reasons = pl.Series(decisions["drop_reason"]).fill_null(pl.Series(scores["reason"])).to_arrow()
    index = decisions.column_names.index("drop_reason")
    return decisions.set_column(index, "drop_reason", pa.array(reasons, pa.string()))


def _read_kept(shard: RawShard, draft: Draft) -> tuple[pa.Table, pa.Table]:
    """Return the kept rows of a raw shard: the columns to score (IMAGES), and those that rules use (_ROWS)."""
    kept = read_decisions(draft, shard.number)["drop_reason"].is_null()
    rows = read_table(draft.store, shard.rows, ["uid", "key", "caption", "language"]).filter(kept)
    inspected = read_table(draft.store, draft.path(inspected_name(shard.number)), ["image_digest"]).filter(kept)
    columns = [rows["key"], rows["caption"], inspected["image_digest"]]
    return pa.table(columns, schema=IMAGES), rows.select(_ROWS.names).cast(_ROWS)


def _summarise(scorer: Scorer, scores: pl.Series) -> dict[str, Any]:
    known = scores.drop_nulls()
    points = {f"{q:g}": known.quantile(q, "nearest") for q in QUANTILES if len(known)}
    model = {"model": scorer.model.name} if scorer.model else {}
    counts = {"scored": len(known), "missing": len(scores) - len(known)}
    return {"scorer": scorer.digest, **model, **counts, "quantiles": points}
