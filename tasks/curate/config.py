"""`[curate]`: which pictures are good enough, which are the same, and which must not be trained on."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dataops.config import StageConfig, problems_of
from dataops.errors import ConfigError
from dataops.images.score_rules import ScoreRule
from dataops.schema import SCORE_NAMES
from tasks.curate.scores.config import ScoresConfig
from tasks.files.base import SourceFile
from tasks.files.find import find


class OverlapThresholds(BaseModel):
    """How like a training picture and an evaluation picture must be to be one."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    distance: int = Field(default=10, ge=0, le=12)
    """Bits in which the hashes of a training picture and of a variant of an evaluation picture may differ."""
    correlation: float = Field(default=0.95, ge=0.5, le=1)
    """Least correlation of the two pictures, laid over each other."""


class OverlapConfig(OverlapThresholds):
    """`[curate.overlap]`: training pictures that are copies of evaluation pictures."""

    paths: Annotated[tuple[str, ...], Field(min_length=1)]
    """Evaluation sets: folders of pictures, tar shards, or globs of either; of this machine, or s3://bucket/…. The column
    `evaluation_set` names each as it stands here."""
    action: Literal["mark", "drop"] = "drop"
    """drop: the rows leave, as `evaluation_overlap`. mark: they stay, with the sets' names in the column of that name."""


def find_evaluation_files(path: str) -> list[SourceFile]:
    """Return the files of one of `curate.overlap.paths`. Raises: ConfigError where there is none."""
    pattern = path
    if path.endswith("/") or (not path.startswith("s3://") and Path(path).is_dir()):
        pattern = f"{path.rstrip('/')}/**" + ("" if path.startswith("s3://") else "/*")
    files, problems = find([pattern])
    if problems:
        raise ConfigError("; ".join(line.removeprefix("paths: ") for line in problems))
    return files


class CurateConfig(StageConfig):
    """`[curate]`: which pictures are good enough, and which are the same."""

    min_side: int = Field(default=32, ge=1)
    """Drop pictures whose original's smaller side has fewer pixels."""
    max_aspect_ratio: float = Field(default=3.0, ge=1)
    """Drop pictures whose original's larger side is more than this many times the smaller."""
    min_contrast: float = Field(default=2.0, ge=0, le=127)
    """Drop pictures whose luminance has a smaller standard deviation, of 255 levels, as `blank`."""
    text_banners: bool = True
    """Look for pictures that are nothing but text on a plain ground, and drop them as `text_banner`."""
    max_addresses: int = Field(default=100, ge=1)
    """Drop pictures that came from more addresses, byte for byte, as `placeholder`: "image not found", logos, spacers."""
    near_duplicates: bool = True
    """Look for pictures that are the same but for scale, compression and small changes."""
    near_duplicate_distance: int = Field(default=6, ge=0, le=16)
    """Bits in which the 64-bit perceptual hashes of near-duplicates may differ."""
    near_duplicate_tolerance: int = Field(default=16, ge=0, le=255)
    """Largest difference, of 255, between the 16x16 colour thumbnails of near-duplicates, in any cell and channel."""
    same_caption: bool = False
    """True: call two pairs duplicates only where their captions agree too, but for case and white space, so that one
    picture under two names teaches both. False: keep one caption a picture, the longest."""
    overlap: OverlapConfig | None = None
    """Evaluation sets whose pictures must not be trained on; not looked for without it."""
    scores: ScoresConfig = ScoresConfig()
    """Columns that say how good a pair is; none by default."""
    rules: tuple[ScoreRule, ...] = ()
    """`[[curate.rules]]`: which scores a row must have to stay. Each looks at all rows that nothing else has dropped."""

    def key_config(self) -> dict[str, Any]:
        """Without the places of models: the scorers' digests are inputs of the stage."""
        return {**super().key_config(), "scores": self.scores.names}

    def problems(self) -> list[str]:
        """Return what is missing of the scorers and the evaluation sets."""
        paths = self.overlap.paths if self.overlap else ()
        sets = problems_of("overlap.paths", lambda: [find_evaluation_files(path) for path in paths])
        return [*(f"scores.{line}" for line in self.scores.problems()), *sets]

    @model_validator(mode="after")
    def _scored(self) -> Self:
        if unknown := [rule.score for rule in self.rules if rule.score not in self.scores.names]:
            tables = ", ".join(f"[curate.scores.{name}]" for name in dict.fromkeys(unknown))
            raise ValueError(
                f"rules over scores that are not computed: {tables} missing; there are {', '.join(SCORE_NAMES)}"
            )
        return self
