"""Pretrained weights of OpenAI and open_clip, from a file, a folder or the Hub. No pickle is run.

The names of our parameters are theirs. Reading removes what a checkpoint wraps around the weights,
and infers the model's dimensions from the shapes.
"""

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from dataops.errors import ConfigError, SourceError
from dataops.regular_files import check_regular, read_text
from training.model.clip import CLIP
from training.model.torchscript import MAX_TENSORS, check_legacy, is_archive, read_archive
from training.model_config import ModelConfig, without_processing

# Position embeddings of another image size or context length ----------------------------------------------------------
# Legend: L positions, D width, G side of the grid of an image's positions.

logger = logging.getLogger(__name__)

OF_IMAGES = ("visual.positional_embedding", "visual.attnpool.positional_embedding")
"""A transformer's class token and patches; the mean and the positions of a ResNet's attention pool."""
OF_TEXTS = "positional_embedding"


def fit_positions(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights whose position embeddings have the model's length; all others are the same tensors.

    Embeddings of another width, or whose positions are no square, are left as they are.

    Args:
        expected: the model's tensors by name.
    """
    fitted = dict(tensors)
    for name in (*OF_IMAGES, OF_TEXTS):
        if name not in tensors or name not in expected:
            continue
        found_LD, length = tensors[name], len(expected[name])
        if found_LD.ndim != 2 or found_LD.shape[1] != expected[name].shape[1] or len(found_LD) == length:
            continue
        if name == OF_TEXTS:
            fitted[name] = resize_text_positions(found_LD, length)
        elif is_square(len(found_LD) - 1) and is_square(length - 1):
            fitted[name] = resize_image_positions(found_LD, round((length - 1) ** 0.5))
        if fitted[name] is not found_LD:
            logger.info("%s is resized from %d to %d positions", name, len(found_LD), length)
    return fitted


def is_square(number: int) -> bool:
    """Return whether a number is the square of a positive integer."""
    return number > 0 and round(number**0.5) ** 2 == number


def resize_image_positions(positions_LD: Tensor, side: int) -> Tensor:
    """Resize the grid after the first position to side x side, by a bicubic kernel that averages where it shrinks.

    Source: open_clip's `resize_pos_embed`; the idea is that of Dosovitskiy et al. 2021, section 3.2.
    """
    first_1D, grid_LD = positions_LD[:1], positions_LD[1:]
    G, D = round(len(grid_LD) ** 0.5), grid_LD.shape[1]
    grid_1DGG = grid_LD.reshape(1, G, G, D).permute(0, 3, 1, 2)
    grid_1DGG = F.interpolate(grid_1DGG, size=(side, side), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([first_1D, grid_1DGG.permute(0, 2, 3, 1).reshape(side * side, D)])


def resize_text_positions(positions_LD: Tensor, length: int) -> Tensor:
    """Return the first positions for a shorter context, and linearly interpolated ones for a longer.

    A text that fits into the shorter context keeps its features, since the tower is causal. Source
    of the interpolation: open_clip's `resize_text_pos_embed`, which also interpolates to a shorter
    one.
    """
    if length <= len(positions_LD):
        return positions_LD[:length].clone()
    return F.interpolate(positions_LD.T[None], size=length, mode="linear", align_corners=False)[0].T.contiguous()


HUB = "hf-hub:"
"""Prefix of a name on the Hub, as in open_clip."""
WEIGHTS = (
    "open_clip_model.safetensors",
    "model.safetensors",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
)
"""Files of weights that a folder may hold; the first that exists counts."""
CARDS = ("model.json", "open_clip_config.json")
"""Files beside them with the model's dimensions: ours and open_clip's."""
OWN_VOCABULARY = "local"
"""The `hf_tokenizer_name` of an export to open_clip whose tokenizer.json is a vocabulary of ours."""
MAX_SHARING = 4
"""Maximum size of all tensors of a file in relation to it: several names may share a tensor, as tied weights do."""
WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+")
"""Prefixes that DistributedDataParallel and torch.compile put before each name."""
TEXT_TOWER = re.compile(r"^text\.(?=transformer\.|token_embedding\.|positional_embedding$|ln_final\.|text_projection$)")
"""Prefix of the text tower's parameters in open_clip's models with custom_text."""
OPENAI_FACTS = {"input_resolution", "context_length", "vocab_size"}
NO_WEIGHTS = re.compile(r"(?:^|\.)(?:input_resolution|context_length|vocab_size|attn_mask)$")
"""Facts that OpenAI's archives carry among the weights, and the causal mask, which is no parameter."""


def load_pretrained(source: str | Path, config: ModelConfig | None = None) -> CLIP:
    """Load a model with pretrained weights, fp32, on the CPU, in evaluation mode.

    Args:
        source: a file (.safetensors; .pt, .pth and .bin by torch; OpenAI's TorchScript archives), a folder of ours or
            of open_clip's `local-dir:`, or `hf-hub:owner/name`, optionally with `@revision`.
        config: dimensions of the model; None: read from the card beside the weights, else inferred from their shapes.
            Shapes do not show the activation: weights from an archive of OpenAI's get quick_gelu, any other file does
            not.

    Raises:
        ConfigError: there are no such weights, they cannot be read safely, or they are of another model.
        SourceError: the Hub does not answer.
    """
    file = _weights_file(source)
    tensors, is_openai = _read(file)
    config = config or _config_beside(file) or infer_config(tensors, quick_gelu=is_openai, name=str(file))
    with torch.device("meta"):
        model = CLIP(config)
    check_fit(tensors, model.state_dict(), str(file))
    model.load_state_dict(tensors, strict=True, assign=True)
    return model.eval()


def load_towers(model: CLIP, source: str | Path, *, image_only: bool) -> None:
    """Load pretrained weights into an existing model; `source` and errors as in load_pretrained.

    Temperature and bias come with the text tower, unless they are for the other loss. Position
    embeddings are resized to the model's image size and context length.
    """
    file, expected = _weights_file(source), model.state_dict()
    tensors, is_openai = _read(file)
    if is_openai and not model.config.quick_gelu:
        logger.warning("%s was trained with QuickGELU: set train.model to a name that ends in -quickgelu", file)
    left = set() if ("logit_bias" in tensors) == ("logit_bias" in expected) else {"logit_scale", "logit_bias"}
    tensors, expected = (
        {name: t for name, t in found.items() if name not in left and (name.startswith("visual.") or not image_only)}
        for found in (tensors, expected)
    )
    tensors = fit_positions(tensors, expected)
    check_fit(tensors, expected, str(file))
    model.load_state_dict(tensors, strict=False)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the weights in a file, by our names, as fp32 (counters stay integers).

    Raises: ConfigError if the file cannot be read without running code of its own.
    """
    return _read(path)[0]


def _read(path: Path) -> tuple[dict[str, Tensor], bool]:
    """Return the weights, and whether they come with the facts of OpenAI's archives."""
    try:
        check_regular(path)
        return _select_weights(_load(path), path.stat().st_size)
    except Exception as error:  # a hostile file raises anything
        message = str(error).partition("\n")[0][:300]
        raise ConfigError(
            f"{path}: the weights cannot be read safely ({type(error).__name__}: {message}); "
            "save the state dict alone as safetensors, and name that file"
        ) from error


def _load(path: Path) -> Any:
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            if len(file.keys()) > MAX_TENSORS:
                raise ValueError(f"it has over {MAX_TENSORS:,} tensors")
        return load_file(path)
    if is_archive(path):
        return read_archive(path)
    check_legacy(path)
    return torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251  weights_only=True


def _select_weights(found: object, file_size: int) -> tuple[dict[str, Tensor], bool]:
    """Return the weights in what was read, and whether they come with the facts of OpenAI's archives.

    Raises: ValueError if there are none, or if they are larger than the file by more than shared storages explain.
    """
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]  # a training checkpoint of open_clip
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError("it holds no state dict of names and tensors")
    if sum(value.numel() * value.element_size() for value in found.values()) > MAX_SHARING * file_size:
        raise ValueError(f"its tensors have over {MAX_SHARING} times as many bytes as the file")
    weights = {name: value for name, value in map(_rename, found.items()) if not NO_WEIGHTS.search(name)}
    return weights, found.keys() >= OPENAI_FACTS


def _rename(item: tuple[str, Tensor]) -> tuple[str, Tensor]:
    name, value = TEXT_TOWER.sub("", WRAPPERS.sub("", item[0])), item[1]
    if name in ("logit_scale", "logit_bias"):
        value = value.reshape(())
    return name, value.float().contiguous() if value.is_floating_point() else value


def infer_config(tensors: Mapping[str, Tensor], *, quick_gelu: bool, name: str) -> ModelConfig:
    """Infer the model that weights belong to from their shapes; heads are 64 wide, as in all published ones.

    Args:
        name: names the weights in errors.

    Raises: ConfigError if they are not those of a CLIP with one of our towers.
    """
    try:
        return ModelConfig.model_validate(
            {
                "embed_dim": tensors["text_projection"].shape[1],
                "quick_gelu": quick_gelu,
                "init_logit_bias": float(tensors["logit_bias"]) if "logit_bias" in tensors else None,
                "vision_cfg": _infer_vision(tensors),
                "text_cfg": {
                    "context_length": tensors["positional_embedding"].shape[0],
                    "vocab_size": tensors["token_embedding.weight"].shape[0],
                    "width": tensors["ln_final.weight"].shape[0],
                    "heads": tensors["ln_final.weight"].shape[0] // 64,
                    "layers": _count(tensors, r"transformer\.resblocks\.(\d+)\."),
                },
            }
        )
    except (LookupError, ValueError) as error:
        raise ConfigError(f"{name}: not the weights of a CLIP with a ResNet or vision transformer: {error}") from error


def _infer_vision(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    if "visual.proj" in tensors:
        width, _, patch, _ = tensors["visual.conv1.weight"].shape
        side = round((tensors["visual.positional_embedding"].shape[0] - 1) ** 0.5)
        layers: Any = _count(tensors, r"visual\.transformer\.resblocks\.(\d+)\.")
        return {"image_size": side * patch, "layers": layers, "width": width, "patch_size": patch}
    side = round((tensors["visual.attnpool.positional_embedding"].shape[0] - 1) ** 0.5)
    layers = [_count(tensors, rf"visual\.layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4)]
    width = tensors["visual.conv3.weight"].shape[0]
    return {"image_size": side * 32, "layers": layers, "width": width, "patch_size": None}


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    return len({found[1] for name in tensors if (found := re.match(pattern, name))})


def check_fit(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], name: str) -> None:
    """Check names and shapes of weights, and that they are no integers. Raises: ConfigError with three that differ."""
    wrong = [f"{key} is missing" for key in expected if key not in tensors]
    wrong += [f"{key} is not of this model" for key in tensors if key not in expected]
    wrong += [
        f"{key} is {tensors[key].dtype} {tuple(tensors[key].shape)}, not {tensor.dtype} {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in tensors
        and (tensors[key].shape != tensor.shape or tensors[key].is_floating_point() < tensor.is_floating_point())
    ]
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ConfigError(f"{name}: the weights do not fit the model: {', '.join(wrong[:3])}{more}")


def _weights_file(source: str | Path) -> Path:
    path = _fetch(str(source)) if str(source).startswith(HUB) else Path(source)
    if path.is_file():
        return path
    for name in WEIGHTS:
        if (path / name).is_file():
            return path / name
    raise ConfigError(f"{path}: neither a file of weights nor a folder with one of {', '.join(WEIGHTS)}")


def _config_beside(file: Path) -> ModelConfig | None:
    for card in map(file.with_name, CARDS):
        if card.is_file():
            try:
                fields = json.loads(read_text(card))
                fields = without_processing(fields.get("model_cfg", fields))
                if (text := fields.get("text_cfg", {})).get("hf_tokenizer_name") == OWN_VOCABULARY:
                    del text["hf_tokenizer_name"]
                return ModelConfig.model_validate(fields)
            except (OSError, ValueError, AttributeError, RecursionError) as error:
                raise ConfigError(f"{card}: pairmill has no such model: {error}") from error
    return None


def _fetch(source: str) -> Path:
    from huggingface_hub import snapshot_download

    name, _, revision = source.removeprefix(HUB).partition("@")
    try:
        folder = snapshot_download(name, revision=revision or None, allow_patterns=[*WEIGHTS, *CARDS])
    except (OSError, ValueError) as error:  # offline, an unknown name or an invalid one
        message = str(error).partition("\n")[0]
        raise SourceError(
            f"{source}: the Hub gave no weights ({type(error).__name__}: {message}); try again, or name a local file"
        ) from error
    assert isinstance(folder, str)
    return Path(folder)
