"""`train.layer_decay`: learning rates that fall with the depth of a layer. Source: Bao et al. 2022 (BEiT), table 9."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from dataops.config import FrozenModel
from training.step_hooks import StepHook

if TYPE_CHECKING:
    from torch import nn

    from training.config import TrainConfig
    from training.model.clip import CLIP


class LayersConfig(FrozenModel):
    """The key of layers."""

    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor between the learning rates of neighbouring groups of layers (see unlocked_image_groups): the last group of
    each tower has `lr`, and each before it this factor of the next one's. 1: all have `lr`."""


class _Layers(StepHook):
    config = LayersConfig

    def scale_rates(self, model: "CLIP", config: "TrainConfig") -> "dict[nn.Parameter, float]":
        from training.loop.initial_model import group_layers

        decay = self.settings(config).layer_decay
        towers = [enumerate(reversed(groups)) for groups in group_layers(model)]
        return {one: decay**depth for tower in towers for depth, group in tower for one in group}


LAYERS = _Layers()
