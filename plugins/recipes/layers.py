"""Learning rates that fall with the depth of a layer, and norms that stay as they are."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from training.hooks import TrainingHook
from training.model_config import FrozenModel

if TYPE_CHECKING:
    from torch import nn

    from training.config import TrainConfig
    from training.model.clip import CLIP


class LayersConfig(FrozenModel):
    """Settings of layers."""

    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor between the learning rates of neighbouring groups of layers (see unlocked_image_groups): the last group of
    each tower has `lr`, each before it this factor less; 1: none."""
    lock_norms: bool = False
    """Keep all layer and batch norms as `init` has them, the statistics of batch norms included."""


class _Layers(TrainingHook):
    config = LayersConfig

    def check(self, config: "TrainConfig") -> None:
        if self.settings(config).lock_norms and not config.pretrained_towers:
            raise ValueError("lock_norms: norms at their start have nothing to keep; set init")

    def lock(self, model: "CLIP", config: "TrainConfig") -> None:
        from torch import nn
        from torch.nn.modules.batchnorm import _BatchNorm

        if self.settings(config).lock_norms:
            for module in model.modules():
                if isinstance(module, nn.LayerNorm | _BatchNorm):
                    module.requires_grad_(False)

    def scale_rates(self, model: "CLIP", config: "TrainConfig") -> "dict[nn.Parameter, float]":
        from training.loop.initial_model import group_layers

        decay = self.settings(config).layer_decay
        if decay == 1:
            return {}
        scales = {}
        for tower in group_layers(model):
            for depth, parameters in enumerate(reversed(tower)):
                scales |= dict.fromkeys(parameters, decay**depth)
        return scales


LAYERS = _Layers()
