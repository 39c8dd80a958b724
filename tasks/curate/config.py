"""Define `[curate]`: which images are good enough, which are duplicates, and which must not be trained on."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dataops.config import SourceOrder, problems_of
from dataops.errors import ConfigError
from dataops.images.score_rules import ScoreRule
from dataops.schema import SCORE_NAMES
from tasks.curate.clusters.config import ClustersConfig
from tasks.curate.recaption.config import RecaptionConfig
from tasks.curate.scores.config import ScoresConfig
from tasks.files.base import SourceFile
from tasks.files.find import find_files


class OverlapThresholds(BaseModel):
    """How similar a training image and an evaluation image must be to count as one image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    distance: int = Field(default=10, ge=0, le=12)
    """Maximum number of bits in which the hashes of a training image and of a variant of an evaluation image differ."""
    correlation: float = Field(default=0.95, ge=0.5, le=1)
    """Minimum correlation of the two images when one is laid over the other."""


class OverlapConfig(OverlapThresholds):
    """`[curate.overlap]`: training images that are copies of evaluation images."""

    paths: Annotated[tuple[str, ...], Field(min_length=1)]
    """Evaluation sets: folders of images, tar shards, or globs of either; local or s3://bucket/…. The column
    `evaluation_set` has each name exactly as it is written here."""
    action: Literal["mark", "drop"] = "drop"
    """drop: the rows are dropped as `evaluation_overlap`. mark: they are kept, with the sets' names in the column
    `evaluation_overlap`."""


def find_evaluation_files(path: str) -> list[SourceFile]:
    """Return the files of one of `curate.overlap.paths` or `curate.clusters.targets`. Raises: ConfigError if none."""
    pattern = path
    if path.endswith("/") or (not path.startswith("s3://") and Path(path).is_dir()):
        pattern = f"{path.rstrip('/')}/**" + ("" if path.startswith("s3://") else "/*")
    files, problems = find_files([pattern])
    if problems:
        raise ConfigError("; ".join(line.removeprefix("paths: ") for line in problems))
    return files


class CurateConfig(SourceOrder):
    """`[curate]`: which images are good enough, and which are duplicates."""

    min_side: int = Field(default=32, ge=1)
    """Drop images whose original has a smaller side of fewer pixels."""
    max_aspect_ratio: float = Field(default=3.0, ge=1)
    """Drop images whose original has a larger side of more than this many times the smaller one."""
    min_contrast: float = Field(default=2.0, ge=0, le=127)
    """Drop images whose luminance has a smaller standard deviation, of 255 levels, as `blank`."""
    text_banners: bool = True
    """Drop images that show nothing but text on a plain background, as `text_banner`."""
    max_addresses: int = Field(default=100, ge=1)
    """Drop images that came from more URLs, byte for byte, as `placeholder`: "image not found", logos, spacers."""
    near_duplicates: bool = True
    """Find images that are equal except for scale, compression and small changes."""
    near_duplicate_distance: int = Field(default=6, ge=0, le=16)
    """Maximum number of bits in which the 64-bit perceptual hashes of near-duplicates differ."""
    near_duplicate_tolerance: int = Field(default=16, ge=0, le=255)
    """Maximum difference, of 255, between the 16x16 colour thumbnails of near-duplicates, in any cell and channel."""
    same_caption: bool = False
    """True: two pairs are duplicates only if their captions agree too, except for case and white space, so an image
    with two captions is trained on with both. False: keep one caption per image, the longest."""
    overlap: OverlapConfig | None = None
    """Evaluation sets whose images must not be trained on; without it, no evaluation set is searched."""
    scores: ScoresConfig = ScoresConfig()
    """Columns that rate each pair; none by default."""
    recaption: RecaptionConfig | None = None
    """A model that writes captions of the kept images; none by default."""
    rules: tuple[ScoreRule, ...] = ()
    """`[[curate.rules]]`: the scores that a row needs to be kept. Each rule sees all rows that nothing else has dropped."""
    clusters: ClustersConfig | None = None
    """Clusters of the images that the rules keep; none by default."""

    def key_config(self) -> dict[str, Any]:
        """Return the config without the paths of models: the scorers' digests are inputs of the stage."""
        clusters = {"clusters": self.clusters.key_config()} if self.clusters else {}
        recaption = {"recaption": self.recaption.key_config()} if self.recaption else {}
        return {**super().key_config(), "scores": self.scores.names, **clusters, **recaption}

    def problems(self) -> list[str]:
        """Return what is missing of the scorers and the evaluation sets."""
        paths = self.overlap.paths if self.overlap else ()
        sets = problems_of("overlap.paths", lambda: [find_evaluation_files(path) for path in paths])
        clusters = self.clusters.problems() if self.clusters else []
        targets = self.clusters.targets if self.clusters else ()
        clusters += problems_of("targets", lambda: [find_evaluation_files(path) for path in targets])
        found = {"scores": self.scores.problems(), "clusters": clusters}
        found["recaption"] = self.recaption.problems() if self.recaption else []
        return [*(f"{table}.{line}" for table, lines in found.items() for line in lines), *sets]

    @model_validator(mode="after")
    def _rules_have_scores(self) -> Self:
        if unknown := [rule.score for rule in self.rules if rule.score not in self.scores.names]:
            tables = ", ".join(f"[curate.scores.{name}]" for name in dict.fromkeys(unknown))
            raise ValueError(
                f"rules over scores that are not computed: {tables} missing; there are {', '.join(SCORE_NAMES)}"
            )
        return self

    @model_validator(mode="after")
    def _kept_duplicates_have_scores(self) -> Self:
        duplicates = self.clusters.semantic_duplicates if self.clusters else None
        if duplicates and duplicates.keep == "clip_score" and self.scores.clip_score is None:
            raise ValueError(
                'clusters.semantic_duplicates.keep = "clip_score" needs a table [curate.scores.clip_score]'
            )
        return self
