"""The table `[train.image_init]`."""

from typing import Annotated

from pydantic import Field, field_validator

from training.backbones import find_backbone
from training.options.pretrained import PretrainedConfig

Channels = tuple[float, float, float]


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
    mean: Channels | None = None
    """Mean of the channels that the backbone was trained with, of values from 0 to 1. Default: the architecture's."""
    std: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] | None = (
        None
    )
    """Their standard deviation."""

    @field_validator("architecture")
    @classmethod
    def _is_known(cls, value: str) -> str:
        find_backbone(value)
        return value
