"""Return the scores of a dataset's images: from the cache if any run computed them before, else computed now.

A score depends neither on the order of the shards nor on how the images are distributed over them.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import polars as pl
import pyarrow as pa

from dataops.errors import CorruptPart
from dataops.images.score_tables import TO_SCORE, compute_score_ids
from dataops.schema import FACE_BBOXES
from dataops.snapshot import Draft, read_table
from tasks.curate.scores import cache as score_cache
from tasks.curate.scores import clip as score_clip
from tasks.curate.scores import faces as score_faces
from tasks.curate.scores import nsfw as score_nsfw
from tasks.curate.scores.config import Scorer, ScoresConfig
from tasks.curate.scores.scoring_task import ScoringTask
from tasks.engine.context import Context
from tasks.engine.map_parts import map_parts

logger = logging.getLogger(__name__)

IMAGES = pa.schema([("key", pa.string()), ("caption", pa.string()), ("image_digest", pa.string())])
"""Table of a raw shard's rows to score; `image_digest` is a hex digest of the image's bytes in the shard."""


@dataclass(frozen=True)
class ShardImages:
    """The images of a raw shard to score."""

    number: str
    """Number of the shard, for example `00017`."""
    tar: str
    """Name of the tar in the store."""
    extension: str
    """Extension of the image members."""
    rows: str
    """Name of a table IMAGES in the store."""


def compute_scores(
    shards: Sequence[ShardImages], config: ScoresConfig, draft: Draft, context: Context
) -> Iterator[tuple[Scorer, dict[str, pa.Array]]]:
    """Yield each scorer and its columns: a row per image, in the order of the shards; null if it cannot be decoded.

    The columns are the score (float32), under the scorer's name, and `face_bboxes` of the scorer `faces`.

    Raises: ConfigError if a scorer is missing, and the errors of its job.
    """
    for scorer in config.scorers():
        yield scorer, _compute(scorer, shards, draft, context)


def _compute(scorer: Scorer, shards: Sequence[ShardImages], draft: Draft, context: Context) -> dict[str, pa.Array]:
    rows = _list_rows(scorer, shards, draft)
    scored = _join_cached(rows, draft, scorer)
    missing = scored.filter(pl.col("found").is_null())
    cached = f"{rows.height - missing.height:,} of {rows.height:,} scores are cached"
    logger.info("%s %s: %s (scorer %s)", draft.stage, scorer.name, cached, scorer.digest)
    once = missing.unique("id", keep="first", maintain_order=True)
    tasks = [_make_task(scorer, shards[part["shard"][0]], part, draft) for part in once.partition_by("shard")]
    if tasks:
        if scorer.model is not None:
            score_clip.score_shards(scorer, tasks, draft, context)
        else:
            map_parts(_select_function(scorer), tasks, draft, context)
        scored = _join_cached(rows, draft, scorer)
    if count := scored.filter(pl.col("found").is_null()).height:
        folder = f"scores/{scorer.digest}"
        raise CorruptPart(f"{draft.stage} {scorer.name}: {count} scores were computed but are not in {folder}; rerun")
    columns = {scorer.name: pa.array(scored["score"].to_arrow(), pa.float32())}
    if scorer.name == "faces":
        columns["face_bboxes"] = scored["face_bboxes"].to_arrow().cast(FACE_BBOXES)
    return columns


def _select_function(scorer: Scorer) -> Any:
    if scorer.name == "faces":
        return partial(score_faces.score_faces, min_confidence=scorer.min_confidence)
    return score_nsfw.score_nsfw


def _list_rows(scorer: Scorer, shards: Sequence[ShardImages], draft: Draft) -> pl.DataFrame:
    """Return a row per image: `shard` and `row`, its indices, and `id`, the identity of its score."""
    tables = [pl.DataFrame(schema={"shard": pl.UInt32, "row": pl.UInt32, "id": pl.Binary})]
    for number, shard in enumerate(shards):
        columns = ["image_digest", *(["caption"] if scorer.reads_caption else [])]
        rows = read_table(draft.store, shard.rows, columns)
        captions = rows["caption"].to_pylist() if scorer.reads_caption else None
        ids = pl.Series("id", compute_score_ids(rows["image_digest"].to_pylist(), captions), pl.Binary)
        indices = pl.DataFrame({"row": pl.Series(range(len(ids)), dtype=pl.UInt32), "id": ids})
        tables.append(indices.select(pl.lit(number, pl.UInt32).alias("shard"), "row", "id"))
    return pl.concat(tables)


def _join_cached(rows: pl.DataFrame, draft: Draft, scorer: Scorer) -> pl.DataFrame:
    """Return the rows, in their order, with `score` and with `found`, which is null if the cache has no score."""
    cached = score_cache.read_scores(draft.store, scorer.digest, faces=scorer.name == "faces")
    cached = cached.with_columns(pl.lit(True).alias("found"))
    return rows.join(cached, on="id", how="left", maintain_order="left")


def _make_task(scorer: Scorer, shard: ShardImages, rows: pl.DataFrame, draft: Draft) -> ScoringTask:
    """Write the rows of a shard to score (TO_SCORE), and return the task."""
    images = read_table(draft.store, shard.rows).take(rows["row"].to_arrow())
    ids = pa.array(rows["id"].to_list(), TO_SCORE.field("id").type)
    table = pa.table([images["key"], images["caption"], ids], schema=TO_SCORE)
    name = f"{shard.number}-{hashlib.sha256(b''.join(rows['id'].to_list())).hexdigest()[:16]}"
    part = draft.put_table(f"_work/score-{scorer.name}-{name}.parquet", table)
    return ScoringTask(scorer.digest, name, shard.tar, shard.extension, draft.path(part.name))
