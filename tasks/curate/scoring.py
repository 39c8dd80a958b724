"""Curate's last step before it writes: scores of the pairs that are left, and the rules over them.

Duplicates are resolved before, so each picture is scored once, and a fraction is one of distinct pairs. A row that left
earlier has no scores.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from dataops.images.score_rules import drop_reasons
from dataops.schema import CURATED
from dataops.snapshot import Draft, read_table
from tasks.curate.choose import decisions_name
from tasks.curate.config import CurateConfig
from tasks.curate.inspect_images import RawShard, inspected_name
from tasks.curate.scores.compute import IMAGES, ShardImages, compute_scores
from tasks.curate.scores.config import Scorer
from tasks.engine.stage import Work

_ROWS = pa.schema([("uid", pa.string()), ("language", pa.string())])
QUANTILES = (0.0, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98, 1.0)
"""Of each score, in the manifest: what a threshold would keep."""


def add_scores(shards: Sequence[RawShard], work: Work[CurateConfig]) -> dict[str, Any]:
    """Score the rows that were chosen to stay, and drop those that a rule does not keep: `scored_name` of each shard.

    Rules rank all rows, in this process: of each it holds its uid, language and scores.

    Returns: facts of each score, for the manifest.
    """
    config = work.config
    asked, rows = list[ShardImages](), [_ROWS.empty_table()]
    for shard in shards:
        pictures, left = _left(shard, work.draft)
        part = work.draft.put_table(f"_work/pictures-{shard.number}.parquet", pictures)
        asked.append(ShardImages(shard.number, shard.tar, shard.image_extension, work.draft.path(part.name)))
        rows.append(left)
    scored, facts = pa.concat_tables(rows), dict[str, Any]()
    sizes = [table.num_rows for table in rows[1:]]
    for scorer, values in compute_scores(asked, config.scores, work.draft, work.context):
        for name, column in values.items():
            scored = scored.append_column(
                CURATED.field(name), pl.Series(column).to_arrow().cast(CURATED.field(name).type)
            )
        facts[scorer.name] = _facts(scorer, pl.Series(scorer.name, values[scorer.name]))
    scored = scored.append_column("reason", drop_reasons(scored, config.rules))
    start = 0
    for shard, size in zip(shards, sizes, strict=True):
        work.draft.put_table(scored_name(shard.number), scored.slice(start, size).drop_columns(["uid", "language"]))
        start += size
    return facts


def scored_name(number: str) -> str:
    """The scratch table of the rows of a raw shard that were scored: scores, and the `reason` to leave for one."""
    return f"_work/scored-{number}.parquet"


def join_scores(chosen: pa.Table, scored: pa.Table) -> pa.Table:
    """What was chosen of a raw shard, with its scores, and why rows leave for them; null for rows that left before."""
    stays = chosen["drop_reason"].is_null()
    places = pa.array(np.cumsum(stays.to_numpy()) - 1, mask=~stays.to_numpy())
    spread = scored.take(places)
    for name in scored.column_names[:-1]:
        chosen = chosen.append_column(name, spread[name])
    reasons = pl.Series(chosen["drop_reason"]).fill_null(pl.Series(spread["reason"])).to_arrow()
    place = chosen.column_names.index("drop_reason")
    return chosen.set_column(place, "drop_reason", pa.array(reasons, pa.string()))


def _left(shard: RawShard, draft: Draft) -> tuple[pa.Table, pa.Table]:
    """Of the rows of a raw shard that stay so far, what is to be scored (PICTURES), and what rules look at (_ROWS)."""
    stays = read_table(draft.store, draft.path(decisions_name(shard.number)), ["drop_reason"])["drop_reason"].is_null()
    rows = read_table(draft.store, shard.rows, ["uid", "key", "caption", "language"]).filter(stays)
    pictures = read_table(draft.store, draft.path(inspected_name(shard.number)), ["picture"]).filter(stays)["picture"]
    return pa.table([rows["key"], rows["caption"], pictures], schema=IMAGES), rows.select(_ROWS.names).cast(_ROWS)


def _facts(scorer: Scorer, scores: pl.Series) -> dict[str, Any]:
    known = scores.drop_nulls()
    points = {f"{q:g}": known.quantile(q, "nearest") for q in QUANTILES if len(known)}
    model = {"model": scorer.model.name} if scorer.model else {}
    counts = {"scored": len(known), "missing": len(scores) - len(known)}
    return {"scorer": scorer.digest, **model, **counts, "quantiles": points}
