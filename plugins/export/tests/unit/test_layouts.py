"""An exported model gives the same results in other tools as in ours."""

import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from tests.photographs import CAPTIONS, sample_images
from tests.trainings import RESNET, VIT
from training.export import export
from training.model.checkpoint import load_model, save_model
from training.model.clip import CLIP
from training.model.load import load_any
from training.model.preprocess import Preprocess
from training.model.tokenizer import make_tokenizer, train_tokenizer
from training.model_config import ModelConfig

pytestmark = pytest.mark.xdist_group("open_clip")
MODELS = [("vit", "clip"), ("vit", "captions"), ("resnet", "captions")]
TOWERS = {"vit": {**VIT["vision_cfg"], "width": 128, "head_width": 64}, "resnet": RESNET["vision_cfg"]}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
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


def features(loaded):
    with torch.no_grad():
        images = loaded.model.encode_image(torch.stack([loaded.preprocess(image) for image in sample_images()]))
        return images, loaded.model.encode_text(loaded.tokenizer(CAPTIONS))


def exported(loaded, form, folder):
    export(loaded, form, folder)
    return folder


@pytest.mark.parametrize("kind", MODELS, ids="-".join)
def test_open_clip_loads_an_export(models, kind, tmp_path):
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
def test_an_export_to_open_clip_is_read_back_without_it(models, kind, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    loaded, found = models[kind], load_any(exported(models[kind], "open_clip", tmp_path / "out"))
    assert found.tokenizer(CAPTIONS).equal(loaded.tokenizer(CAPTIONS))
    expected = loaded.model.state_dict()
    assert found.model.state_dict().keys() == expected.keys()
    assert all(tensor.equal(expected[name]) for name, tensor in found.model.state_dict().items())
    for image in sample_images():
        assert found.preprocess(image).equal(loaded.preprocess(image))


def test_open_clip_reads_an_exported_vocabulary(models, tmp_path):
    pytest.importorskip("transformers")
    open_clip = pytest.importorskip("open_clip")
    loaded = models["vit", "captions"]
    folder = exported(loaded, "open_clip", tmp_path / "out")
    tokens = F.pad(ids := loaded.tokenizer(CAPTIONS), (0, 16 - ids.shape[1]))
    assert open_clip.get_tokenizer(f"local-dir:{folder}")(CAPTIONS).equal(tokens)


@pytest.mark.parametrize("vocabulary", ["clip", "captions"])
def test_transformers_loads_an_export(models, vocabulary, tmp_path):
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
