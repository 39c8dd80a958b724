"""The hook of `[train.augment]`. No torch is imported here."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from plugins.augment.config import AugmentConfig
from training.step_hooks import StepHook

if TYPE_CHECKING:
    from torch import Tensor

    from training.config import TrainConfig
    from training.data.loader import Batch


class _Augment(StepHook):
    config, table, changes_images = AugmentConfig, "augment", True

    def is_used(self, config: "TrainConfig") -> bool:
        return self.settings(config) != AugmentConfig()

    def make_inputs(self, batch: "Batch", config: "TrainConfig", seed: int) -> "dict[str, Tensor]":
        from plugins.augment.changes import draw_augmentation

        draws = draw_augmentation(self.settings(config), seed, batch.epoch, batch.samples)
        return {f"augment_{name}": tensor for name, tensor in draws._asdict().items()}

    def change_images(self, images_B3SS: "Tensor", inputs: "Mapping[str, Tensor]", config: "TrainConfig") -> "Tensor":
        from plugins.augment.changes import AugmentDraws, augment

        draws = AugmentDraws(*(inputs[f"augment_{name}"] for name in AugmentDraws._fields))
        return augment(images_B3SS, self.settings(config), draws)


AUGMENT = _Augment()
