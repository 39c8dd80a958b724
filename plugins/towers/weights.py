"""Load the pretrained weights into a tower: BERT's, word vectors, and image backbones by the names of timm."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from dataops.errors import ConfigError
from plugins.towers.config import ImageInit, TextInit
from plugins.towers.files import find_files, read_matrix_shape
from plugins.towers.networks.decoder import Decoder
from training.model.clip import CLIP
from training.model.pretrained import check_fit, is_square, read_state_dict, resize_image_positions
from training.model.towers import BackboneTower

HEADS = re.compile(r"^(fc|classifier|head|head_dist|_fc|pre_logits|norm_pre_logits)\.")
"""Prefixes of the last layer of a classifier, which a tower has not."""
COUNTER = "num_batches_tracked"
_EFFICIENTNET = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
_PARTS = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2", "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}  # fmt: skip
_FIRST_PARTS = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
"""Names of EfficientNet-PyTorch and of timm."""
_BERT = {
    "attention.output.dense": "out", "attention.output.LayerNorm": "norm1", "intermediate.dense": "fc1",
    "output.dense": "fc2", "output.LayerNorm": "norm2",
}  # fmt: skip


def load_image_tower(model: CLIP, init: ImageInit) -> None:
    """Load the weights of `[train.image_init]`, and freeze them if it is `frozen`; the projector stays as it is.

    Raises: ConfigError if they cannot be read safely, or are of another network.
    """
    files, tower = find_files(init), model.visual
    assert isinstance(tower, BackboneTower)
    tensors = {name: t for name, t in read_state_dict(files.weights).items() if not HEADS.match(name)}
    if any(name.startswith("_conv_stem") for name in tensors):
        sizes = [len(stage) for stage in tower.encoder.blocks]  # pyright: ignore[reportArgumentType, reportGeneralTypeIssues]
        tensors = rename_efficientnet(tensors, sizes)
    _load(tower.encoder, _fit_patches(tensors, tower.encoder), f"train.image_init: {files.weights}")
    tower.encoder.requires_grad_(not init.frozen)


def load_text_tower(model: CLIP, init: TextInit) -> None:
    """Load the weights of `[train.text_init]`, and freeze them if it is `frozen`; the projector stays as it is.

    Raises: ConfigError if they cannot be read safely, or are of another network.
    """
    files, tower = find_files(init), model.text
    assert tower is not None
    if init.kind == "decoder":
        decoder = tower.encoder
        assert isinstance(decoder, Decoder)
        decoder.load(files.weights.parent)
        decoder.requires_grad_(not init.frozen)
        return
    if init.kind == "words":
        matrix_VW = read_vectors(files.weights)
        tensors = {"embedding.weight": torch.cat([torch.zeros(1, matrix_VW.shape[1]), matrix_VW])}
    else:
        tensors = rename_bert(read_state_dict(files.weights))
        positions = tensors.get("positional_embedding")
        if positions is not None:
            tensors["positional_embedding"] = positions[: len(tower.encoder.get_parameter("positional_embedding"))]
    _load(tower.encoder, tensors, f"train.text_init: {files.weights}")
    tower.encoder.requires_grad_(not init.frozen)


def read_vectors(path: Path) -> Tensor:
    """Return the one matrix of a safetensors file, in fp32. Raises: ConfigError if a number is not finite."""
    read_matrix_shape(path)
    (matrix_VW,) = (tensor for tensor in read_state_dict(path).values() if tensor.ndim == 2)
    if not torch.isfinite(matrix_VW).all():
        raise ConfigError(f"train.text_init: {path} holds numbers that are not finite")
    return matrix_VW


def rename_bert(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of transformers' BertModel by the names of plugins/towers/networks/bert.py.

    Raises: ConfigError if the embeddings are not there.
    """
    found = {name.removeprefix("bert."): tensor for name, tensor in tensors.items()}
    try:
        first_type_W = found["embeddings.token_type_embeddings.weight"][0]
        renamed = {
            "token_embedding.weight": found["embeddings.word_embeddings.weight"],
            "positional_embedding": found["embeddings.position_embeddings.weight"] + first_type_W,
            "norm.weight": found["embeddings.LayerNorm.weight"],
            "norm.bias": found["embeddings.LayerNorm.bias"],
        }
        for name in found:
            if (match := re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias)", name)) is None:
                continue
            number, part, kind = match.groups()
            if part == "attention.self.query":
                qkv = [
                    found[f"encoder.layer.{number}.attention.self.{one}.{kind}"] for one in ("query", "key", "value")
                ]
                renamed[f"blocks.{number}.qkv.{kind}"] = torch.cat(qkv)
            elif not part.startswith("attention.self."):
                renamed[f"blocks.{number}.{_BERT[part]}.{kind}"] = found[name]
    except KeyError as error:
        raise ConfigError(
            f"train.text_init: the weights are not those of a BERT: {error} is unexpected or missing"
        ) from error
    return renamed


def rename_efficientnet(tensors: Mapping[str, Tensor], sizes: list[int]) -> dict[str, Tensor]:
    """Return the weights of EfficientNet-PyTorch by timm's names.

    Args:
        sizes: blocks of each stage, which EfficientNet-PyTorch numbers through.
    """
    places = [f"blocks.{stage}.{block}" for stage, size in enumerate(sizes) for block in range(size)]
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        if parts[0] != "_blocks":
            renamed[".".join([_EFFICIENTNET.get(parts[0], parts[0]), *parts[1:]])] = tensor
            continue
        number = int(parts[1])
        place = places[number] if number < len(places) else f"blocks.{number}"
        known = _FIRST_PARTS if number == 0 else _PARTS
        renamed[".".join([place, known.get(parts[2], parts[2]), *parts[3:]])] = tensor
    return renamed


def _fit_patches(tensors: dict[str, Tensor], encoder: nn.Module) -> dict[str, Tensor]:
    """Resize the positions of a vision transformer to the size of its input."""
    expected, found = encoder.state_dict().get("pos_embed"), tensors.get("pos_embed")
    if expected is None or found is None or found.ndim != 3 or found.shape == expected.shape:
        return tensors
    length = expected.shape[1]
    if found.shape[2] != expected.shape[2] or not is_square(found.shape[1] - 1) or not is_square(length - 1):
        return tensors
    return {**tensors, "pos_embed": resize_image_positions(found[0], round((length - 1) ** 0.5))[None]}


def _load(encoder: nn.Module, tensors: Mapping[str, Tensor], name: str) -> None:
    expected = encoder.state_dict()
    given = {key: tensor for key, tensor in tensors.items() if key in expected or COUNTER not in key}
    check_fit(given, {key: tensor for key, tensor in expected.items() if key in given or COUNTER not in key}, name)
    encoder.load_state_dict(dict(given), strict=False)
