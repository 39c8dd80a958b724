"""The exporter `onnx`. No torch is imported here."""

from pathlib import Path
from typing import TYPE_CHECKING

from training.exporters.exporter import Exporter

if TYPE_CHECKING:
    from training.model.checkpoint import LoadedModel


class _Onnx(Exporter):
    packages = ("onnx", "onnxscript", "onnxruntime")
    extra = "onnx"
    use = 'onnxruntime.InferenceSession("{out}/image.onnx"), onnxruntime.InferenceSession("{out}/text.onnx")'

    def write(self, loaded: "LoadedModel", output: Path, final: Path) -> None:
        from plugins.onnx.graphs import export_onnx

        export_onnx(loaded, output)


ONNX = _Onnx()
