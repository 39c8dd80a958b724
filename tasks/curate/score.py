"""Define what a score of `[curate.scores]` is, how its images are scored, and the cache of the scores.

A score is one object, registered in `pairmill.scores`. It is computed if the config has its table, `[curate.scores.NAME]`.
Its scorer has a digest of its weights and of the version of its code, which enters the stage's key and names the scorer's
folder in the cache. There, each image is scored once, by whichever run of the store comes first::

    scores/<scorer's digest>/<digest of the object>.parquet      columns: `id`, and the scorer's

A score depends only on its scorer and on the image (and caption), so it does not matter which run
wrote it, nor whether two runs wrote the same one. If an object is deleted, its scores are computed
again.
"""

import hashlib
import importlib.util
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import polars as pl
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from dataops.digest import canonical_json, text_sha256
from dataops.errors import CorruptPart
from dataops.parquet import encode_table
from dataops.schema import Column
from dataops.shards.tar import read_samples
from dataops.snapshot import Draft, Record, read_table
from dataops.store import Store
from tasks.engine.context import Context
from tasks.engine.map_parts import map_parts

logger = logging.getLogger(__name__)

ID = pa.binary(16)
TO_SCORE = pa.schema([("key", pa.string()), ("caption", pa.string()), ("id", ID)])
"""Samples of a shard to score, one per row; `id` is returned with the score."""
SCORES = pa.schema([("id", ID), ("score", pa.float32())])
"""Scores of samples; null if the image cannot be decoded."""


def compute_score_ids(digests: Sequence[str], captions: Sequence[str] | None) -> pa.Array:
    """Return the identity of each score (ID): 128 bits of BLAKE2b over the image's digest and, if given, the caption.

    Args:
        digests: hex digests of the bytes of the images.
        captions: one per image; None: the score depends on the image alone.
    """
    texts = ["\0" + caption for caption in captions] if captions is not None else [""] * len(digests)
    ids = (
        hashlib.blake2b((image + text).encode("utf-8", "surrogatepass"), digest_size=16).digest()
        for image, text in zip(digests, texts, strict=True)
    )
    return pa.array(ids, ID)


class ScoreConfig(BaseModel):
    """The base of a score's config table."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class ScoringTask:
    """The samples of one raw shard that a scorer has to score."""

    scorer: str
    """Digest of the scorer: the cache keeps its scores under it."""
    name: str
    """The shard's number and a digest of the rows, so that results of other rows are never used."""
    tar: str
    """Name of the tar in the store."""
    extension: str
    """Extension of the image members."""
    rows: str
    """Store name of the table (TO_SCORE) of the samples to score."""

    @property
    def id(self) -> str:
        return f"score-{self.scorer[:8]}-{self.name}"


@dataclass(frozen=True)
class Scorer:
    """A scorer whose model is available."""

    name: str
    digest: str
    """32 hex digits of a hash of its weights and the version of its code."""
    compute: "Callable[[Scorer, Sequence[ScoringTask], Draft, Context], None]"
    """Computes the scores of tasks, and caches them."""
    reads_caption: bool = False
    """True if a score depends on the caption too, not on the image alone."""
    model: str | None = None
    """Name of a CLIP model; None: the model is part of a package."""
    columns: tuple[pa.Field, ...] = (pa.field("score", pa.float32()),)
    """What the cache has of an image; `score` is the column with the scorer's name."""

    @property
    def schema(self) -> pa.Schema:
        """Columns of the cache."""
        return pa.schema([("id", ID), *self.columns])


@dataclass(frozen=True)
class Score:
    """A score that `[curate.scores]` can ask for. Modules that define one are light."""

    table: str
    """Name of the score, of its config table and of its column."""
    config: type[ScoreConfig]
    find: Callable[[Any, str], Scorer]
    """Returns the scorer for a config and a device. Raises: ConfigError if it is missing; ServiceError from MLflow."""
    columns: tuple[Column, ...]
    """The column of the score, and further ones."""
    problems: Callable[[Any], list[str]] = lambda config: []
    """Returns what is missing, as `.field: problem` or `: problem`. Registered models are looked for later, in a plan."""
    order: int = 100


def digest_scorer(name: str, version: int, weights: Sequence[str]) -> str:
    """Return the digest of a scorer.

    Args:
        version: of its code, raised when the same weights give another score.
        weights: digests of files, and values that change a score.
    """
    return text_sha256(canonical_json({"scorer": name, "version": version, "weights": list(weights)}))[:32]


def find_package_file(package: str, name: str) -> Path | None:
    """Return a file beside the module of a package; None if it is not installed."""
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).with_name(name) if spec and spec.origin else None
    return path if path is not None and path.is_file() else None


def put_scores(store: Store, scorer: str, scores: pa.Table) -> None:
    """Write scores of the scorer with this digest."""
    data = encode_table(scores).to_pybytes()
    store.put(f"scores/{scorer}/{hashlib.sha256(data).hexdigest()[:32]}.parquet", data)


def read_scores(store: Store, names: Sequence[str], schema: pa.Schema) -> pl.DataFrame:
    """Return the columns `schema` of some objects."""
    tables = [schema.empty_table()]
    for name in names:
        try:
            tables.append(read_table(store, name, schema.names).cast(schema))
        except CorruptPart as error:  # a power failure may leave an object empty
            logger.warning("%s; its scores are computed again", error)
    return cast(pl.DataFrame, pl.from_arrow(pa.concat_tables(tables)))


def score_each(
    scorer: Scorer,
    tasks: Sequence[ScoringTask],
    draft: Draft,
    context: Context,
    *,
    score: Callable[[bytes], dict[str, Any]],
) -> None:
    """Score images one by one in worker processes: the `compute` of a scorer that needs no batches.

    Args:
        score: returns the columns of the scorer for the bytes of an image, null if it cannot be decoded.

    Raises: CorruptPart if a shard lacks an image.
    """
    map_parts(partial(_score_images, schema=scorer.schema, score=score), tasks, draft, context)


def _score_images(
    draft: Draft, task: ScoringTask, schema: pa.Schema, score: Callable[[bytes], dict[str, Any]]
) -> Record:
    rows = read_table(draft.store, task.rows)
    ids = dict(zip(rows["key"].to_pylist(), rows["id"].to_pylist(), strict=True))
    scores: list[dict[str, Any]] = []
    with draft.store.open(task.tar) as file:
        for key, members in read_samples(file, task.tar):
            if key in ids and task.extension in members:
                scores.append({"id": ids.pop(key), **score(members[task.extension])})
    if ids:
        raise CorruptPart(f"{task.tar}: sample {next(iter(ids))!r} has no .{task.extension} image to score")
    put_scores(draft.store, task.scorer, pa.Table.from_pylist(scores, schema))
    return Record(task=task.id)
