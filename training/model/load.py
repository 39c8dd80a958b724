"""Loading of any CLIP on this machine for evaluation: a finished model of ours, an open_clip folder, an OpenAI file.

    folder with model.safetensors, model.json, tokenizer.json     ours: trained, registered or exported
    folder with open_clip_config.json and its weights             open_clip's, as it pushes to the Hub or as we export
    file .pt, .bin, .safetensors                                  weights alone: OpenAI's vocabulary and preprocessing

No pickle is run (training/model/pretrained.py). An open_clip model with another network than ours
is loaded by open_clip itself, if that is installed.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from dataops.digest import files_sha256
from dataops.errors import ConfigError, ContractError
from dataops.regular_files import read_text
from training.model.checkpoint import LoadedModel, load_model
from training.model.clip import CLIP
from training.model.clip_vocabulary import VOCAB_SIZE
from training.model.preprocess import MEAN, STD, Preprocess
from training.model.pretrained import WEIGHTS, load_pretrained, read_state_dict
from training.model.tokenizer import load_tokenizer, make_tokenizer
from training.model_config import MODEL_FILES

OPEN_CLIP_CONFIG = "open_clip_config.json"
logger = logging.getLogger(__name__)


class OpenClipModel(nn.Module):
    """A model of open_clip, whose text towers need the whole context length, where ours take what a batch needs."""

    def __init__(self, model: nn.Module, context_length: int):
        super().__init__()
        self.inner, self.context_length = model, context_length

    @property
    def visual(self) -> Any:
        """The image tower."""
        return self.inner.visual

    def encode_image(self, images_B3SS: Tensor) -> Tensor:
        """Return features (B, D), not normalised."""
        return self.inner.encode_image(images_B3SS)  # pyright: ignore[reportCallIssue]

    def encode_text(self, tokens_BL: Tensor) -> Tensor:
        """Return features (B, D), not normalised; zeros pad each text, as its tokenizer pads it."""
        missing = self.context_length - tokens_BL.shape[1]
        return self.inner.encode_text(F.pad(tokens_BL, (0, missing)))  # pyright: ignore[reportCallIssue]


@dataclass(frozen=True)
class Renormalised:
    """Our preprocessing with another mean and standard deviation of the channels."""

    inner: Preprocess
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, image: Image.Image) -> Tensor:
        """Return float (3, S, S)."""
        own_mean, own_std, mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD, self.mean, self.std))
        return (self.inner(image) * own_std + own_mean - mean) / std


@dataclass(frozen=True)
class ExternalModel:
    """A model that was trained elsewhere, with its tokenizer and preprocessing."""

    model: CLIP | OpenClipModel
    tokenizer: Any
    preprocess: Any


def list_model_files(path: Path) -> list[Path]:
    """Return the files that decide what the model computes.

    Raises: ConfigError if there is no model of a known kind.
    """
    if path.is_file():
        return [path]
    if (path / OPEN_CLIP_CONFIG).is_file():
        weights = [path / name for name in WEIGHTS if (path / name).is_file()]
        if not weights:
            raise ConfigError(f"{path}: has {OPEN_CLIP_CONFIG} but no weights; expected one of {', '.join(WEIGHTS)}")
        return [*sorted(path.glob("*.json")), weights[0]]
    if missing := [name for name in MODEL_FILES if not (path / name).is_file()]:
        raise ConfigError(
            f"{path}: is no model: it lacks {', '.join(missing)}. A model is a folder with {', '.join(MODEL_FILES)}, an "
            f"open_clip folder with {OPEN_CLIP_CONFIG}, or a file of weights"
        )
    return [path / name for name in MODEL_FILES]


def digest_model(path: Path) -> str:
    """Return the sha256 over the names and digests of a model's files.

    Raises: ConfigError if there is no model.
    """
    return files_sha256(list_model_files(path))


def load_any(path: Path, device: str = "cpu") -> LoadedModel | ExternalModel:
    """Load a model in full precision.

    Raises: ConfigError if there is none, its weights cannot be read safely, or open_clip is needed and not installed;
        ContractError if it is damaged.
    """
    list_model_files(path)
    if path.is_dir() and not (path / OPEN_CLIP_CONFIG).is_file():
        return load_model(path, device=device)
    loaded = _load_weights_file(path) if path.is_file() else _load_open_clip_folder(path)
    loaded.model.to(device).eval().requires_grad_(False)
    return loaded


def _load_weights_file(file: Path) -> ExternalModel:
    model = load_pretrained(file)
    text = model.config.text_cfg
    if text.vocab_size != VOCAB_SIZE:
        raise ConfigError(
            f"{file}: has {text.vocab_size} tokens, and no vocabulary beside it; name a folder with a tokenizer.json"
        )
    tokenizer = make_tokenizer("clip", (), VOCAB_SIZE, text.context_length)
    return ExternalModel(model, tokenizer, Preprocess(model.config.vision_cfg.image_size))


def _load_open_clip_folder(folder: Path) -> ExternalModel:
    path = folder / OPEN_CLIP_CONFIG
    try:
        config = json.loads(read_text(path))
        text, facts = dict(config["model_cfg"]["text_cfg"]), config.get("preprocess_cfg", {})
        size = facts.get("size", config["model_cfg"]["vision_cfg"].get("image_size", 224))
        plain = (
            facts.get("interpolation", "bicubic") == "bicubic" and facts.get("resize_mode", "shortest") == "shortest"
        )
        mean, std = (tuple(map(float, facts.get(name, own))) for name, own in (("mean", MEAN), ("std", STD)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ContractError(f"{path}: is no config of open_clip's ({type(error).__name__}: {error})") from error
    own_vocabulary = (folder / "tokenizer.json").is_file()
    if not plain or not isinstance(size, int) or ("hf_tokenizer_name" in text and not own_vocabulary):
        return _load_with_open_clip(folder, "its preprocessing or tokenizer is none of ours")
    try:
        model = load_pretrained(folder)
    except ConfigError as error:  # open_clip may have the network, and names the problem if it has not
        return _load_with_open_clip(folder, str(error))
    context_length = model.config.text_cfg.context_length
    if own_vocabulary:
        tokenizer = load_tokenizer(folder / "tokenizer.json", context_length)
    else:
        tokenizer = make_tokenizer("clip", (), VOCAB_SIZE, context_length)
    preprocess = Preprocess(size)
    return ExternalModel(
        model, tokenizer, preprocess if (mean, std) == (MEAN, STD) else Renormalised(preprocess, mean, std)
    )


def _load_with_open_clip(folder: Path, reason: str) -> ExternalModel:
    try:
        import open_clip
    except ImportError as error:
        raise ConfigError(
            f"{folder}: only open_clip reads this model ({reason}); install it: pip install open_clip_torch"
        ) from error
    logger.info("%s is read by open_clip: %s", folder, reason)
    # open_clip allocates what the config says, and reads the weights by torch.load, which trusts sizes.
    weights = next(path for name in WEIGHTS if (path := folder / name).is_file())
    read_state_dict(weights)
    try:
        numbers = count_parameters(json.loads(read_text(folder / OPEN_CLIP_CONFIG))["model_cfg"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ContractError(f"{folder / OPEN_CLIP_CONFIG}: is no config of open_clip's ({error})") from error
    if numbers > weights.stat().st_size:
        raise ContractError(
            f"{folder / OPEN_CLIP_CONFIG}: its model has over {numbers} numbers, more than {weights.name} has bytes"
        )
    name = f"local-dir:{folder.absolute()}"
    try:
        created: Any = open_clip.create_model_from_pretrained(name, weights_only=True)
        tokenizer: Any = open_clip.get_tokenizer(name)
    except Exception as error:  # a config or file that neither expects raises anything
        reason = str(error).partition("\n")[0][:200]
        raise ContractError(
            f"{folder}: neither pairmill nor open_clip can read it ({type(error).__name__}: {reason})"
        ) from error
    model, preprocess = created
    return ExternalModel(OpenClipModel(model, tokenizer.context_length), tokenizer, preprocess)


def count_parameters(config: dict[str, Any]) -> int:
    """Return a lower bound of a model's number of parameters, from the towers of open_clip's config that state a width.

    A transformer's block has 12 times its width squared, a ResNet at least its width for each
    layer.
    """
    total = 0
    for name, own_width in (("vision_cfg", 768), ("text_cfg", 512)):
        tower = config.get(name) or {}
        if any(tower.get(other) for other in ("timm_model_name", "hf_model_name")):
            continue
        width, layers = max(1, tower.get("width", own_width)), tower.get("layers", 12)
        total += sum(layers) * width if isinstance(layers, list) else 12 * width * width * layers
        total += config.get("embed_dim", 0) * width
        if name == "text_cfg":
            total += (tower.get("vocab_size", 49408) + tower.get("context_length", 77)) * width
        elif not isinstance(layers, list):
            total += (tower.get("image_size", 224) // max(1, tower.get("patch_size") or 16)) ** 2 * width
    return total
