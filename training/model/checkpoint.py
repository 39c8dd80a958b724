"""The files of training: checkpoints to resume from, and the finished model. No pickle anywhere.

A checkpoint is a folder `checkpoints/step-NNNNNN` with model.safetensors, optimizer.safetensors, state.json and,
written last in it, manifest.json with the sha256 of the others. It is written under another name and renamed, so a
crash leaves none or all of it. It holds no state of a random generator: every draw of training is a function of
(seed, epoch, sample). A finished model is model.safetensors, model.json, tokenizer.json and, written last, done.json.
"""

import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from dataops.digest import canonical_json, file_sha256
from dataops.errors import ContractError
from dataops.regular_files import read_text
from training.model.clip import CLIP
from training.model.preprocess import Preprocess
from training.model.tokenizer import Tokenizer, load_tokenizer
from training.model_config import ModelConfig

logger = logging.getLogger(__name__)

MODEL_FILES = ("model.safetensors", "model.json", "tokenizer.json")
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""End of safetensors' message about a failed disk."""
_STATE_FILES = ("model.safetensors", "optimizer.safetensors", "state.json")


def write_atomically(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, "utf-8")
    _sync(part)
    part.replace(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, part)
    except SafetensorError as error:
        if (found := _OS_ERROR.search(str(error))) is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error
    _sync(part)
    part.replace(path)


# Checkpoints ----------------------------------------------------------------------------------------------------------


class CheckpointWriter:
    """Write checkpoints in a thread: the step waits for the copy to the host's memory, not for the disk.

    Args:
        folder: parent of the checkpoints' folders.
        keep: number of newest checkpoints that stay.
    """

    def __init__(self, folder: Path, keep: int):
        self._folder, self._keep = folder, keep
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown()
        if kind is None:
            self.wait()

    def save(self, step: int, model: nn.Module, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
        """Copy a step's weights and moments, and start to write them; waits for the checkpoint before this one."""
        self.wait()
        weights, moments = (_copy_to_host(t) for t in (model.state_dict(), _optimizer_tensors(model, optimizer)))
        self._pending = self._pool.submit(_write, self._folder, step, weights, moments, dict(state), self._keep)

    def check(self) -> None:
        """Raise the OSError of a checkpoint that could not be written, without waiting for one in progress."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Wait until all is on disk.

        Raises: OSError if the disk is full or fails.
        """
        if self._pending is not None:
            self._pending.result()
            self._pending = None


def _copy_to_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def _write(
    folder: Path,
    step: int,
    weights: Mapping[str, Tensor],
    moments: Mapping[str, Tensor],
    state: Mapping[str, Any],
    keep: int,
) -> None:
    """Write a checkpoint whole or not at all, then delete all but the newest `keep`."""
    final, part = folder / f"step-{step:06d}", folder / f".step-{step:06d}.part"
    for stale in (*folder.glob(".step-*.part"), final):
        shutil.rmtree(stale, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        _save_tensors(weights, part / "model.safetensors")
        _save_tensors(moments, part / "optimizer.safetensors")
        write_atomically(part / "state.json", canonical_json({**state, "step": step}))
        manifest = {name: file_sha256(part / name) for name in _STATE_FILES}
        write_atomically(part / "manifest.json", canonical_json(manifest))
        part.rename(final)
    except OSError:
        shutil.rmtree(part, ignore_errors=True)  # a full disk then has room for the message
        raise
    _sync(folder)
    logger.info("checkpoint %s is written", final.name)
    for old in sorted(folder.glob("step-*"), key=_step_of)[:-keep]:
        shutil.rmtree(old)


def find_newest_checkpoint(folder: Path, job: str, metrics_bytes: int) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest checkpoint that is whole and of this job, with its state; log a warning for each skipped one.

    Args:
        folder: may be missing.
        job: digest of the job (Job.digest without placement); a checkpoint of another job is skipped.
        metrics_bytes: length of metrics.jsonl; a checkpoint that needs more of it is skipped.
    """
    for path in sorted(folder.glob("step-*"), key=_step_of, reverse=True):
        try:
            manifest = json.loads(read_text(path / "manifest.json"))
            for name in _STATE_FILES:
                if manifest[name] != file_sha256(path / name):
                    raise ValueError(f"{name} differs from its sha256 in manifest.json")
            state = json.loads(read_text(path / "state.json"))
            if state["job"] != job:
                raise ValueError("it belongs to another job")
            if state["metrics_bytes"] > metrics_bytes:
                raise ValueError("metrics.jsonl is shorter than at that step")
            return path, state
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("checkpoint %s is skipped: %s: %s", path.name, type(error).__name__, error)
    return None


def restore_checkpoint(path: Path, model: nn.Module, optimizer: Optimizer) -> None:
    """Load a checkpoint's weights and moments into a model and its optimizer, bit by bit."""
    model.load_state_dict(load_file(path / "model.safetensors"), strict=True)
    tensors = load_file(path / "optimizer.safetensors")
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        moments = {
            key: torch.empty_like(parameter).copy_(tensors[f"{key}/{name}"]) for key in ("exp_avg", "exp_avg_sq")
        }
        optimizer.state[parameter] = {"step": tensors[f"step/{name}"].to(parameter.device), **moments}


def _optimizer_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{key}/{names[parameter]}": tensor
        for parameter, slot in optimizer.state.items()
        for key, tensor in slot.items()
    }


def _step_of(path: Path) -> int:
    digits = path.name.removeprefix("step-")
    return int(digits) if digits.isdigit() else -1


# Finished models ------------------------------------------------------------------------------------------------------


def save_model(folder: Path, model: CLIP, tokenizer: Tokenizer, preprocess: Preprocess) -> None:
    """Write model.json, tokenizer.json and, last, model.safetensors (fp32)."""
    card = {**model.config.model_dump(mode="json"), "preprocess": preprocess.facts(), "tokenizer": tokenizer.facts()}
    write_atomically(folder / "model.json", json.dumps(card, indent=2) + "\n")
    write_atomically(folder / "tokenizer.json", tokenizer.to_json())
    _save_tensors(model.state_dict(), folder / "model.safetensors")


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


def load_model(directory: Path, device: str | torch.device = "cpu") -> LoadedModel:
    """Read a finished model: model.safetensors, model.json and tokenizer.json.

    Raises:
        ContractError: a file is missing or invalid; names the file.
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
    tokenizer = load_tokenizer(directory / "tokenizer.json", config.text_cfg.context_length)
    if tokenizer.vocab_size != config.text_cfg.vocab_size:
        raise ContractError(
            f"{directory}: the tokenizer has {tokenizer.vocab_size} tokens, the model {config.text_cfg.vocab_size}"
        )
    try:
        weights = load_file(directory / "model.safetensors")
        with torch.device("meta"):  # a card that states a larger model than the file has allocates nothing
            CLIP(config).load_state_dict(weights, strict=True, assign=True)
        model = CLIP(config)
        model.load_state_dict(weights, strict=True)
    except Exception as error:  # a hostile file raises anything
        raise ContractError(f"{directory / 'model.safetensors'} does not fit model.json: {error}") from error
    model = model.to(device).eval().requires_grad_(False)
    return LoadedModel(model, tokenizer, preprocess, config, torch.device(device))
