"""A decoder language model as text tower computes what transformers' own does, and its files are read safely."""

import json
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load_file, save_file

from dataops import plugins
from dataops.errors import ConfigError
from plugins.towers.config import TextInit
from plugins.towers.files import find_files, replace_tower, text_dimensions
from plugins.towers.tests.made_towers import write_decoder
from plugins.towers.weights import load_text_tower
from tests.trainings import RESNET
from training.model.checkpoint import load_model, save_model
from training.model.clip import CLIP
from training.model.preprocess import Preprocess
from training.model.pretrained_tokenizer import load_tower_tokenizer
from training.model_config import ModelConfig

pytestmark = [
    pytest.mark.skipif(not find_spec("transformers"), reason="transformers is not installed"),
    pytest.mark.xdist_group("open_clip"),
]
TEXTS = ["a red thing", "!", "", "green " * 40, "a thing of no name 😀"]


def build(folder, **table):
    init = TextInit.model_validate({"kind": "decoder", "path": str(folder), "license": "MIT", **table})
    dimensions = ModelConfig.model_validate(RESNET)
    dimensions = replace_tower(dimensions, "text_cfg", text_dimensions(init, dimensions.text_cfg.context_length))
    model = CLIP(dimensions).eval()
    load_text_tower(model, init)
    path = find_files(init).tokenizer
    return model, model.text, load_tower_tokenizer(path, dimensions.text_cfg)


@pytest.mark.parametrize(("kind", "pooling"), [("llama", "last"), ("qwen3", "mean"), ("gpt_neox", "last")])
def test_features_are_those_of_one_text_at_a_time_without_padding(tmp_path, kind, pooling):
    theirs = write_decoder(tmp_path, kind)
    _, tower, tokenizer = build(tmp_path, pooling=pooling)
    ids_BL = tokenizer(TEXTS)
    rows = [[one - 1 for one in row if one] or [0] for row in ids_BL.tolist()]
    assert max(map(len, rows)) == 16  # the context length of the model
    assert any(0 in row for row in rows[:2])  # a token 0 is a token
    with torch.no_grad():
        states = [theirs(torch.tensor([row]), output_hidden_states=True).hidden_states[-1][0] for row in rows]
        found = tower.encode(ids_BL)
    expected = torch.stack([state[-1] if pooling == "last" else state.mean(dim=0) for state in states])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert float(expected.std()) > 0.01
    assert {id(p) for group in tower.encoder.groups() for p in group} == {id(p) for p in tower.encoder.parameters()}
    assert not any(p.requires_grad for p in tower.encoder.parameters())
    with torch.no_grad():
        tower.encoder.shift_outputs(torch.full((16,), 2.0))
        torch.testing.assert_close(tower.encode(ids_BL), expected + 2, rtol=1e-4, atol=1e-5)


def test_weights_in_several_files_have_the_same_features_and_all_count(tmp_path):
    for folder, size in (("one", "1GB"), ("many", "8KB")):
        write_decoder(tmp_path / folder, "llama", max_shard_size=size)
    files = [find_files(TextInit(kind="decoder", path=str(tmp_path / name), license="MIT")) for name in ("one", "many")]
    assert len(files[1].list_files()) > len(files[0].list_files()) + 1
    features = []
    for name in ("one", "many"):
        _, tower, tokenizer = build(tmp_path / name)
        with torch.no_grad():
            features.append(tower.encode(tokenizer(TEXTS)))
    assert features[0].equal(features[1])
    part = next(path for path in files[1].list_files() if path.suffix == ".safetensors")
    before = files[1].digest()
    save_file({name: tensor + 1 for name, tensor in load_file(part).items()}, part, metadata={"format": "pt"})
    assert files[1].digest() != before
    assert files[1].describe("text")["sha256"] == files[1].digest()


def test_a_finished_model_holds_the_language_model(tmp_path):
    write_decoder(tmp_path / "given", "qwen3")
    model, _, tokenizer = build(tmp_path / "given", projector_norm=False, projector_layers=0)
    save_model(tmp_path, model, tokenizer, Preprocess(32))
    for path in (tmp_path / "given").iterdir():
        path.unlink()
    loaded = load_model(tmp_path)
    with torch.no_grad():
        found, expected = (one.encode_text(tokenizer(TEXTS)) for one in (loaded.model, model))
    assert found.equal(expected)
    assert loaded.tokenizer(TEXTS).equal(tokenizer(TEXTS))
    pytest.importorskip("plugins.export")
    for form, message in (
        ("open_clip", "is not exported"),
        ("hf", "has no model with towers"),
        ("onnx", "is not exported"),
    ):
        with pytest.raises(ConfigError, match=message):
            plugins.find("exporters", form).check(loaded.model.config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "no-such-network"}, "transformers builds no no-such-network"),
        ({"hidden_size": None}, "it states no hidden_size"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder is True"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is .* only a plain decoder"),
        ({"num_hidden_layers": 3}, r"do not fit: layers\.2\..* is missing"),
        ({"intermediate_size": 25}, "do not fit: layers.0.mlp.down_proj.weight has another shape"),
        ({"hidden_size": "wide"}, "width: Input should be a valid integer"),
    ],
)
def test_a_config_that_does_not_fit_is_an_error_that_names_the_reason(tmp_path, change, message):
    write_decoder(tmp_path, "llama")
    path = tmp_path / "config.json"
    facts = {name: value for name, value in {**json.loads(path.read_text()), **change}.items() if value is not None}
    path.write_text(json.dumps(facts))
    with pytest.raises(ConfigError, match=message):
        build(tmp_path)


def test_no_code_of_the_weights_is_run(tmp_path):
    write_decoder(tmp_path, "llama")
    (tmp_path / "hostile.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    path = tmp_path / "config.json"
    names = {"AutoConfig": "hostile.Config", "AutoModel": "hostile.Model"}
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": names}))
    build(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["../other.safetensors", "missing.safetensors", "/etc/passwd"])
def test_an_index_names_files_beside_it(tmp_path, name):
    write_decoder(tmp_path / "many", "llama", max_shard_size="8KB")
    (tmp_path / "other.safetensors").write_bytes(b"")
    index = tmp_path / "many" / "model.safetensors.index.json"
    facts = json.loads(index.read_text())
    facts["weight_map"] = dict.fromkeys(facts["weight_map"], name)
    index.write_text(json.dumps(facts))
    with pytest.raises(ConfigError, match="which is no file beside it"):
        find_files(TextInit(kind="decoder", path=str(tmp_path / "many"), license="MIT")).digest()


def test_damaged_weights_are_an_error(tmp_path):
    write_decoder(tmp_path, "llama")
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="no weights that can be read safely"):
        build(tmp_path)
