"""A model's JSON. Its field names are open_clip's, so that open_clip builds the same network from the same file.

A tower with a `kind` is one of ours alone: what training with [train.image_init] or [train.text_init] makes.

A registered model ships this module, so it finds configs/models/ by its own path. No torch here.
"""

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Discriminator,
    Field,
    PositiveFloat,
    PositiveInt,
    Tag,
    ValidationError,
    model_validator,
)

from dataops.config import FrozenModel
from dataops.errors import ConfigError
from dataops.formatting import did_you_mean
from dataops.regular_files import read_text
from training.backbones import find_backbone

MODEL_FILES = ("model.safetensors", "model.json", "tokenizer.json")
"""Files of a finished model."""
QUICK_GELU = "-quickgelu"
"""End of open_clip's names of models that have the activation of OpenAI's weights."""
MODELS = Path(__file__).resolve().parent.parent / "configs" / "models"
MIN_VOCAB_SIZE = 259
"""Tokens of a byte-level vocabulary before its first merge: pad, 256 bytes, start and end of text."""


Side = Annotated[int, Field(ge=8, le=16_384)]
"""Of an image, in pixels."""
Depth = Annotated[int, Field(ge=1, le=1000)]
Width = Annotated[int, Field(ge=1, le=65_536)]
Context = Annotated[int, Field(ge=3, le=65_536)]


class VisionConfig(FrozenModel):
    """The image tower: a ModifiedResNet where `layers` lists four stages, else a vision transformer."""

    image_size: Side = 224
    """Side of the square input, in pixels."""
    layers: Depth | tuple[Depth, ...] = 12
    """Transformer blocks, or bottlenecks in each of a ResNet's four stages."""
    width: Annotated[int, Field(ge=8, le=65_536)] = 768
    """Channels of the transformer, or of the ResNet's stem (its features have 32 times as many)."""
    head_width: PositiveInt = 64
    """Channels of an attention head."""
    patch_size: PositiveInt | None = 32
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


def _check_heads(tower: Any) -> Any:
    if tower.width % tower.heads:
        raise ValueError(f"heads: {tower.heads} does not divide width {tower.width}")
    return tower


class TextConfig(FrozenModel):
    """The text tower: a causal transformer."""

    context_length: Context = 77
    """Maximum tokens of a text, its start and end included."""
    vocab_size: Annotated[int, Field(ge=MIN_VOCAB_SIZE, le=1 << 24)] = 49408
    """Rows of the token embedding; training replaces it with the size of the vocabulary that it learnt."""
    width: Annotated[int, Field(ge=8, le=65_536)] = 512
    """Channels of the transformer."""
    heads: PositiveInt = 8
    """Attention heads."""
    layers: Depth = 12
    """Transformer blocks."""

    _check_heads = model_validator(mode="after")(_check_heads)


class ProjectedConfig(FrozenModel):
    """A tower of another network, and the layers from its feature to the shared space."""

    projector_layers: Annotated[int, Field(ge=0, le=8)] = 1
    """Linear layers, with a GELU between any two and a layer norm before the first; 0: only the norm."""
    projector_norm: bool = True
    """Whether there is that layer norm. open_clip's own towers have none."""
    projector_width: Width = 1024
    """Channels between two of them."""

    @property
    def feature_width(self) -> int:
        """Channels of the network's feature."""
        raise NotImplementedError

    @property
    def network(self) -> str:
        """Name of the network among the registered ones; that of a text tower is its kind."""
        return getattr(self, "kind")  # noqa: B009  the fields of the text towers come first in their files


class BackboneConfig(ProjectedConfig):
    """An image tower with a network of timm's names."""

    kind: Literal["backbone"]
    architecture: str
    """Timm's name of the network."""
    image_size: Side
    """Side of the square input, in pixels."""
    mean: tuple[float, float, float]
    """Mean of the channels that the network expects, of values from 0 to 1; its inputs have CLIP's."""
    std: tuple[float, float, float]
    """Their standard deviation."""
    stages: tuple[int, ...] = ()
    """Stages of the network, from 1 in ascending order, whose means over the cells of `grid` precede the feature of its
    end."""
    grid: Annotated[int, Field(ge=1, le=4, exclude_if=lambda cells: cells == 1)] = 1
    """Cells along each side of the grid; 1: the mean is over all positions."""

    @property
    def feature_width(self) -> int:
        """Channels of the network's feature, with those of the stages."""
        found = find_backbone(self.architecture)
        return sum(found.stage_widths[stage - 1] for stage in self.stages) * self.grid**2 + found.width

    @property
    def network(self) -> str:
        """Name of the network among the registered ones."""
        return find_backbone(self.architecture).family

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        patch_size = find_backbone(self.architecture).patch_size
        if patch_size and self.image_size % patch_size:
            raise ValueError(
                f"image_size: the patches of {self.architecture}, {patch_size}, do not divide {self.image_size}"
            )
        if min(self.std) <= 0:
            raise ValueError(f"std: {self.std} must be above 0")
        count = len(find_backbone(self.architecture).stage_widths)
        if list(self.stages) != sorted(set(self.stages) & set(range(1, count + 1))):
            raise ValueError(
                f"stages: {list(self.stages)}; name stages of {self.architecture} from 1 to {count}, in order, each once"
            )
        return self


class PretrainedTextConfig(ProjectedConfig):
    """The fields of the text towers of other networks. Token 0 is padding, and counts for nothing."""

    context_length: Context
    """Maximum tokens of a text."""
    vocab_size: Annotated[int, Field(ge=2, le=1 << 24)]
    """Rows of the token embedding."""
    width: Width
    """Numbers of the feature."""

    @property
    def feature_width(self) -> int:
        """Channels of the network's feature."""
        return self.width


class WordVectorsConfig(PretrainedTextConfig):
    """A text tower that is the mean of word vectors."""

    kind: Literal["words"]


class BertConfig(PretrainedTextConfig):
    """A text tower with the network of BERT."""

    kind: Literal["bert"]
    heads: PositiveInt
    """Attention heads."""
    layers: Depth
    """Transformer blocks."""
    mlp_width: Annotated[int, Field(ge=1, le=1 << 20)]
    """Channels inside the perceptron of a block."""
    norm_eps: PositiveFloat = 1e-12
    """Epsilon of the layer norms."""
    pooling: Literal["mean", "first"] = "mean"
    """Feature of a text: the mean of its tokens, or its first token."""

    _check_heads = model_validator(mode="after")(_check_heads)


class DecoderConfig(PretrainedTextConfig):
    """A text tower with a decoder language model of transformers. Its ids are raised by one, since 0 is padding."""

    kind: Literal["decoder"]
    network_config: dict[str, Any]
    """The model's config.json."""
    pooling: Literal["last", "mean"] = "last"
    """Feature of a text: its last token, which alone has attended to all, or the mean of its tokens."""


def _kind(value: object) -> Any:
    """Return the kind of a tower; CLIP's own have no such field, as in open_clip."""
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return "clip" if kind is None else kind


VisionTower = Annotated[
    Annotated[VisionConfig, Tag("clip")] | Annotated[BackboneConfig, Tag("backbone")], Discriminator(_kind)
]
TextTower = Annotated[
    Annotated[TextConfig, Tag("clip")]
    | Annotated[WordVectorsConfig, Tag("words")]
    | Annotated[BertConfig, Tag("bert")]
    | Annotated[DecoderConfig, Tag("decoder")],
    Discriminator(_kind),
]
KINDS = frozenset({"clip", "backbone", "words", "bert", "decoder"})
"""Kinds of towers, which pydantic puts into the path of a problem."""


class ModelConfig(FrozenModel):
    """Dimensions of a CLIP model, in open_clip's field names."""

    embed_dim: Width
    """Dimensions of the space that images and texts share."""
    quick_gelu: bool = False
    """x * sigmoid(1.702 x) in place of GELU, as in OpenAI's own weights."""
    init_logit_scale: float = math.log(1 / 0.07)
    """Log of the inverse temperature at the start. Source: Radford et al. 2021, section 2.5."""
    init_logit_bias: float | None = None
    """Initial value of the bias that the sigmoid loss adds to each logit; None: the model has no such parameter."""
    vision_cfg: VisionTower
    """The image tower."""
    text_cfg: TextTower
    """The text tower."""

    @model_validator(mode="after")
    def _has_width_of_features(self) -> Self:
        for tower in (self.vision_cfg, self.text_cfg):
            if (
                isinstance(tower, ProjectedConfig)
                and not tower.projector_layers
                and tower.feature_width != self.embed_dim
            ):
                raise ValueError(
                    f"projector_layers: a tower without a projector has {tower.feature_width} channels, and the shared "
                    f"space {self.embed_dim}; set 1"
                )
        return self

    def networks(self) -> list[str]:
        """Return the names of the towers' pretrained networks among the registered ones."""
        return [tower.network for tower in (self.vision_cfg, self.text_cfg) if isinstance(tower, ProjectedConfig)]

    def with_vocab_size(self, vocab_size: int) -> "ModelConfig":
        """Return the same model over another vocabulary."""
        text_cfg = self.text_cfg.model_copy(update={"vocab_size": vocab_size})
        return self.model_copy(update={"text_cfg": text_cfg})

    def with_image_size(self, image_size: int) -> "ModelConfig":
        """Return the same model for images of another size.

        Raises: ConfigError if its patches or strides do not divide them.
        """
        try:
            vision_cfg = type(self.vision_cfg).model_validate(
                {**self.vision_cfg.model_dump(), "image_size": image_size}
            )
        except ValidationError as error:
            raise ConfigError(
                f"image_size is {image_size}: {error.errors()[0]['msg'].removeprefix('Value error, ')}"
            ) from error
        return self.model_copy(update={"vision_cfg": vision_cfg})

    def for_sigmoid_loss(self) -> "ModelConfig":
        """Return the same model with the sigmoid loss's initial temperature and bias, unless it has a bias already.

        Source: Zhai et al. 2023 (SigLIP), section 3.2.
        """
        if self.init_logit_bias is not None:
            return self
        return self.model_copy(update={"init_logit_scale": math.log(10), "init_logit_bias": -10.0})


def without_processing(fields: Any) -> Any:
    """Return the fields of a model.json without those that a finished model adds to the dimensions."""
    return (
        {k: v for k, v in fields.items() if k not in ("preprocess", "tokenizer")}
        if isinstance(fields, dict)
        else fields
    )


def load_model_config(name_or_path: str) -> ModelConfig:
    """Read a model's dimensions.

    Args:
        name_or_path: a name in configs/models/, which `-quickgelu` may follow as in open_clip's names, or a path that
            ends in .json, such as the model.json of a finished model.

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
        config = ModelConfig.model_validate(without_processing(json.loads(read_text(path))))
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
        paths = [".".join(str(part) for part in e["loc"] if part not in KINDS) for e in error.errors()]
        problems = "; ".join(f"{path or 'model'}: {e['msg']}" for path, e in zip(paths, error.errors(), strict=True))
        raise ConfigError(f"model {name_or_path!r}: {path}: {problems}") from error
