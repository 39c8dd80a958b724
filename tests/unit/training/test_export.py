"""An exported model gives the same results in other tools as in ours."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.nn import functional as F

from dataops.errors import ConfigError
from tests.trainings import RESNET, VIT
from training.export import Format, export, main
from training.exporters import limits
from training.exporters.onnx_graph import TextGraph
from training.model.checkpoint import LoadedModel, load_model, save_model
from training.model.clip import CLIP
from training.model.load import load_any
from training.model.preprocess import Preprocess
from training.model.tokenizer import make_tokenizer, train_tokenizer
from training.model_config import ModelConfig
from training.towers.vit import ViT

CAPTIONS = ["a red kite", "Two cats,  one dog's BONE", "café in Paris 2019", "a temple roof, and a flower " * 4, ""]
MODELS = [("vit", "clip"), ("vit", "captions"), ("resnet", "captions")]
TOWERS = {"vit": {**VIT["vision_cfg"], "width": 128, "head_width": 64}, "resnet": RESNET["vision_cfg"]}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], LoadedModel]:
    """Build finished models with random weights, of both towers and both kinds of vocabulary."""
    if not any(Path(torch.__file__).parents[1].glob("open_clip")):
        pytest.skip("open_clip brings the merges of CLIP's vocabulary")
    models_by_name = {}
    for tower, vocabulary in MODELS:
        tokenizer = make_tokenizer("clip", [], 0, 16) if vocabulary == "clip" else train_tokenizer(CAPTIONS, 300, 16)
        text = {"context_length": 16, "vocab_size": tokenizer.vocab_size, "width": 64, "heads": 2, "layers": 2}
        torch.manual_seed(0)
        config = {"embed_dim": 24, "quick_gelu": vocabulary == "clip", "vision_cfg": TOWERS[tower], "text_cfg": text}
        folder = tmp_path_factory.mktemp(f"{tower}-{vocabulary}")
        save_model(folder, CLIP(ModelConfig.model_validate(config)), tokenizer, Preprocess(32))
        models_by_name[tower, vocabulary] = load_model(folder)
    return models_by_name


def sample_images() -> list[Image.Image]:
    """Return two photographs; one is cut so that cropping needs no rounding."""
    first, second = (Image.fromarray(array) for array in load_sample_images().images)
    return [first.crop((0, 0, 426, 426)), second.crop((0, 0, 320, 400))]


def features(loaded: LoadedModel) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        images = loaded.model.encode_image(torch.stack([loaded.preprocess(image) for image in sample_images()]))
        return images, loaded.model.encode_text(loaded.tokenizer(CAPTIONS))


def exported(loaded: LoadedModel, form: Format, folder: Path) -> Path:
    export(loaded, form, folder)
    return folder


@pytest.mark.parametrize("kind", MODELS, ids="-".join)
def test_open_clip_loads_an_export(
    models: dict[tuple[str, str], LoadedModel], kind: tuple[str, str], tmp_path: Path
) -> None:
    open_clip = pytest.importorskip("open_clip")
    loaded, folder = models[kind], exported(models[kind], "open_clip", tmp_path / "out")
    theirs, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    images, texts = features(loaded)
    tokens = F.pad(ids := loaded.tokenizer(CAPTIONS), (0, 16 - ids.shape[1]))
    if kind[1] == "clip":
        assert open_clip.get_tokenizer(f"local-dir:{folder}")(CAPTIONS).equal(tokens)
    with torch.no_grad():
        pixels = torch.stack([preprocess(image) for image in sample_images()])
        torch.testing.assert_close(theirs.eval().encode_image(pixels), images, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(theirs.encode_text(tokens), texts, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", MODELS, ids="-".join)
def test_an_export_to_open_clip_is_read_back_without_it(
    models: dict[tuple[str, str], LoadedModel], kind: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    loaded, found = models[kind], load_any(exported(models[kind], "open_clip", tmp_path / "out"))
    assert found.tokenizer(CAPTIONS).equal(loaded.tokenizer(CAPTIONS))
    images, texts = features(loaded)
    with torch.no_grad():
        pixels = torch.stack([found.preprocess(image) for image in sample_images()])
        assert found.model.encode_image(pixels).equal(images)
        assert found.model.encode_text(found.tokenizer(CAPTIONS)).equal(texts)


def test_open_clip_reads_an_exported_vocabulary(models: dict[tuple[str, str], LoadedModel], tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    open_clip = pytest.importorskip("open_clip")
    loaded = models["vit", "captions"]
    folder = exported(loaded, "open_clip", tmp_path / "out")
    tokens = F.pad(ids := loaded.tokenizer(CAPTIONS), (0, 16 - ids.shape[1]))
    assert open_clip.get_tokenizer(f"local-dir:{folder}")(CAPTIONS).equal(tokens)


@pytest.mark.parametrize("vocabulary", ["clip", "captions"])
def test_transformers_loads_an_export(
    models: dict[tuple[str, str], LoadedModel], vocabulary: str, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    loaded = models["vit", vocabulary]
    folder = exported(loaded, "hf", tmp_path / "out")
    theirs, loading_info = transformers.CLIPModel.from_pretrained(folder, output_loading_info=True)
    assert not any(loading_info.values())
    processor = transformers.CLIPProcessor.from_pretrained(folder, backend="pil")
    inputs = processor(text=CAPTIONS, images=sample_images(), return_tensors="pt", padding=True, truncation=True)
    images, texts = (F.normalize(value) for value in features(loaded))
    with torch.no_grad():
        out = theirs.eval()(**inputs)
    torch.testing.assert_close(out.image_embeds, images, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out.text_embeds, texts, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        out.logits_per_image, loaded.model.logit_scale.exp() * images @ texts.T, atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("name", ["resnet", "text", "vit of timm"])
def test_graph_of_a_tower_takes_any_number_of_rows(models: dict[tuple[str, str], LoadedModel], name: str) -> None:
    """torch.export refuses a graph for one number of rows only, such as from `len` of a batch."""
    model = models["resnet", "captions"].model
    towers = {"resnet": model.visual, "text": TextGraph(model)}
    tower = towers.get(name) or ViT(image_size=32, patch_size=16, width=16, layers=1, heads=2)
    example = torch.ones(2, 5, dtype=torch.int64) if name == "text" else torch.zeros(2, 3, 32, 32)
    rows = torch.export.Dim("rows", min=1)
    assert torch.export.export(tower.eval(), (example,), dynamic_shapes=({0: rows},))


@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", MODELS[1:], ids="-".join)
def test_onnxruntime_runs_an_export(
    models: dict[tuple[str, str], LoadedModel], kind: tuple[str, str], tmp_path: Path
) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    loaded = models[kind]
    folder = exported(loaded, "onnx", tmp_path / "out")
    images, texts = features(loaded)

    def run(name: str, tensor: Tensor) -> np.ndarray:
        session = onnxruntime.InferenceSession(str(folder / f"{name}.onnx"))
        return session.run(None, {session.get_inputs()[0].name: tensor.numpy()})[0]

    for count in (1, 2):
        tensor = torch.stack([loaded.preprocess(image) for image in sample_images()[:count]])
        np.testing.assert_allclose(run("image", tensor), images[:count], atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(run("text", loaded.tokenizer(CAPTIONS)), texts, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(run("text", loaded.tokenizer(CAPTIONS[:1])), texts[:1], atol=1e-4, rtol=1e-4)
    card = json.loads((folder / "model.json").read_text())
    assert card["logit_scale"] == pytest.approx(float(loaded.model.logit_scale))


def test_an_unsupported_model_raises_config_error(models: dict[tuple[str, str], LoadedModel], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no CLIP with a ResNet; export as open_clip or onnx"):
        export(models["resnet", "captions"], "hf", tmp_path)


def test_a_missing_package_raises_an_error_that_names_it(
    models: dict[tuple[str, str], LoadedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(limits.PACKAGES, "onnx", ("torch", "no_such_runtime"))
    with pytest.raises(ConfigError, match=r"no_such_runtime not installed: pip install -e '\.\[export\]'"):
        export(models["vit", "clip"], "onnx", tmp_path)


def test_a_failed_job_logs_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "job.json").write_text(json.dumps({"model": "x", "format": "caffe", "output": "y"}))
    assert main([str(tmp_path / "job.json")]) == 2
    (tmp_path / "job.json").write_text(json.dumps({"model": str(tmp_path), "format": "hf", "output": "y"}))
    assert main([str(tmp_path / "job.json")]) == 3
    assert main([]) == 2
