"""The optional packages that keys of `[train]` need."""

from importlib.util import find_spec
from typing import Any


def check_packages(config: Any) -> list[str]:
    """Return a line for each optional package that the config needs and that is not installed.

    Args:
        config: the TrainConfig, whose module imports this one.
    """
    packages = {"tensorboard": "tensorboard", "wandb": "wandb", "fp8": "torchao"}
    return [
        f"{name}: the package {package} is not installed: pip install -e '.[{name}]'"
        for name, package in packages.items()
        if getattr(config, name) not in (None, False) and find_spec(package) is None
    ]
