"""onnxruntime computes the features of an export as we do."""

import json

import numpy as np
import pytest
import torch

from plugins.export.graphs import Graph
from tests.trainings import RESNET, VIT
from training.export import export
from training.model.checkpoint import load_model, save_model
from training.model.clip import CLIP
from training.model.preprocess import Preprocess
from training.model.tokenizer import train_tokenizer
from training.model_config import ModelConfig

CAPTIONS = ["a red kite", "Two cats,  one dog's BONE", "a temple roof, and a flower " * 4, ""]


def build(folder, dimensions):
    tokenizer = train_tokenizer(CAPTIONS, 300, 16)
    torch.manual_seed(0)
    config = ModelConfig.model_validate(dimensions).with_vocab_size(tokenizer.vocab_size)
    save_model(folder, CLIP(config), tokenizer, Preprocess(32))
    return load_model(folder)


@pytest.mark.parametrize("name", ["resnet", "text", "vit of timm"])
def test_graph_of_a_tower_takes_any_number_of_rows(name):
    """torch.export refuses a graph for one number of rows only, such as from `len` of a batch."""
    model = CLIP(ModelConfig.model_validate(RESNET))
    if name == "vit of timm":
        vit = pytest.importorskip("plugins.towers.networks.vit")
        tower = vit.ViT(image_size=32, patch_size=16, width=16, layers=1, heads=2)
    else:
        tower = {"resnet": model.visual, "text": Graph(model, "encode_text")}[name]
    example = torch.ones(2, 5, dtype=torch.int64) if name == "text" else torch.zeros(2, 3, 32, 32)
    rows = torch.export.Dim("rows", min=1)
    assert torch.export.export(tower.eval(), (example,), dynamic_shapes=({0: rows},))


@pytest.mark.timeout(180)
@pytest.mark.parametrize("dimensions", [VIT, RESNET], ids=["vit", "resnet"])
def test_onnxruntime_runs_an_export(dimensions, tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    loaded, folder = build(tmp_path, dimensions), tmp_path / "out"
    export(loaded, "onnx", folder)

    def run(name, tensor):
        session = onnxruntime.InferenceSession(str(folder / f"{name}.onnx"))
        return session.run(None, {session.get_inputs()[0].name: tensor.numpy()})[0]

    pixels, tokens = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), loaded.tokenizer(CAPTIONS)
    with torch.no_grad():
        images, texts = loaded.model.encode_image(pixels), loaded.model.encode_text(tokens)
    for count in (1, 2):
        np.testing.assert_allclose(run("image", pixels[:count]), images[:count], atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(run("text", tokens), texts, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(run("text", loaded.tokenizer(CAPTIONS[:1])), texts[:1], atol=1e-4, rtol=1e-4)
    card = json.loads((folder / "model.json").read_text())
    assert card["logit_scale"] == pytest.approx(float(loaded.model.logit_scale))
