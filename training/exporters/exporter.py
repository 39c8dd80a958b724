"""The seam of exporters: how a finished model is written for another tool, and the core's own. No torch is imported here.

`pairmill.exporters` registers them by the name that `pairmill export --format` takes.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from dataops import plugins
from dataops.errors import ConfigError
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


class Exporter:
    """Writes a finished model in the format of another tool."""

    packages: tuple[str, ...] = ()
    """Import names of the packages that it needs beside those of every installation."""
    extra: str = ""
    """Extra of pairmill that brings them."""
    use: str
    """Python code that loads the export from the folder `{out}`."""

    def check(self, config: ModelConfig) -> None:
        """Raise a ConfigError with the remedy if the format cannot hold a model."""

    def write(self, loaded: "LoadedModel", output: Path, final: Path) -> None:
        """Write a model into an existing folder.

        Args:
            final: folder where the files will lie.
        """
        raise NotImplementedError


class _OpenClip(Exporter):
    use = 'open_clip.create_model_and_transforms("local-dir:{out}")'

    def check(self, config: ModelConfig) -> None:
        vision, text = config.vision_cfg, config.text_cfg
        for name, tower, layers in (("image", vision, 1), ("text", text, 0)):
            if isinstance(tower, ProjectedConfig) and (tower.projector_norm or tower.projector_layers != layers):
                raise ConfigError(
                    f"open_clip: its {name} tower has no layer norm after the network, and {layers} linear layers: train "
                    f"with {name}_init.projector_norm = false and {name}_init.projector_layers = {layers}; export as onnx"
                )
        if isinstance(vision, BackboneConfig) and vision.stages:
            raise ConfigError(
                "open_clip: its image tower reads the end of timm's network alone, and this one also its stages "
                f"{', '.join(map(str, vision.stages))}: train with image_init.stages = [], or export as onnx"
            )
        if isinstance(vision, BackboneConfig) and vision.is_transformer and vision.image_size != vision.own_image_size:
            raise ConfigError(
                f"open_clip: it builds {vision.architecture} for {vision.own_image_size} pixels, and this one has "
                f"{vision.image_size}; export as onnx"
            )
        if isinstance(text, WordVectorsConfig):
            raise ConfigError("open_clip: it has no tower of word vectors; export as onnx")
        if isinstance(text, DecoderConfig):
            raise ConfigError(
                "open_clip: a tower of a decoder language model is not exported; load the model by pairmill"
            )

    def write(self, loaded: "LoadedModel", output: Path, final: Path) -> None:
        from training.exporters.layouts import export_open_clip

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
        from training.exporters.layouts import export_hf

        export_hf(loaded, output)


OPEN_CLIP, HUGGING_FACE = _OpenClip(), _HuggingFace()


def find_exporter(form: str) -> Exporter:
    """Return the exporter of a format. Raises: ConfigError if there is none, or a package that it needs is missing."""
    exporter: Exporter = plugins.find("exporters", form)
    plugins.require(exporter.packages, exporter.extra, form)
    return exporter
