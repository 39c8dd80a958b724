"""The recipe that the trainings of these benchmarks share: configs/demo.toml with a frozen image tower.

Without augmentation, the features of the images are computed once for each dataset, and a training takes seconds.
"""

import tomllib
from pathlib import Path
from typing import Any

from plugins.demo.command import CONFIG
from training.config import TrainConfig

Change = dict[str, Any]


def read_train_table(path: Path) -> Change:
    """Return the table `[train]` of a config file."""
    return tomllib.loads(path.read_text("utf-8"))["train"]


FROZEN: Change = {
    "image_init": read_train_table(CONFIG)["image_init"] | {"frozen": True},
    "lock_image": False,
    "unlocked_image_groups": 0,
    "augment": {},
}


def freeze_images(path: Path) -> TrainConfig:
    """Return the training of a config file with a frozen image tower."""
    return TrainConfig.model_validate(read_train_table(path) | FROZEN)


def change_recipe(config: TrainConfig, changes: Change) -> TrainConfig:
    """Return a recipe with other values."""
    return TrainConfig.model_validate(config.model_dump(exclude_unset=True) | changes)
