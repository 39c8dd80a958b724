"""Export to two ONNX graphs, image.onnx and text.onnx, for any batch size; onnxruntime's features are compared with ours.

    image.onnx  pixel_values float (B, 3, S, S), normalised  ->  image_features (B, D), not normalised
    text.onnx   input_ids int64 (B, L)                       ->  text_features (B, D), not normalised

Beside them: model.json, with the preprocessing and logit_scale, and the tokenizer's files.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dataops.errors import ContractError
from plugins.export.layouts import export_tokenizer
from training.model.checkpoint import LoadedModel, write_atomically

OPSET = 18
TOLERANCE = 1e-4
"""Maximum difference of a feature, as a share of the greatest one."""


class Graph(nn.Module):
    """Images (B, 3, S, S) or token ids (B, L) to the features (B, D) by a model's `encode_image` or `encode_text`."""

    def __init__(self, model: Any, encode: str):
        super().__init__()
        self.model = model
        self.encode = encode

    def forward(self, inputs: Tensor) -> Tensor:
        return getattr(self.model, self.encode)(inputs)


def export_onnx(loaded: LoadedModel, output: Path) -> None:
    """Write both graphs, model.json and the tokenizer's files.

    Raises: ContractError if a graph computes something else.
    """
    import onnxruntime  # pyright: ignore[reportMissingImports]

    side, length = loaded.config.vision_cfg.image_size, loaded.config.text_cfg.context_length
    vocab_size = loaded.config.text_cfg.vocab_size
    generator = torch.Generator().manual_seed(0)

    def images(count: int) -> Tensor:
        return torch.randn(count, 3, side, side, generator=generator)

    def texts(count: int, tokens: int) -> Tensor:
        ids = torch.randint(1, vocab_size - 1, (count, tokens), generator=generator)
        ids[:, -1] = vocab_size - 1
        return ids

    batch, tokens = torch.export.Dim("batch", min=1), torch.export.Dim("tokens", min=2, max=length)
    for name, input_name, dynamic, examples in (
        ("image", "pixel_values", {0: batch}, [images(2), images(1), images(5)]),
        ("text", "input_ids", {0: batch, 1: tokens}, [texts(2, 7), texts(1, 3), texts(5, length)]),
    ):
        tower, path = Graph(loaded.model, f"encode_{name}"), output / f"{name}.onnx"
        _write_graph(tower, examples[0], path, input_name, f"{name}_features", dynamic)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        for example in examples:
            _compare(name, tower, session.run(None, {input_name: example.numpy()})[0], example)
    card = {**loaded.config.model_dump(mode="json"), "preprocess": loaded.preprocess.facts()}
    card |= {"tokenizer": loaded.tokenizer.facts(), "logit_scale": float(loaded.model.logit_scale)}
    write_atomically(output / "model.json", json.dumps(card, indent=2) + "\n")
    export_tokenizer(loaded.tokenizer, output)


def _write_graph(
    tower: nn.Module, example: Tensor, path: Path, input_name: str, output_name: str, dynamic: dict[int, Any]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns about its own internals
        program = torch.onnx.export(
            tower.eval(),
            (example,),
            input_names=[input_name],
            output_names=[output_name],
            dynamic_shapes=(dynamic,),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(path)


def _compare(name: str, tower: nn.Module, found: Any, example: Tensor) -> None:
    with torch.no_grad():
        expected = tower(example)
    difference = float((torch.from_numpy(found) - expected).abs().max() / expected.abs().max())
    if not difference <= TOLERANCE:
        raise ContractError(
            f"onnx: the features of {name}.onnx differ from ours by {difference:.1e} of the greatest, more than {TOLERANCE}"
        )
