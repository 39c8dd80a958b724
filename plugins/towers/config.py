"""The tables `[train.image_init]` and `[train.text_init]`: where weights lie, and what is trained on top. No torch here."""

from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, field_validator, model_validator

from dataops.config import ConfigPath, FrozenModel
from training.backbones import find_backbone

Channels = tuple[float, float, float]


class StartConfig(FrozenModel):
    """What the layer between two frozen towers starts from."""

    start: Literal["random", "least_squares"] = "random"
    """Weights of the layer that maps images into the space of the texts. least_squares: the solution of a ridge regression
    of the captions' features on those of their images, whitened as the captions would be; it needs two frozen towers and
    `image_init.projector_layers` = 1. Its gain is large where pairs are few. A few hundred steps then improve it, from a
    temperature of e^-3, and the finished layer is three parts its first and one part its last weights; with `keep` =
    "best" the best."""
    start_ridge: Annotated[float, Field(gt=0)] = 0.03
    """Ridge of that regression, for numbers of unit variance and the mean over all pairs."""


class PretrainedConfig(FrozenModel):
    """A tower that starts from pretrained weights, and a projector on it that starts at random."""

    package: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = None
    """Installed Python package that ships the weights. None of its code is run."""
    path: Annotated[ConfigPath, Field(min_length=1)] | None = None
    """File or folder of the weights, in place of a package."""
    file: Annotated[str, Field(min_length=1)] | None = None
    """Name of the weights inside the package or folder; needed if there are several."""
    license: Annotated[str, Field(max_length=100)] = ""
    """Licence of the weights, as their owner states it. Default: that of the package's metadata. The model card has it."""
    lr_scale: NonNegativeFloat = 1.0
    """Factor of the learning rate of the loaded weights; the projector has `lr`."""
    cache: bool = True
    """Compute the features of a frozen tower once, and keep them on disk. The job's log names what rules it out."""
    projector_layers: Annotated[int, Field(ge=0, le=8)] = 1
    """Linear layers between the feature and the shared space, with a GELU between any two, and a layer norm before them.
    An MLP of two or more follows arXiv 2409.19425. 0: only the norm, so that the shared space is that of the feature, and
    has its width in place of the model's embed_dim."""
    projector_norm: bool = True
    """Normalise the feature before those layers. Without the norm, and with one layer on images and none on texts, the
    model can be exported to open_clip's own layout."""
    projector_width: Annotated[int, Field(ge=1, le=65_536)] = 1024
    """Channels between two of those layers."""

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if (self.package is None) == (self.path is None):
            raise ValueError("set either package or path: where the weights lie")
        if self.path is not None and not self.license:
            raise ValueError("license: a file states none; set the licence of the weights, which the model card names")
        for name in filter(None, (self.file, getattr(self, "tokenizer", None))):
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise ValueError(f"{name}: name a file inside the package or folder")
        return self


class ImageInit(PretrainedConfig):
    """Pretrained weights that the image tower starts from, in place of the image tower of `model`.

    The file holds a state dict with timm's names, or those of EfficientNet-PyTorch. `image_size` sets the input's side;
    default: that of the architecture. Pixels are normalised as the backbone expects them.
    """

    architecture: str
    """Network of the weights, by timm's name, such as tf_efficientnet_lite0, resnet50 or vit_small_patch16_224."""
    frozen: bool = False
    """Train only the projector. Without augment and crop_area, the features of the images are then computed once, from
    the square at the centre."""
    stages: tuple[int, ...] = ()
    """Stages of the network whose outputs, as means over all positions, are joined to the feature of its end: from 1, and
    of a vision transformer its blocks. They hold what the end does not: colours, strokes and textures. No other tool reads
    such a tower, so the model is exported as ONNX only."""
    grid: Annotated[int, Field(ge=1, le=4)] = 1
    """Cells along each side of a grid: each output of `stages` has a mean over each cell in place of one over all of it.
    With 2 it has four times as many numbers, which also tell what is at the top or the bottom, on the left or the right."""
    copies: Annotated[int, Field(ge=0, le=100)] = 0
    """Copies of each image, changed as `augment` says, whose features are computed once beside those of the plain image.
    Each visit of a sample draws one of them. Without copies, augment has the features computed at each step."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the numbers of a computed feature that is set to 0 at each visit; the others are scaled up."""
    mean: Channels | None = None
    """Mean of the channels that the backbone was trained with, of values from 0 to 1. Default: the architecture's."""
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None
    """Their standard deviation."""

    @field_validator("architecture")
    @classmethod
    def _is_known(cls, value: str) -> str:
        find_backbone(value)
        return value


class TextInit(PretrainedConfig):
    """Pretrained weights that the text tower starts from, with their vocabulary, in place of the transformer of `model`.

    Its context length is that of `model`. Sources: word vectors: Arora et al. 2017 (their mean as the baseline of a
    sentence's vector); sentence encoders: Reimers and Gurevych 2019 (Sentence-BERT).
    """

    centred: bool = False
    """Subtract the mean of all captions' features from each, inside the network. Features of sentences point into one
    direction, and differ little from each other before it is subtracted. It needs a frozen tower."""
    kind: Literal["words", "bert", "decoder"]
    """words: a matrix with a vector for each word or token in a .safetensors file, and beside it a tokenizer.json
    or a list with a word a line (.txt); a text is the mean of its vectors. bert: a folder with a config.json of model_type
    "bert", a tokenizer.json and the weights; a text is the mean of its tokens, or the first one as 1_Pooling/config.json
    states. decoder: a folder with the config.json of a language model that transformers builds, a tokenizer.json and the
    weights in safetensors files."""
    pooling: Literal["last", "mean"] | None = None
    """Feature of a text of a decoder: its last token (default), or the mean of its tokens."""
    tokenizer: Annotated[str, Field(min_length=1)] | None = None
    """Name of the tokenizer.json or list of words inside the package or folder; needed if there are several."""
    frozen: bool = True
    """Train only the projector. Without word_dropout, the features of the captions are then computed once."""

    @model_validator(mode="after")
    def _pools_a_decoder(self) -> Self:
        if self.pooling is not None and self.kind != "decoder":
            raise ValueError(f"pooling: a tower of kind {self.kind} has its own; remove pooling")
        return self
