"""A finished model: model.safetensors, model.json, tokenizer.json and, written last, done.json. No pickle anywhere."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dataops.errors import ConfigError, ContractError
from dataops.regular_files import read_text, sync
from training.model.clip import CLIP
from training.model.preprocess import Preprocess
from training.model.pretrained_tokenizer import load_tower_tokenizer
from training.model.tokenizer import Tokenizer
from training.model_config import MODEL_FILES, ModelConfig

_OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""End of safetensors' message about a failed disk."""


def write_atomically(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, "utf-8")
    sync(part)
    part.replace(path)


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a file of tensors whole or not at all.

    Raises: OSError if the disk is full or fails.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, part)
    except SafetensorError as error:
        if (found := _OS_ERROR.search(str(error))) is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error
    sync(part)
    part.replace(path)


# Finished models ------------------------------------------------------------------------------------------------------


def save_model(folder: Path, model: CLIP, tokenizer: Tokenizer, preprocess: Preprocess) -> None:
    """Write model.json, tokenizer.json and, last, model.safetensors (fp32)."""
    card = {**model.config.model_dump(mode="json"), "preprocess": preprocess.facts(), "tokenizer": tokenizer.facts()}
    write_atomically(folder / "model.json", json.dumps(card, indent=2) + "\n")
    write_atomically(folder / "tokenizer.json", tokenizer.to_json())
    save_tensors(model.state_dict(), folder / "model.safetensors")


@dataclass(frozen=True)
class LoadedModel:
    """A finished model with its tokenizer and preprocessing."""

    model: CLIP
    """The network, in eval mode. `encode_image` takes (B, 3, S, S), `encode_text` (B, L); features are not normalised."""
    tokenizer: Tokenizer
    """Texts to ids (B, L), padded to the longest of them."""
    preprocess: Preprocess
    """An image (PIL or bytes) to float (3, S, S)."""
    config: ModelConfig
    """Dimensions of the model."""
    device: torch.device
    """Device of the weights."""


class _WithoutInit(TorchFunctionMode):
    """Leaves out initial values: on the meta device they import torch's compiler, which takes a second."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.init.normal_:  # which passes its tensor by name, or in place
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def load_model(directory: Path, device: str | torch.device = "cpu") -> LoadedModel:
    """Read a finished model: model.safetensors, model.json and tokenizer.json.

    Raises:
        ContractError: a file is missing or invalid; names the file.
        ConfigError: a network of its towers is not installed.
    """
    for name in MODEL_FILES:
        if not (directory / name).is_file():
            raise ContractError(f"{directory} is not a finished model: it has no {name}")
    try:
        card = json.loads(read_text(directory / "model.json"))
        fields = {name: value for name, value in card.items() if name in ModelConfig.model_fields}
        config = ModelConfig.model_validate(fields)
        preprocess = Preprocess(image_size=int(card["preprocess"]["image_size"]))
        if preprocess.facts() != card["preprocess"]:
            raise ValueError(f"this version has no such preprocess: {card['preprocess']}")
    except (ValueError, ValidationError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ContractError(f"{directory / 'model.json'}: {type(error).__name__}: {error}") from error
    tokenizer = load_tower_tokenizer(directory / "tokenizer.json", config.text_cfg)
    if tokenizer.vocab_size != config.text_cfg.vocab_size:
        raise ContractError(
            f"{directory}: the tokenizer has {tokenizer.vocab_size} tokens, the model {config.text_cfg.vocab_size}"
        )
    try:
        weights = load_file(directory / "model.safetensors")
        # A card that states a larger model than the file has allocates nothing.
        with torch.device("meta"), _WithoutInit():
            CLIP(config).load_state_dict(weights, strict=True, assign=True)
        model = CLIP(config)
        model.load_state_dict(weights, strict=True)
    except ConfigError:
        raise
    except Exception as error:  # a hostile file raises anything
        raise ContractError(f"{directory / 'model.safetensors'} does not fit model.json: {error}") from error
    model = model.to(device).eval().requires_grad_(False)
    return LoadedModel(model, tokenizer, preprocess, config, torch.device(device))
