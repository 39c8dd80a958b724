"""The tables `[[train.phase]]`: image size, context length and batch size by share of a training."""

from itertools import pairwise
from typing import Annotated

from pydantic import AfterValidator, Field

from dataops.errors import ConfigError
from training.model_config import FrozenModel, ModelConfig


class PhaseConfig(FrozenModel):
    """One `[[train.phase]]` table: a part of a training. A key that is not set is as in `[train]` and in the model."""

    until: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of all samples of the training after which the phase ends; the last one ends at 1. A phase ends between two
    steps; less than a step away from the end of an epoch, it ends with the epoch."""
    image_size: Annotated[int, Field(ge=8, le=16_384)] | None = None
    """Side of the input, in pixels. The position embeddings are those of the model's size, resized in each step."""
    context_length: Annotated[int, Field(ge=3, le=65_536)] | None = None
    """Maximum tokens of a caption, at most the model's; longer captions are cut."""
    batch_size: Annotated[int, Field(ge=2)] | None = None
    """Maximum pairs per step over all ranks."""


def _in_order(phases: tuple[PhaseConfig, ...]) -> tuple[PhaseConfig, ...]:
    for number, (one, after) in enumerate(pairwise(phases), 1):
        if one.until >= after.until:
            raise ValueError(f"phase {number} ends at {one.until}, and phase {number + 1} at {after.until}; set more")
    if phases and phases[-1].until != 1:
        raise ValueError(f"the last phase ends at {phases[-1].until}; it must end at 1")
    return phases


Phases = Annotated[tuple[PhaseConfig, ...], AfterValidator(_in_order)]


def list_dimensions(phases: Phases, dimensions: ModelConfig) -> tuple[ModelConfig, ...]:
    """Return the dimensions of a model in each phase; its own, as in a single phase, if there are none.

    Raises: ConfigError if a phase does not fit the model, or the last one has not the model's own size.
    """
    found: list[ModelConfig] = []
    for number, phase in enumerate(phases, 1):
        longest = dimensions.text_cfg.context_length
        if phase.context_length is not None and phase.context_length > longest:
            raise ConfigError(f"phase {number}: context_length is {phase.context_length}; the model has {longest}")
        try:
            resized = dimensions.with_image_size(phase.image_size or dimensions.vision_cfg.image_size)
        except ConfigError as error:
            raise ConfigError(f"phase {number}: {error}") from error
        found.append(resized.with_context_length(phase.context_length or longest))
    if found and found[-1] != dimensions:
        raise ConfigError(
            "the last phase has another image_size or context_length than the model, which would not be trained for its "
            "own: remove them there, or set train.image_size"
        )
    return tuple(found) or (dimensions,)
