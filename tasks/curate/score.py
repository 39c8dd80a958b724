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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from dataops.config import FrozenModel
from dataops.digest import canonical_json, text_sha256
from dataops.parquet import encode_table
from dataops.schema import Column
from dataops.snapshot import Draft
from dataops.store import Store
from tasks.engine.context import Context

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


class ScoreConfig(FrozenModel):
    """The base of a score's config table."""


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


def put_scores(store: Store, scorer: str, scores: pa.Table) -> None:
    """Write scores of the scorer with this digest."""
    data = encode_table(scores).to_pybytes()
    store.put(f"scores/{scorer}/{hashlib.sha256(data).hexdigest()[:32]}.parquet", data)
