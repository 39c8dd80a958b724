"""The exporters `open_clip`, `hf` and `onnx`. No torch is imported here."""

from pathlib import Path
from typing import TYPE_CHECKING

from dataops.errors import ConfigError
from training.backbones import find_backbone
from training.exporter import Exporter
from training.model_config import (
    BackboneConfig,
    DecoderConfig,
    ModelConfig,
    ProjectedConfig,
    TextConfig,
    VisionConfig,
    WordVectorsConfig,
)

if TYPE_CHECKING:
    from training.model.checkpoint import LoadedModel


class _OpenClip(Exporter):
    use = 'open_clip.create_model_and_transforms("local-dir:{out}")'

    def check(self, config: ModelConfig) -> None:
        vision, text = config.vision_cfg, config.text_cfg
        if isinstance(vision, BackboneConfig) and vision.stages:
            raise ConfigError(
                "open_clip: its own image tower reads the end of timm's network alone, and this one also its stages "
                f"{', '.join(map(str, vision.stages))}: train with image_init.stages = [], or export as onnx"
            )
        for name, tower, layers in (("image", vision, 1), ("text", text, 0)):
            if isinstance(tower, ProjectedConfig) and (tower.projector_norm or tower.projector_layers != layers):
                raise ConfigError(
                    f"open_clip: its own {name} tower has no layer norm after the network, and {layers} linear layers: "
                    f"train with {name}_init.projector_norm = false and {name}_init.projector_layers = {layers}, or "
                    "export as onnx"
                )
        if isinstance(vision, BackboneConfig) and vision.network == "vit":
            own = find_backbone(vision.architecture).image_size
            if vision.image_size != own:
                raise ConfigError(
                    f"open_clip: it builds {vision.architecture} for {own} pixels, and this one has "
                    f"{vision.image_size}; export as onnx"
                )
        if isinstance(text, WordVectorsConfig):
            raise ConfigError("open_clip: it has no tower of word vectors; export as onnx")
        if isinstance(text, DecoderConfig):
            raise ConfigError(
                "open_clip: a tower of a decoder language model is not exported; load the model by pairmill"
            )

    def write(self, loaded: "LoadedModel", output: Path, final: Path) -> None:
        from plugins.export.layouts import export_open_clip

        export_open_clip(loaded, output, final)


class _HuggingFace(Exporter):
    use = (
        'transformers.CLIPModel.from_pretrained("{out}"), '
        'transformers.CLIPProcessor.from_pretrained("{out}", backend="pil")'
    )

    def check(self, config: ModelConfig) -> None:
        vision = config.vision_cfg
        if not (isinstance(vision, VisionConfig) and isinstance(config.text_cfg, TextConfig)):
            raise ConfigError("hf: this layout has no model with towers of text_init or image_init; export as onnx")
        if config.init_logit_bias is not None:
            raise ConfigError("hf: transformers' CLIP has no logit_bias; export as open_clip")
        if isinstance(vision.layers, tuple):
            raise ConfigError("hf: transformers has no CLIP with a ResNet; export as open_clip or onnx")

    def write(self, loaded: "LoadedModel", output: Path, final: Path) -> None:
        from plugins.export.layouts import export_hf

        export_hf(loaded, output)


class _Onnx(Exporter):
    packages = ("onnx", "onnxscript", "onnxruntime")
    extra = "onnx"
    use = 'onnxruntime.InferenceSession("{out}/image.onnx"), onnxruntime.InferenceSession("{out}/text.onnx")'

    def check(self, config: ModelConfig) -> None:
        if isinstance(config.text_cfg, DecoderConfig):
            raise ConfigError("onnx: a tower of a decoder language model is not exported; load the model by pairmill")

    def write(self, loaded: "LoadedModel", output: Path, final: Path) -> None:
        from plugins.export.graphs import export_onnx

        export_onnx(loaded, output)


OPEN_CLIP, HUGGING_FACE, ONNX = _OpenClip(), _HuggingFace(), _Onnx()
