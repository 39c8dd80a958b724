"""What cannot be exported, and why; known from a model's dimensions and the installed packages, without torch."""

from importlib.util import find_spec
from typing import Literal

from dataops.errors import ConfigError
from training.model_config import (
    BackboneConfig,
    ModelConfig,
    ProjectedConfig,
    TextConfig,
    VisionConfig,
    WordVectorsConfig,
)

Format = Literal["open_clip", "hf", "onnx"]
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime")}
"""Packages that the export to a format needs beside those of every installation."""


def check_packages(form: Format) -> None:
    """Raise a ConfigError with the remedy if a package is missing that the export to a format needs."""
    if missing := [name for name in PACKAGES.get(form, ()) if find_spec(name) is None]:
        raise ConfigError(f"{form}: {', '.join(missing)} not installed: pip install -e '.[export]'")


def check_model(config: ModelConfig, form: Format) -> None:
    """Raise a ConfigError with the remedy if a format cannot hold a model: a ResNet, a sigmoid model or pretrained towers
    as hf; towers that are none of open_clip's as open_clip.
    """
    vision, text = config.vision_cfg, config.text_cfg
    is_plain = isinstance(vision, VisionConfig) and isinstance(text, TextConfig)
    if form == "hf" and not is_plain:
        raise ConfigError("hf: this layout has no model with towers of text_init or image_init; export as onnx")
    if form == "open_clip" and (problem := _find_open_clip_problem(config)):
        raise ConfigError(f"open_clip: {problem}; export as onnx")
    if form == "hf" and config.init_logit_bias is not None:
        raise ConfigError("hf: transformers' CLIP has no logit_bias; export as open_clip")
    if form == "hf" and isinstance(vision, VisionConfig) and isinstance(vision.layers, tuple):
        raise ConfigError("hf: transformers has no CLIP with a ResNet; export as open_clip or onnx")


def _find_open_clip_problem(config: ModelConfig) -> str | None:
    """Return why open_clip's own towers cannot be those of a model, or None."""
    vision, text = config.vision_cfg, config.text_cfg
    for name, tower, layers in (("image", vision, 1), ("text", text, 0)):
        if isinstance(tower, ProjectedConfig) and (tower.projector_norm or tower.projector_layers != layers):
            return (
                f"its {name} tower has no layer norm after the network, and {layers} linear layers: train with "
                f"{name}_init.projector_norm = false and {name}_init.projector_layers = {layers}"
            )
    if isinstance(vision, BackboneConfig) and vision.is_transformer and vision.image_size != vision.own_image_size:
        return (
            f"it builds {vision.architecture} for {vision.own_image_size} pixels, and this one has {vision.image_size}"
        )
    return "it has no tower of word vectors" if isinstance(text, WordVectorsConfig) else None
