"""Define `[curate.clusters]`: clusters of image features, and the images that are like those of a target."""

from typing import ClassVar, Literal

import pyarrow as pa
from pydantic import Field

from dataops.config import ConfigPath, StageConfig, problems_of
from dataops.facts import Facts
from dataops.schema import Column, DropReason
from dataops.snapshot import Input
from plugins.scores.scorers import find_clip_scorer, find_model_problems
from tasks.curate.score import Scorer
from tasks.curate.step import Step

NAME, OFF_TARGET = "clusters", "off_target"


class ClustersFacts(Facts):
    """Facts of the clusters, in the manifest of `curate`."""

    stage = "curate"
    table = NAME
    scorer: str
    model: str | None
    rows: int
    without_feature: int
    """Number of rows whose image has no feature."""
    off_target: int
    """Number of pairs in clusters without a target."""
    fitted: int
    clusters: int
    """Number of clusters that have pairs."""
    sizes: dict[str, int]
    """Number of pairs of the cluster at a share of all, in their order by size; "0.5" is the median."""
    targets: int | None = None
    """Number of clusters that are nearest to a target, if the config has any."""


FEATURES = "features"
"""Name of the scorer whose result is the feature of an image."""
_FEATURE_SCORES = 32
"""Number of scores that take the memory of a feature."""


class ClustersConfig(StageConfig):
    """The `[curate.clusters]` table: clusters of the images, by k-means over the features of a CLIP model."""

    execution_fields: ClassVar[frozenset[str]] = frozenset({"model", "targets", "device"})

    model: ConfigPath = Field(min_length=1)
    """A CLIP model, as of [curate.scores.clip_score]; its features are stored like scores."""
    count: int = Field(default=1000, ge=1, le=1_000_000)
    """Number of clusters."""
    targets: tuple[ConfigPath, ...] = ()
    """Images of what the model is for: folders of images, tar shards, or globs of either; local or s3://bucket/….
    Clusters that are the nearest one of none of them are dropped, as off_target. Empty: no cluster is dropped."""
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
        job = "plugins.scores.clusters.features_job"
        return find_clip_scorer(FEATURES, self.model, self.device, job, columns=columns, weight=_FEATURE_SCORES)

    def inputs(self) -> list[Input]:
        """Return the scorer of the features and the targets as inputs of the stage. Raises: as find_scorer."""
        from tasks.curate.evaluation_overlap import digest_images

        scorer = self.find_scorer()
        return [Input(stage="scorer", key=scorer.name, digest=scorer.digest), *digest_images("target", self.targets)]


STEP = Step(
    NAME,
    ClustersConfig,
    "plugins.scores.clusters.clustering:add_clusters",
    compares_all=True,
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
        OFF_TARGET: DropReason(
            "The image's cluster is the nearest one of no image in `curate.clusters.targets`.",
            "`curate.clusters.targets`",
        ),
    },
    order=20,
    facts=ClustersFacts,
    inputs=ClustersConfig.inputs,
    page="plugins.scores.clusters.report:report_html",
)
