"""Weights of open_clip and OpenAI in all their file formats give open_clip's features."""

import json
import pickle
import zipfile

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from dataops.errors import ConfigError, SourceError
from tests.oracles import open_clip
from training.model.clip import CLIP
from training.model.load import load_any
from training.model.pretrained import load_pretrained, load_towers, read_state_dict
from training.model_config import ModelConfig

pytestmark = pytest.mark.xdist_group("open_clip")

TEXT = {"context_length": 12, "vocab_size": 300, "width": 64, "heads": 1, "layers": 2}
RESNET = {"image_size": 32, "layers": [1, 2, 1, 1], "width": 8, "patch_size": None}
VIT = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16}
TOWERS = {"resnet": RESNET, "vit": VIT}


def oracle_of(tower, *, quick_gelu=False, **more):
    """Build open_clip's model with random weights, batch statistics and temperature."""
    torch.manual_seed(0)
    model = open_clip().model.CLIP(16, dict(TOWERS[tower]), dict(TEXT), quick_gelu=quick_gelu, **more).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and tensor.ndim:
                spread = tensor.std() if tensor.numel() > 1 else torch.tensor(1.0)
                tensor.add_(0.05 * (spread + 0.1) * torch.randn_like(tensor).abs())
            elif name == "logit_scale":
                tensor.fill_(3.21)
    return model


def assert_same_features(ours, theirs, atol=1e-5):
    images, tokens = torch.randn(3, 3, 32, 32), torch.randint(0, 299, (3, 12))
    tokens[:, 8] = 299
    with torch.no_grad():
        torch.testing.assert_close(ours.encode_image(images), theirs.encode_image(images), atol=atol, rtol=1e-5)
        torch.testing.assert_close(ours.encode_text(tokens), theirs.encode_text(tokens), atol=atol, rtol=1e-5)
    assert not ours.training
    assert ours.logit_scale == theirs.logit_scale


def torch_save(obj, path):
    torch.save(obj, path)
    return path


def openai_archive(model, path):
    """Write weights as OpenAI published them: traced, in fp16, with three facts among the weights."""

    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.visual, self.transformer, self.token_embedding = model.visual, model.transformer, model.token_embedding
            self.ln_final, self.positional_embedding = model.ln_final, model.positional_embedding
            self.text_projection, self.logit_scale = model.text_projection, model.logit_scale
            for name, value in (("input_resolution", 32), ("context_length", 12), ("vocab_size", 300)):
                self.register_buffer(name, torch.tensor(value))

        def forward(self, images):
            return self.visual(images)

    with torch.no_grad():
        traced = torch.jit.trace(Wrapped().half().float(), torch.randn(1, 3, 32, 32))
    traced.half()
    torch.jit.save(traced, str(path))
    return path


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("form", ["safetensors", "state-dict", "checkpoint", "local-dir"])
def test_features_equal_open_clip(tmp_path, tower, form):
    theirs = oracle_of(tower)
    weights = theirs.state_dict()
    if form == "safetensors":
        source = tmp_path / "weights.safetensors"
        save_file(weights, source)
    elif form == "state-dict":
        source = torch_save(weights, tmp_path / "weights.pt")
    elif form == "checkpoint":
        wrapped = {f"module.{name}": tensor for name, tensor in weights.items()}
        source = torch_save({"epoch": 3, "name": "x", "state_dict": wrapped, "optimizer": {}}, tmp_path / "epoch_3.pt")
    else:
        source = tmp_path
        save_file(weights, source / "open_clip_model.safetensors")
        card = {"embed_dim": 16, "vision_cfg": TOWERS[tower], "text_cfg": TEXT}
        (source / "open_clip_config.json").write_text(json.dumps({"model_cfg": card, "preprocess_cfg": {}}))
    assert_same_features(load_pretrained(source), theirs)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("tower", TOWERS)
def test_an_openai_archive_is_read_without_torch_jit(tmp_path, tower, monkeypatch, caplog):
    theirs = oracle_of(tower, quick_gelu=True).half().float()
    path = openai_archive(theirs, tmp_path / "openai.pt")
    monkeypatch.setattr(torch.jit, "load", None)
    ours = load_pretrained(path)
    assert ours.config.quick_gelu
    theirs = oracle_of(tower, quick_gelu=True).half().float()
    assert_same_features(ours, theirs)
    for quick_gelu in (True, False):
        assert "-quickgelu" not in caplog.text
        load_towers(CLIP(ours.config.model_copy(update={"quick_gelu": quick_gelu})), path, image_only=quick_gelu)
    assert "set train.model to a name that ends in -quickgelu" in caplog.text


def test_a_model_with_custom_text_and_bias_is_read(tmp_path):
    theirs = oracle_of("vit", init_logit_bias=-10.0)
    text = ("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection")
    weights = {f"text.{n}" if n.startswith(text) else n: t for n, t in theirs.state_dict().items()}
    weights["logit_scale"] = weights["logit_scale"].reshape(1)
    save_file(weights, tmp_path / "w.safetensors")
    ours = load_pretrained(tmp_path / "w.safetensors")
    assert_same_features(ours, theirs)
    assert ours.logit_bias == theirs.logit_bias


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('the pickle was run')",))


def test_no_pickle_is_run(tmp_path):
    path = torch_save({"state_dict": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ConfigError, match=r"cannot be read safely.*safetensors"):
        read_state_dict(path)
    (tmp_path / "bare.bin").write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(ConfigError, match="cannot be read safely"):
        read_state_dict(tmp_path / "bare.bin")
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("script/constants.pkl", b"")
        archive.writestr("script/data.pkl", pickle.dumps({"weight": Evil()}))
    with pytest.raises(ConfigError, match="not the weights of a CLIP"):
        load_pretrained(tmp_path / "script.pt")


def test_weights_of_another_model_raise_config_error(tmp_path):
    weights = oracle_of("vit").state_dict()
    wider = ModelConfig.model_validate({"embed_dim": 32, "vision_cfg": VIT, "text_cfg": TEXT})
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match=r"visual\.proj is torch.float32 \(64, 16\), not torch.float32 \(64, 32\)"):
        load_pretrained(tmp_path / "w.safetensors", wider)
    save_file({**weights, "visual.proj": weights["visual.proj"].to(torch.int8)}, tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match=r"visual\.proj is torch.int8 \(64, 16\), not torch.float32"):
        load_pretrained(tmp_path / "w.safetensors")
    del weights["ln_final.bias"]
    save_file({**weights, "visual.trunk.weight": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match=r"ln_final\.bias is missing, visual\.trunk\.weight is not of this model"):
        load_pretrained(tmp_path / "w.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match="not the weights of a CLIP"):
        load_pretrained(tmp_path / "w.safetensors")
    torch.save([1, 2], tmp_path / "w.pt")
    with pytest.raises(ConfigError, match="holds no state dict"):
        load_pretrained(tmp_path / "w.pt")
    (tmp_path / "open_clip_config.json").write_text('{"model_cfg": {"custom_text": true}}')
    with pytest.raises(ConfigError, match="pairmill has no such model"):
        load_pretrained(tmp_path / "w.safetensors")


def test_an_unreachable_hub_raises_a_retryable_error(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SourceError, match=r"hf-hub:nobody/clip: the Hub gave no weights.*local file"):
        load_pretrained("hf-hub:nobody/clip")


@pytest.mark.parametrize("has_card", [True, False])
def test_open_clips_model_has_its_features_texts_and_pixels(tmp_path, has_card):
    """As a folder of open_clip's push to the Hub, and as a file, which has the vocabulary and the pixels of OpenAI."""
    card = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 64, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
    }
    own = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)} if has_card else {}
    torch.manual_seed(3)
    theirs = open_clip().model.CLIP(**card).eval()
    path = torch_save(theirs.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    if has_card:
        values = {"model_cfg": card, "preprocess_cfg": {"size": 32, "interpolation": "bicubic", **own}}
        (tmp_path / "open_clip_config.json").write_text(json.dumps(values))
    loaded = load_any(tmp_path if has_card else path)
    assert isinstance(loaded.model, CLIP)  # ours, which takes texts at their own length
    texts, image = ["a cat", "a dog and its ball"], Image.effect_noise((40, 36), 80).convert("RGB")
    pixels = open_clip().image_transform(32, is_train=False, **own)(image)
    torch.testing.assert_close(loaded.preprocess(image), pixels, atol=1e-6, rtol=0)
    with torch.no_grad():
        expected = theirs.encode_text(open_clip().tokenizer.SimpleTokenizer()(texts))
        torch.testing.assert_close(loaded.model.encode_text(loaded.tokenizer(texts)), expected, atol=1e-5, rtol=1e-5)
        expected = theirs.encode_image(pixels[None])
        torch.testing.assert_close(loaded.model.encode_image(pixels[None]), expected, atol=1e-5, rtol=1e-5)
