"""A model's JSON. Its field names are open_clip's, so that open_clip builds the same network from the same file.

A registered model ships this module, so it finds configs/models/ by its own path. No torch here.
"""

import json
import math
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dataops.errors import ConfigError
from dataops.regular_files import read_text
from dataops.text.suggestions import did_you_mean

QUICK_GELU = "-quickgelu"
"""End of open_clip's names of models that have the activation of OpenAI's weights."""
MODELS = Path(__file__).resolve().parent.parent / "configs" / "models"
MIN_VOCAB_SIZE = 259
"""Tokens of a byte-level vocabulary before its first merge: pad, 256 bytes, start and end of text."""


class FrozenModel(BaseModel):
    """A model that is immutable and rejects unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class VisionConfig(FrozenModel):
    """The image tower: a ModifiedResNet where `layers` lists four stages, else a vision transformer."""

    image_size: Annotated[int, Field(ge=8, le=16_384)] = 224
    """Side of the square input, in pixels."""
    layers: Annotated[int, Field(ge=1, le=1000)] | tuple[Annotated[int, Field(ge=1, le=1000)], ...] = 12
    """Transformer blocks, or bottlenecks in each of a ResNet's four stages."""
    width: Annotated[int, Field(ge=8, le=65_536)] = 768
    """Channels of the transformer, or of the ResNet's stem (its features have 32 times as many)."""
    head_width: Annotated[int, Field(ge=1)] = 64
    """Channels of an attention head."""
    patch_size: Annotated[int, Field(ge=1)] | None = 32
    """Side of a transformer's patch, in pixels; a ResNet has none."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if isinstance(self.layers, tuple):
            if len(self.layers) != 4:
                raise ValueError(f"layers: a ResNet has four stages, not {len(self.layers)}")
            if self.image_size % 32:
                raise ValueError(f"image_size: a ResNet needs a multiple of 32, not {self.image_size}")
            channels = self.width * 32
        else:
            if self.patch_size is None or self.image_size % self.patch_size:
                raise ValueError(f"patch_size: {self.patch_size} does not divide image_size {self.image_size}")
            channels = self.width
        if channels % self.head_width:
            raise ValueError(f"head_width: {self.head_width} does not divide {channels} channels")
        return self


class TextConfig(FrozenModel):
    """The text tower: a causal transformer."""

    context_length: Annotated[int, Field(ge=3, le=65_536)] = 77
    """Maximum tokens of a text, its start and end included."""
    vocab_size: Annotated[int, Field(ge=MIN_VOCAB_SIZE, le=1 << 24)] = 49408
    """Rows of the token embedding; training replaces it with the size of the vocabulary that it learnt."""
    width: Annotated[int, Field(ge=8, le=65_536)] = 512
    """Channels of the transformer."""
    heads: Annotated[int, Field(ge=1)] = 8
    """Attention heads."""
    layers: Annotated[int, Field(ge=1, le=1000)] = 12
    """Transformer blocks."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} does not divide width {self.width}")
        return self


class ModelConfig(FrozenModel):
    """Dimensions of a CLIP model, in open_clip's field names."""

    embed_dim: Annotated[int, Field(ge=1, le=65_536)]
    """Dimensions of the space that images and texts share."""
    quick_gelu: bool = False
    """x * sigmoid(1.702 x) in place of GELU, as in OpenAI's own weights."""
    init_logit_scale: float = math.log(1 / 0.07)
    """Log of the inverse temperature at the start. Source: Radford et al. 2021, section 2.5."""
    init_logit_bias: float | None = None
    """Initial value of the bias that the sigmoid loss adds to each logit; None: the model has no such parameter."""
    vision_cfg: VisionConfig
    """The image tower."""
    text_cfg: TextConfig
    """The text tower."""

    def with_vocab_size(self, vocab_size: int) -> "ModelConfig":
        """Return the same model over another vocabulary."""
        text_cfg = self.text_cfg.model_copy(update={"vocab_size": vocab_size})
        return self.model_copy(update={"text_cfg": text_cfg})

    def with_image_size(self, image_size: int) -> "ModelConfig":
        """Return the same model for images of another size.

        Raises: ConfigError if its patches or strides do not divide them.
        """
        try:
            vision_cfg = VisionConfig.model_validate({**self.vision_cfg.model_dump(), "image_size": image_size})
        except ValidationError as error:
            raise ConfigError(
                f"image_size is {image_size}: {error.errors()[0]['msg'].removeprefix('Value error, ')}"
            ) from error
        return self.model_copy(update={"vision_cfg": vision_cfg})

    def with_context_length(self, context_length: int) -> "ModelConfig":
        """Return the same model for texts of another maximum length."""
        text_cfg = self.text_cfg.model_copy(update={"context_length": context_length})
        return self.model_copy(update={"text_cfg": text_cfg})

    def for_sigmoid_loss(self) -> "ModelConfig":
        """Return the same model with the sigmoid loss's initial temperature and bias, unless it has a bias already.

        Source: Zhai et al. 2023 (SigLIP), section 3.2.
        """
        if self.init_logit_bias is not None:
            return self
        return self.model_copy(update={"init_logit_scale": math.log(10), "init_logit_bias": -10.0})


def load_model_config(name_or_path: str) -> ModelConfig:
    """Read a model's dimensions.

    Args:
        name_or_path: a name in configs/models/, which `-quickgelu` may follow as in open_clip's names, or a path that
            ends in .json.

    Raises:
        ConfigError: no such model, or its file is not valid; names the file and what is allowed.
    """
    by_path = name_or_path.endswith(".json")
    base = name_or_path.removesuffix(QUICK_GELU)
    path = Path(name_or_path) if by_path else MODELS / f"{base}.json"
    names = ", ".join(sorted(file.stem for file in MODELS.glob("*.json")))
    if not by_path and Path(name_or_path).name != name_or_path:
        raise ConfigError(f"model {name_or_path!r}: neither a path ending in .json nor one of the names {names}")
    try:
        config = ModelConfig.model_validate(json.loads(read_text(path)))
        return config if by_path or base == name_or_path else config.model_copy(update={"quick_gelu": True})
    except (OSError, UnicodeDecodeError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        suggestion = "" if by_path else did_you_mean(base, (file.stem for file in MODELS.glob("*.json")))
        raise ConfigError(
            f"model {name_or_path!r}: cannot read {path} ({reason}); the names are {names}{suggestion}"
        ) from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"model {name_or_path!r}: {path} is not JSON: {error}") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'model'}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"model {name_or_path!r}: {path}: {problems}") from error
