"""What cannot be exported, and why; known from a model's dimensions and the installed packages, without torch."""

from importlib.util import find_spec
from typing import Literal

from dataops.errors import ConfigError
from training.model_config import ModelConfig, TextConfig, VisionConfig

Format = Literal["open_clip", "hf", "onnx"]
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime")}
"""Packages that the export to a format needs beside those of every installation."""


def check_packages(form: Format) -> None:
    """Raise a ConfigError with the remedy if a package is missing that the export to a format needs."""
    if missing := [name for name in PACKAGES.get(form, ()) if find_spec(name) is None]:
        raise ConfigError(f"{form}: {', '.join(missing)} not installed: pip install -e '.[export]'")


def check_model(config: ModelConfig, form: Format) -> None:
    """Raise a ConfigError with the remedy if a format cannot hold a model: a ResNet or a sigmoid model as hf, or
    pretrained towers as any but onnx.
    """
    is_plain = isinstance(config.vision_cfg, VisionConfig) and isinstance(config.text_cfg, TextConfig)
    if form != "onnx" and not is_plain:
        raise ConfigError(f"{form}: this layout has no model with towers of text_init or image_init; export as onnx")
    if form == "hf" and config.init_logit_bias is not None:
        raise ConfigError("hf: transformers' CLIP has no logit_bias; export as open_clip")
    if form == "hf" and isinstance(config.vision_cfg, VisionConfig) and isinstance(config.vision_cfg.layers, tuple):
        raise ConfigError("hf: transformers has no CLIP with a ResNet; export as open_clip or onnx")
