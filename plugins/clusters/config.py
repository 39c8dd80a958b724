"""Define `[curate.clusters]`: clusters of image features, semantic duplicates in them, and their balance in training."""

from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from dataops.config import StageConfig, problems_of
from dataops.facts import Facts
from dataops.schema import Column, DropReason
from dataops.snapshot import Input
from tasks.curate.scores.clip import find_clip_scorer, find_model_problems
from tasks.curate.scores.score import Scorer
from tasks.curate.step import Step

NAME = "clusters"


class ClustersFacts(Facts):
    """Facts of the clusters, in the manifest of `curate`."""

    stage = "curate"
    table = NAME
    scorer: str
    model: str | None
    rows: int
    without_feature: int
    """Number of rows whose image has no feature."""
    semantic_duplicates: int
    off_target: int
    """Number of pairs in clusters without a target."""
    fitted: int
    clusters: int
    """Number of clusters after small ones were merged."""
    sizes: dict[str, int]
    """Number of pairs of the cluster at a share of all, in their order by size; "0.5" is the median."""
    epoch_rows: float
    """Mean number of pairs in an epoch."""
    targets: int | None = None
    """Number of clusters that are nearest to a target, if the config has any."""


FEATURES = "features"
"""Name of the scorer whose result is the feature of an image."""
_FEATURE_SCORES = 32
"""Number of scores that take the memory of a feature."""


class SemanticDuplicatesConfig(BaseModel):
    """`[curate.clusters.semantic_duplicates]`: drop images that are nearly the same to the model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_cosine: float = Field(default=0.95, gt=0, le=0.999)
    """Minimum cosine of the features of two semantic duplicates. What is similar differs between models: look at the page
    `clusters.html` of the snapshot."""
    keep: Literal["far", "clip_score"] = "far"
    """Of semantic duplicates, keep the image that is farthest from the centroid of its cluster, or the pair with the
    highest `clip_score`; the smallest uid decides between equal ones."""


class ClusterBalanceConfig(BaseModel):
    """`[curate.clusters.balance]`: sample the pairs of large clusters with a smaller probability."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alpha: float = Field(default=0.2, ge=0, le=1)
    """A cluster of n pairs has a share of an epoch in proportion to n^alpha, but at most all of its pairs. At 1, all pairs
    have the same probability; at 0, all clusters have the same share."""
    epoch_fraction: float = Field(default=0.5, gt=0, le=1)
    """Mean share of all pairs that an epoch has."""


class ClustersConfig(StageConfig):
    """The `[curate.clusters]` table: clusters of the images, by k-means over the features of a CLIP model."""

    execution_fields: ClassVar[frozenset[str]] = frozenset({"model", "targets", "device"})

    model: str = Field(min_length=1)
    """A CLIP model, as of [curate.scores.clip_score]; its features are stored like scores."""
    count: int = Field(default=1000, ge=1, le=1_000_000)
    """Number of clusters before small ones are merged."""
    min_size: int = Field(default=10, ge=1)
    """Merge a cluster of fewer pairs into the one whose centroid has the largest cosine with its own."""
    targets: tuple[str, ...] = ()
    """Images of what the model is for: folders of images, tar shards, or globs of either; local or s3://bucket/….
    Clusters that are the nearest one of none of them are dropped, as off_target. Empty: no cluster is dropped."""
    semantic_duplicates: SemanticDuplicatesConfig | None = None
    """Semantic duplicates to drop; none by default."""
    balance: ClusterBalanceConfig | None = None
    """Sampling by clusters in training; without it, all pairs are sampled alike."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the model and of k-means. auto: cuda if torch finds it, else cpu."""

    def problems(self) -> list[str]:
        """Return what is missing; a registered model is resolved when the stage is planned."""
        from tasks.curate.config import find_evaluation_files

        found = problems_of("targets", lambda: [find_evaluation_files(path) for path in self.targets])
        return [line.removeprefix(".") for line in find_model_problems(self.model)] + found

    def find_scorer(self) -> Scorer:
        """Return the scorer of the features. Raises: ConfigError if the model is missing; ServiceError from MLflow."""
        columns = (pa.field("feature", pa.binary()),)
        job = "plugins.clusters.features_job"
        return find_clip_scorer(FEATURES, self.model, self.device, job, columns=columns, weight=_FEATURE_SCORES)

    def inputs(self) -> list[Input]:
        """Return the scorer of the features and the targets as inputs of the stage. Raises: as find_scorer."""
        from tasks.curate.evaluation_overlap import digest_images

        scorer = self.find_scorer()
        return [Input(stage="scorer", key=scorer.name, digest=scorer.digest), *digest_images("target", self.targets)]


def _check(config: Any) -> list[str]:
    duplicates = getattr(config, NAME).semantic_duplicates
    if duplicates and duplicates.keep == "clip_score" and "clip_score" not in config.score_names:
        return ['clusters.semantic_duplicates.keep = "clip_score" needs a table [curate.scores.clip_score]']
    return []


STEP = Step(
    NAME,
    ClustersConfig,
    "plugins.clusters.clustering:add_clusters",
    columns=(
        Column(
            "image_cluster",
            pa.int32(),
            "Number of the cluster of image features (`curate.clusters`); null for a row without a feature.",
        ),
        Column(
            "centroid_distance", pa.float32(), "1 - cosine of the image's feature and the nearest centroid of k-means."
        ),
    ),
    reasons={
        "off_target": DropReason(
            "The image's cluster is the nearest one of no image in `curate.clusters.targets`.",
            "`curate.clusters.targets`",
        ),
        "semantic_duplicate": DropReason(
            "The feature of a kept row's image in the same cluster is nearly the same.",
            "`curate.clusters.semantic_duplicates.min_cosine`",
        ),
    },
    order=20,
    facts=ClustersFacts,
    inputs=ClustersConfig.inputs,
    check=_check,
    page="plugins.clusters.report:report_html",
)
