"""Define the scores of CLIP models: `clip_score` and `aesthetic`."""

from pathlib import Path
from typing import Annotated

import pyarrow as pa
from pydantic import Field

from dataops.config import PATH, ConfigPath
from dataops.errors import ConfigError
from dataops.schema import Column
from plugins.scores.scorers import find_clip_scorer, find_model_problems
from tasks.curate.score import Score, ScoreConfig, Scorer


class ClipScoreConfig(ScoreConfig):
    """`[curate.scores.clip_score]`: how well image and caption match."""

    model: ConfigPath = Field(min_length=1)
    """A CLIP model: a registered version (`models:/name/3`, `models:/name@champion`), the folder of one of our models or of
    an open_clip checkpoint, or OpenAI's file."""


class AestheticConfig(ScoreConfig):
    """`[curate.scores.aesthetic]`: your own linear head over the image features of a CLIP model."""

    model: ConfigPath = Field(min_length=1)
    """The CLIP model that the head was trained on; see clip_score."""
    head: Annotated[Path, *PATH]
    """Safetensors file with `weight` (D,) or (1, D) and `bias` (1,)."""


def _find_aesthetic(config: AestheticConfig, device: str) -> Scorer:
    if problems := _find_head_problems(config):
        raise ConfigError(f"curate.scores.aesthetic{problems[0]}")
    return find_clip_scorer("aesthetic", config.model, device, head=config.head)


def _find_head_problems(config: AestheticConfig) -> list[str]:
    return [] if config.head.is_file() else [f".head: {str(config.head)!r}: no such file"]


CLIP_SCORE = Score(
    "clip_score",
    ClipScoreConfig,
    lambda config, device: find_clip_scorer("clip_score", config.model, device, reads_caption=True),
    (Column("clip_score", pa.float32(), "Cosine of the features of image and caption."),),
    lambda config: find_model_problems(config.model),
    order=10,
)
AESTHETIC = Score(
    "aesthetic",
    AestheticConfig,
    _find_aesthetic,
    (Column("aesthetic", pa.float32(), "Value of your linear head over the image features."),),
    lambda config: find_model_problems(config.model) + _find_head_problems(config),
    order=20,
)
