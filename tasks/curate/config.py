"""Define `[curate]`: which images are good enough, which are duplicates, and which must not be trained on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, PrivateAttr

from dataops import plugins
from dataops.config import ConfigPath, FrozenModel, SourceOrder, problems_of
from dataops.errors import ConfigError
from tasks.curate.step import list_steps
from tasks.files.base import SourceFile
from tasks.files.find import find_files


class OverlapThresholds(FrozenModel):
    """How similar a training image and an evaluation image must be to count as one image."""

    distance: int = Field(default=10, ge=0, le=12)
    """Maximum number of bits in which the hashes of a training image and of a variant of an evaluation image differ."""
    correlation: float = Field(default=0.95, ge=0.5, le=1)
    """Minimum correlation of the two images when one is laid over the other."""


class OverlapConfig(OverlapThresholds):
    """`[curate.overlap]`: training images that are copies of evaluation images."""

    paths: Annotated[tuple[ConfigPath, ...], Field(min_length=1)]
    """Evaluation sets: folders of images, tar shards, or globs of either; local or s3://bucket/…. The column
    `evaluation_set` has each as it is written in a config in the project's folder."""
    action: Literal["mark", "drop"] = "drop"
    """drop: the rows are dropped as `evaluation_overlap`. mark: they are kept, with the sets' names in the column
    `evaluation_overlap`."""


@dataclass(frozen=True)
class Units:
    """Approximate numbers of rows of what a task works on. No result depends on them."""

    batch_rows: int = 1 << 17
    """Of a batch of raw shards."""
    partition_rows: int = 1 << 20
    """Of a partition of hashes, or of groups of near-duplicates."""
    near_partition_rows: int = 1 << 21
    """Of a partition in the search for near-duplicates, where each further one costs a search in every block of bits."""
    max_growth: int = 8
    """Where there are many rows, units are up to so many times larger: they bound the memory of a worker, and fewer of
    them need fewer requests."""


def find_evaluation_files(path: str) -> list[SourceFile]:
    """Return the files of one of `curate.overlap.paths`. Raises: ConfigError if none."""
    pattern = path
    if path.endswith("/") or (path and Path(path).is_dir()):  # an empty path is no folder, least of all the root
        pattern = f"{path.rstrip('/')}/**" + ("" if path.startswith("s3://") else "/*")
    files, problems = find_files([pattern])
    if problems:
        raise ConfigError("; ".join(line.removeprefix("paths: ") for line in problems))
    return files


class _CurateConfig(SourceOrder):
    """`[curate]`: which images are good enough, and which are duplicates."""

    min_side: PositiveInt = 32
    """Drop images whose original has a smaller side of fewer pixels."""
    max_aspect_ratio: float = Field(default=3.0, ge=1)
    """Drop images whose original has a larger side of more than this many times the smaller one."""
    min_contrast: float = Field(default=2.0, ge=0, le=127)
    """Drop images whose luminance has a smaller standard deviation, of 255 levels, as `blank`."""
    max_addresses: PositiveInt = 100
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


class CurateConfig(plugins.extend(plugins.extend(_CurateConfig, "steps"), "curate_keys")):
    """`[curate]`: which images are good enough, and which are duplicates; and a table for each step that is wanted."""

    _units: Units = PrivateAttr(default=Units())

    @property
    def units(self) -> Units:
        """Sizes of the tasks."""
        return self._units

    def with_units(self, units: Units) -> Self:
        """Return the config with other sizes of the tasks."""
        changed = self.model_copy()
        changed._units = units
        return changed

    def problems(self) -> list[str]:
        """Return what is missing of the steps and the evaluation sets."""
        paths = self.overlap.paths if self.overlap else ()
        sets = problems_of("overlap.paths", lambda: [find_evaluation_files(path) for path in paths])
        steps = [f"{step.table}.{line}" for step in list_steps(self) for line in getattr(self, step.table).problems()]
        return [*steps, *sets]
