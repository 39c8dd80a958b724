"""Any CLIP on this machine, ready to be evaluated: a finished model of ours, an open_clip folder, an OpenAI file.

    folder with model.safetensors, model.json, tokenizer.json     ours: trained, registered or exported
    folder with open_clip_config.json and open_clip_model.safetensors or open_clip_pytorch_model.bin
    file .pt                                                      OpenAI's release: a TorchScript archive or state dict

The last two are read by open_clip itself, with its tokenizers and preprocessing; a .bin is read as weights only, never
as pickled objects.
"""

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from dataops.digest import canonical_json, file_sha256
from dataops.errors import ConfigError, ContractError
from training.checkpoint import MODEL_FILES, LoadedModel, load_model
from training.config import ModelConfig
from training.model import CLIP

OPEN_CLIP_CONFIG = "open_clip_config.json"
OPEN_CLIP_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)


class PaddedTexts(nn.Module):
    """A model of open_clip. Its text towers want the whole context length, where ours are given what a batch needs."""

    def __init__(self, model: nn.Module, context_length: int):
        super().__init__()
        self.inner, self.context_length = model, context_length

    @property
    def visual(self) -> Any:
        """The image tower."""
        return self.inner.visual

    def encode_image(self, images_B3SS: Tensor) -> Tensor:
        """Features (B, D), not normalised."""
        return self.inner.encode_image(images_B3SS)  # pyright: ignore[reportCallIssue]

    def encode_text(self, tokens_BL: Tensor) -> Tensor:
        """Features (B, D), not normalised; zeros stand after the end of each text, as its tokenizer puts them."""
        missing = self.context_length - tokens_BL.shape[1]
        return self.inner.encode_text(F.pad(tokens_BL, (0, missing)))  # pyright: ignore[reportCallIssue]


@dataclass(frozen=True)
class OpenClipModel:
    """A model of open_clip with what goes with it."""

    model: CLIP | PaddedTexts
    tokenizer: Any
    preprocess: Any


def model_files(path: Path) -> list[Path]:
    """The files that decide what the model computes.

    Raises: ConfigError where there is no model of a known kind.
    """
    if path.is_file():
        return [path]
    if (path / OPEN_CLIP_CONFIG).is_file():
        weights = [path / name for name in OPEN_CLIP_WEIGHTS if (path / name).is_file()]
        if not weights:
            msg = f"{path}: has {OPEN_CLIP_CONFIG} but no weights; expected one of {', '.join(OPEN_CLIP_WEIGHTS)}"
            raise ConfigError(msg)
        others = sorted(p for p in path.glob("*.json") if p.is_file())
        return [*others, weights[0]]
    missing = [name for name in MODEL_FILES if not (path / name).is_file()]
    if missing:
        msg = (
            f"{path}: is no model; {', '.join(missing)} missing. A model is a folder with {', '.join(MODEL_FILES)}, an "
            f"open_clip folder with {OPEN_CLIP_CONFIG}, or OpenAI's .pt file"
        )
        raise ConfigError(msg)
    return [path / name for name in MODEL_FILES]


def digest_model(path: Path) -> str:
    """sha256 over the names and digests of a model's files.

    Raises: ConfigError where there is no model.
    """
    digests = [[file.name, file_sha256(file)] for file in model_files(path)]
    return sha256(canonical_json(digests).encode()).hexdigest()


def load_any(path: Path, device: str = "cpu") -> LoadedModel | OpenClipModel:
    """Load a model in full precision.

    Raises: ConfigError where there is none, or open_clip is needed and not installed; ContractError where it is
    damaged.
    """
    files = model_files(path)
    if path.is_dir() and not (path / OPEN_CLIP_CONFIG).is_file():
        return load_model(path, device=device)
    try:
        import open_clip
    except ImportError as error:
        msg = f"{path}: open_clip reads this model; install it: pip install open_clip_torch"
        raise ConfigError(msg) from error
    try:
        loaded = _openai(open_clip, files[0]) if path.is_file() else _open_clip(open_clip, path)
    except (RuntimeError, ValueError, KeyError, OSError, AssertionError, TypeError, AttributeError) as error:
        msg = f"{path}: open_clip cannot read it ({type(error).__name__}: {str(error)[:300]})"
        raise ContractError(msg) from error
    loaded.model.to(device).eval().requires_grad_(False)
    return loaded


def _open_clip(open_clip: Any, folder: Path) -> OpenClipModel:
    name = f"local-dir:{folder.absolute()}"
    model, preprocess = open_clip.create_model_from_pretrained(name, weights_only=True)
    tokenizer = open_clip.get_tokenizer(name)
    config = json.loads((folder / OPEN_CLIP_CONFIG).read_text("utf-8"))["model_cfg"]
    return OpenClipModel(_ours(config, model) or PaddedTexts(model, tokenizer.context_length), tokenizer, preprocess)


def _openai(open_clip: Any, file: Path) -> OpenClipModel:
    model = open_clip.load_openai_model(str(file), precision="fp32", device="cpu")
    size, mean, std = model.visual.image_size, model.visual.image_mean, model.visual.image_std
    preprocess = open_clip.image_transform(size, is_train=False, mean=mean, std=std)
    tokenizer = open_clip.tokenizer.SimpleTokenizer(context_length=model.context_length)
    return OpenClipModel(PaddedTexts(model, model.context_length), tokenizer, preprocess)


def _ours(config: dict[str, Any], model: nn.Module) -> CLIP | None:
    """The same network as ours, which takes texts at their own length; None where we have no such network."""
    try:
        ours = CLIP(ModelConfig.model_validate(config))
        ours.load_state_dict(model.state_dict(), strict=True)
    except (ValidationError, RuntimeError):
        return None
    return ours
