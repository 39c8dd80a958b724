"""The recipe that the trainings of these benchmarks share: configs/demo.toml from a random layer, without augmentation.

The features of the images are computed once for each dataset, and a training takes seconds.
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
    "image_init": read_train_table(CONFIG)["image_init"] | {"stages": [], "copies": 0, "dropout": 0.0},
    "text_init": read_train_table(CONFIG)["text_init"] | {"centred": False},
    "start": "random",
    "image_size": 80,
    "batch_size": 128,
    "lr": 0.001,
    "augment": {},
}
"""The recipe before the closed form, on which the options were measured."""


def freeze_images(path: Path) -> TrainConfig:
    """Return the training of a config file with a frozen image tower."""
    return TrainConfig.model_validate(read_train_table(path) | FROZEN)


def change_recipe(config: TrainConfig, changes: Change) -> TrainConfig:
    """Return a recipe with other values."""
    return TrainConfig.model_validate(config.model_dump(exclude_unset=True) | changes)
