"""The networks compute what timm's and transformers' compute, from files with their weights."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dataops import plugins
from dataops.errors import ConfigError, ContractError
from plugins.towers.config import ImageInit, TextInit
from plugins.towers.files import find_files
from plugins.towers.networks.efficientnet import EfficientNetLite, FusedConv2d, SameConv2d
from plugins.towers.networks.resnet import ResNet
from plugins.towers.networks.vit import ViT
from plugins.towers.tests.made_towers import (
    WORDS,
    randomise,
    table_of,
    write_backbone,
    write_bert,
    write_words,
)
from plugins.towers.weights import load_image_tower, rename_efficientnet
from tests.trainings import RESNET
from training.backbones import find_backbone
from training.config import TrainConfig
from training.hooks import used_hooks
from training.loop.initial_model import build_initial_model
from training.model.preprocess import MEAN, STD
from training.model.pretrained_tokenizer import load_tower_tokenizer
from training.model_config import BackboneConfig, ModelConfig, WordVectorsConfig

pytestmark = pytest.mark.xdist_group("open_clip")  # whose libraries import timm and transformers, too
DIMENSIONS = ModelConfig.model_validate(RESNET)
TEXTS = ["a red thing 12", "", "Green, GREEN thing", "a thing of no name", "blue " * 30]


def build(**tables):
    """Build the model of a config with these tables, from the tiny model of the tests."""
    config = TrainConfig.model_validate(tables)
    dimensions = DIMENSIONS
    for hook in used_hooks(config):
        dimensions = hook.dimensions(config, dimensions)
    return build_initial_model(config, dimensions).eval()


def text_tower(**table):
    model = build(text_init={"license": "MIT", **table})
    path = find_files(TextInit.model_validate({"license": "MIT", **table})).tokenizer
    tokenizer = load_tower_tokenizer(path, model.config.text_cfg)
    return model.text, tokenizer


def difference(found, expected):
    assert float(expected.std()) > 0.01
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(
    ("architecture", "side", "grid", "names"),
    [
        ("tf_efficientnet_lite0", 45, 2, {3: "blocks.2", 7: "blocks.6"}),
        ("efficientnet_lite0", 32, 1, {3: "blocks.2"}),
        ("resnet18", 40, 3, {1: "layer1", 3: "layer3"}),
        ("vit_tiny_patch16_224", 48, 2, {2: "blocks.1", 12: "blocks.11"}),
    ],
)
def test_a_backbone_and_the_means_of_its_stages_equal_timms(tmp_path, architecture, side, grid, names):
    theirs = write_backbone(tmp_path / "weights.safetensors", architecture, side)
    table = table_of(tmp_path / "weights.safetensors", architecture=architecture)
    means = {}

    def pool(output):
        if output.ndim == 3:  # the class token, then the patches line by line
            output = output[:, 1:].mT.unflatten(2, (round((output.shape[1] - 1) ** 0.5), -1))
        return torch.nn.functional.adaptive_avg_pool2d(output, grid).flatten(1)

    for stage, name in names.items():
        theirs.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, stage=stage: means.update({stage: pool(output)})
        )
    model = build(image_init={**table, "stages": list(names), "grid": grid}, image_size=side)
    mean, std = (torch.tensor(theirs.default_cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
    ours, our_std = (torch.tensor(value).view(3, 1, 1) for value in (MEAN, STD))
    pixels = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        end = theirs.forward_head(theirs.forward_features((pixels - mean) / std), pre_logits=True)
        found = model.visual.encode((pixels - ours) / our_std)
        assert model.encode_image((pixels - ours) / our_std).shape == (2, 16)
        folded = model.visual.encode((pixels - ours) / our_std, model.visual.encoder.fold())
        assert difference(folded, found) < 1e-5
    assert found.shape[1] == model.visual.feature_width
    assert difference(found, torch.cat([*(means[stage] for stage in names), end], dim=1)) < 1e-5


def efficientnet(*, same=True):
    network = EfficientNetLite(width_factor=1.0, depth_factor=1.0, same=same)
    randomise(network)
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("images", [0, 1, 3, 17])
def test_a_folded_network_equals_the_plain_one_with_and_without_onednn(same, images, monkeypatch):
    network = efficientnet(same=same)
    folded, pixels = network.fold(), torch.rand(images, 3, 45, 45, generator=torch.Generator().manual_seed(0))
    assert sum(isinstance(module, FusedConv2d) for module in folded.modules()) == 49
    expected = network(pixels, (3, 7), 2)
    with monkeypatch.context() as patch:
        patch.setattr(torch.backends.mkldnn, "enabled", False)
        plain = folded(pixels, (3, 7), 2)
    for found in (folded(pixels, (3, 7), 2), plain):
        assert found.shape == expected.shape == (images, (40 + 320) * 4 + 1280)
        assert not images or difference(found, expected) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_bits_of_an_image_do_not_depend_on_its_batch(dtype):
    network = efficientnet()
    pixels = torch.rand(16, 3, 45, 45, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        whole = network.fold(dtype)(pixels, (3, 7), 2)
        for images in (1, 3, 5, 15):
            folded = network.fold(dtype)  # the first batch must not decide either
            assert folded(pixels[:images], (3, 7), 2).equal(whole[:images])
            assert folded(pixels, (3, 7), 2).equal(whole)


def test_a_folded_network_in_bf16_is_as_near_as_autocast():
    network = efficientnet()
    pixels = torch.rand(5, 3, 45, 45, generator=torch.Generator().manual_seed(0))
    expected = network(pixels)
    with torch.autocast("cpu", torch.bfloat16):
        by_autocast, folded = network(pixels), network.fold(torch.bfloat16)(pixels)
        single = network.fold()(pixels)  # weights in fp32, which autocast converts
    assert folded.dtype == single.dtype == by_autocast.dtype == torch.bfloat16
    limit = 1.5 * difference(by_autocast.float(), expected)
    assert difference(folded.float(), expected) < limit
    assert difference(single.float(), expected) < limit


@pytest.mark.parametrize("name", ["conv_stem", "blocks.0.0.conv_dw", "blocks.3.1.conv_pw", "conv_head"])
def test_a_folded_network_keeps_nan_of_damaged_weights(name):
    network = efficientnet()
    network.get_submodule(name).weight.fill_(float("nan"))
    assert network.fold()(torch.rand(2, 3, 45, 45)).isnan().any()


@pytest.mark.parametrize(
    "architecture",
    [
        *("tf_efficientnet_lite1", "efficientnet_lite4", "resnet34", "resnet101", "vit_large_patch14_224"),
        *("deit_small_patch16_224", "vit_small_patch16_224.dino", "vit_small_patch14_dinov2"),
    ],
)
def test_a_name_has_the_dimensions_that_timm_gives_it(architecture):
    import timm

    found = find_backbone(architecture)
    with torch.device("meta"):
        theirs = timm.create_model(architecture, num_classes=0)
        config = {"kind": "backbone", "architecture": architecture, "image_size": found.image_size}
        ours = plugins.find("networks", found.family)(BackboneConfig(**config, mean=found.mean, std=found.std))
    shapes = [{name: tensor.shape for name, tensor in one.state_dict().items()} for one in (theirs, ours)]
    assert shapes[0] == shapes[1]
    facts = theirs.default_cfg
    assert (facts["input_size"][1:], theirs.num_features) == ((found.image_size,) * 2, found.width)
    assert (facts["mean"], facts["std"]) == (found.mean, found.std)


def test_small_networks_of_other_kinds_equal_timms():
    from timm.models.resnet import Bottleneck
    from timm.models.resnet import ResNet as TimmResNet
    from timm.models.vision_transformer import VisionTransformer

    vit = {"patch_size": 8, "num_classes": 0, "embed_dim": 16, "depth": 2, "num_heads": 2, "init_values": 1e-5}
    pairs = [
        (TimmResNet(Bottleneck, (1, 2, 1, 1), num_classes=0), ResNet(blocks=(1, 2, 1, 1), is_bottleneck=True)),
        (
            VisionTransformer(img_size=32, **vit),
            ViT(image_size=32, patch_size=8, width=16, layers=2, heads=2, has_layer_scale=True),
        ),
    ]
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for theirs, ours in pairs:
        ours.load_state_dict(randomise(theirs))
        with torch.no_grad():
            assert difference(ours.eval()(images), theirs.eval()(images)) < 1e-5


def test_the_names_of_efficientnet_pytorch_are_timms_in_another_form(tmp_path):
    """Each part of a block keeps its place, so the order of the tensors is the same in both."""
    theirs = write_backbone(tmp_path / "weights.safetensors", "tf_efficientnet_lite0", 32).state_dict()
    sizes = [1, 2, 2, 3, 3, 4, 1]
    places = [f"blocks.{stage}.{block}" for stage, size in enumerate(sizes) for block in range(size)]
    first = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    others = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
    others |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}
    outer = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    renamed = {}
    for name, tensor in theirs.items():
        parts = name.split(".")
        if parts[0] == "blocks":
            number = places.index(".".join(parts[:3]))
            renamed[f"_blocks.{number}.{(others if number else first)[parts[3]]}.{parts[4]}"] = tensor
        else:
            renamed[f"{outer[parts[0]]}.{parts[1]}"] = tensor
    torch.save(renamed, tmp_path / "theirs.pth")
    table = {"license": "MIT", "architecture": "tf_efficientnet_lite0"}
    towers = []
    model = build(image_init={"path": str(tmp_path / "weights.safetensors"), **table}, image_size=32)
    for name in ("weights.safetensors", "theirs.pth"):
        randomise(model.visual, seed=1)
        load_image_tower(model, ImageInit(path=str(tmp_path / name), **table))
        towers.append({key: value.clone() for key, value in model.visual.encoder.state_dict().items()})
    assert all(towers[0][name].equal(towers[1][name]) for name in towers[0])
    assert rename_efficientnet(renamed, sizes).keys() - {"_fc.weight", "_fc.bias"} == towers[0].keys()


@pytest.mark.parametrize("side", [9, 10])
@pytest.mark.parametrize("kernel", [3, 5])
def test_an_exported_convolution_pads_its_images(side, kernel):
    """onnxruntime and onnxscript do not load a graph that pads kernels, as a trained network does."""
    layer, images_BCHW = SameConv2d(2, 3, kernel, 2), torch.randn(2, 2, side, side)
    program = torch.export.export(layer, (images_BCHW,))
    padded = [node.args[0].name for node in program.graph.nodes if "pad" in str(node.target) and node.args]
    assert set(padded) <= {"input"}
    torch.testing.assert_close(program.module()(images_BCHW), layer(images_BCHW))


def test_positions_of_a_vision_transformer_are_resized(tmp_path):
    write_backbone(tmp_path / "weights.safetensors", "vit_tiny_patch16_224", 64)
    table = table_of(tmp_path / "weights.safetensors", architecture="vit_tiny_patch16_224")
    from timm.layers import resample_abs_pos_embed

    found = build(image_init=table, image_size=32).visual.get_parameter("encoder.pos_embed")
    given = load_file(tmp_path / "weights.safetensors")["pos_embed"]
    assert difference(found.detach(), resample_abs_pos_embed(given, [2, 2])) < 1e-5


@pytest.mark.parametrize("pooling", ["mean_tokens", "cls_token"])
def test_a_sentence_encoder_equals_that_of_transformers(tmp_path, pooling):
    transformers = pytest.importorskip("transformers")
    write_bert(tmp_path / "bert", pooling=pooling)
    theirs = transformers.BertModel.from_pretrained(tmp_path / "bert").eval()
    tower, tokenizer = text_tower(kind="bert", path=str(tmp_path / "bert"))
    ids_BL = tokenizer(TEXTS)
    assert ids_BL.shape == (5, 16)  # the context length of the model; BERT has 20 positions
    assert ids_BL[0, :7].tolist() == [2, 9, 4, 8, 11, 22, 3]
    assert ids_BL[0, 7:].eq(0).all()
    is_real_BL1 = (ids_BL != 0).unsqueeze(2)
    with torch.no_grad():
        tokens_BLW = theirs(ids_BL, attention_mask=is_real_BL1[:, :, 0].long()).last_hidden_state
        mean_BW = (tokens_BLW * is_real_BL1).sum(1) / is_real_BL1.sum(1)
        expected = mean_BW if pooling == "mean_tokens" else tokens_BLW[:, 0]
        assert difference(tower.encode(ids_BL), expected) < 1e-5
        short = tower.encode(tokenizer(TEXTS[:1]))
    assert difference(short, expected[:1]) < 1e-5  # whatever the padding


def test_a_text_is_the_mean_of_its_word_vectors(tmp_path):
    vectors = write_words(tmp_path / "words")
    tower, tokenizer = text_tower(kind="words", path=str(tmp_path / "words"))
    with torch.no_grad():
        found = tower.encode(tokenizer(TEXTS)).numpy()
    texts = [["a", "red", "thing"], [], ["green", "green", "thing"], ["a", "thing"], ["blue"]]
    expected = [np.mean([vectors[WORDS.index(w)] for w in words] or [np.zeros(12)], axis=0) for words in texts]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_vocabulary_of_word_vectors_may_be_a_tokenizer_json(tmp_path):
    write_bert(tmp_path / "bert")
    vectors = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    folder = tmp_path / "vectors"
    folder.mkdir()
    save_file({"v": torch.from_numpy(vectors)}, folder / "v.safetensors")
    (folder / "tokenizer.json").write_bytes((tmp_path / "bert" / "tokenizer.json").read_bytes())
    tower, tokenizer = text_tower(kind="words", path=str(folder))
    with torch.no_grad():
        found = tower.encode(tokenizer(["red 12", "nonsense"])).numpy()
    np.testing.assert_allclose(found, [vectors[[4, 11, 22]].mean(0), np.zeros(8)], atol=1e-6)


def test_the_projector_is_a_norm_and_linear_layers_with_gelus(tmp_path):
    write_words(tmp_path / "words")
    tower, tokenizer = text_tower(kind="words", path=str(tmp_path / "words"), projector_layers=3, projector_width=20)
    layers = [layer for layer in tower.projector.layers if isinstance(layer, torch.nn.Linear)]
    assert [tuple(layer.weight.shape) for layer in layers] == [(20, 12), (20, 20), (16, 20)]
    ids_BL = tokenizer(TEXTS)
    with torch.no_grad():
        x = torch.nn.functional.layer_norm(tower.encode(ids_BL), (12,))
        for number, layer in enumerate(layers):
            x = (torch.nn.functional.gelu(x) if number else x) @ layer.weight.T + layer.bias
        assert difference(tower(ids_BL), x) < 1e-5


def test_without_linear_layers_the_shared_space_is_that_of_the_feature(tmp_path):
    write_words(tmp_path / "words")
    write_backbone(tmp_path / "net.safetensors", "resnet18", 32)
    image = table_of(tmp_path / "net.safetensors", architecture="resnet18")
    text = table_of(tmp_path / "words", kind="words", projector_layers=0)
    model = build(text_init=text, image_init=image)
    assert model.config.embed_dim == 12
    assert not model.text.projector.layers
    ids_BL = torch.tensor([[1, 2, 0]])
    with torch.no_grad():
        assert model.encode_text(ids_BL).equal(torch.nn.functional.layer_norm(model.text.encode(ids_BL), (12,)))
        assert model.encode_image(torch.zeros(1, 3, 32, 32)).shape == (1, 12)
    with pytest.raises(ConfigError, match="without a projector has 12 channels, and the shared space 512"):
        build(text_init=text, image_init={**image, "projector_layers": 0})


def test_the_first_layers_of_a_backbone_can_be_kept(tmp_path):
    write_backbone(tmp_path / "net.safetensors", "efficientnet_lite0", 32)
    image = table_of(tmp_path / "net.safetensors", architecture="efficientnet_lite0")
    model = build(image_init=image, image_size=32, lock_image=True, unlocked_image_groups=7).train()
    kept = {name.removeprefix("visual.") for name, p in model.named_parameters() if not p.requires_grad}
    assert {".".join(name.split(".")[:3]).removesuffix(".weight").removesuffix(".bias") for name in kept} == {
        "encoder.conv_stem", "encoder.bn1", "encoder.blocks.0", "encoder.blocks.1",
    }  # fmt: skip
    before = {name: b.clone() for name, b in model.visual.named_buffers()}
    model.encode_image(torch.randn(2, 3, 32, 32))
    changed = {name for name, b in model.visual.named_buffers() if not b.equal(before[name])}
    assert changed
    assert not any(
        name.startswith(tuple(f"encoder.{part}." for part in ("bn1", "blocks.0", "blocks.1"))) for name in changed
    )


def test_frozen_weights_and_their_statistics_are_not_trained(tmp_path):
    write_bert(tmp_path / "bert")
    write_backbone(tmp_path / "net.safetensors", "resnet18", 32)
    text = table_of(tmp_path / "bert", kind="bert")
    image = table_of(tmp_path / "net.safetensors", architecture="resnet18", frozen=True)
    model = build(text_init=text, image_init=image).train()
    trained = {name.split(".")[1] for name, p in model.named_parameters() if p.requires_grad and "." in name}
    assert trained == {"projector"}
    before = {name: b.clone() for name, b in model.visual.named_buffers()}
    model.encode_image(torch.randn(2, 3, 32, 32))
    assert all(b.equal(before[name]) for name, b in model.visual.named_buffers())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "roberta"}, "model_type is 'roberta'"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"hidden_size": 15}, "heads: 2 does not divide width 15"),
        ({"num_hidden_layers": 3}, "blocks.2.qkv.weight is missing"),
        ({"vocab_size": 12}, "token_embedding.weight is"),
    ],
)
def test_another_sentence_encoder_is_an_error_that_names_the_reason(tmp_path, change, message):
    import json

    write_bert(tmp_path / "bert")
    path = tmp_path / "bert" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ConfigError, match=r"train\.text_init: .*" + message.replace(".", r"\.")):
        build(text_init=table_of(tmp_path / "bert", kind="bert"))


def test_weights_of_another_network_are_an_error(tmp_path):
    write_backbone(tmp_path / "net.safetensors", "resnet18", 32)
    table = table_of(tmp_path / "net.safetensors", architecture="resnet34")
    with pytest.raises(ConfigError, match=r"train\.image_init: .* do not fit the model: layer1\.2\.conv1\.weight"):
        build(image_init=table)


def test_a_vocabulary_that_does_not_fit_the_table_is_an_error(tmp_path):
    write_words(tmp_path / "words")
    config = WordVectorsConfig(kind="words", context_length=8, vocab_size=4, width=3)
    with pytest.raises(ContractError, match=r"words\.txt: tokenizer: its highest id, 5, has no row in a table of 3"):
        load_tower_tokenizer(tmp_path / "words" / "words.txt", config)
