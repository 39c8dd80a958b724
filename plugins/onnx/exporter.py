"""The exporter `onnx`. No torch is imported here."""

from pathlib import Path
from typing import TYPE_CHECKING

from dataops.errors import ConfigError
from training.exporters.exporter import Exporter
from training.model_config import DecoderConfig, ModelConfig

if TYPE_CHECKING:
    from training.model.checkpoint import LoadedModel


class _Onnx(Exporter):
    packages = ("onnx", "onnxscript", "onnxruntime")
    extra = "onnx"
    use = 'onnxruntime.InferenceSession("{out}/image.onnx"), onnxruntime.InferenceSession("{out}/text.onnx")'

    def check(self, config: ModelConfig) -> None:
        if isinstance(config.text_cfg, DecoderConfig):
            raise ConfigError("onnx: a tower of a decoder language model is not exported; load the model by pairmill")

    def write(self, loaded: "LoadedModel", output: Path, final: Path) -> None:
        from plugins.onnx.graphs import export_onnx

        export_onnx(loaded, output)


ONNX = _Onnx()
