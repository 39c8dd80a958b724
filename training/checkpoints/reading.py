"""Find the newest valid checkpoint of a job, and load it into a model and its optimizer."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.optim import Optimizer

from dataops.digest import file_sha256
from dataops.regular_files import read_text
from training.checkpoints.files import MANIFEST, STATE, name_tensor_file, step_of
from training.sharding import find_part, is_sharded, local_part, rows_of_part

logger = logging.getLogger(__name__)


def find_newest_checkpoint(
    folder: Path, job: str, metrics_bytes: int, accept: Callable[[int], bool] = lambda step: True
) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest checkpoint that is whole and of this job, with its state; log a warning for each skipped one.

    Args:
        folder: may be missing.
        job: digest of the job (Job.digest without placement); a checkpoint of another job is skipped.
        metrics_bytes: length of metrics.jsonl; a checkpoint is skipped if it needs a longer one.
        accept: whether a checkpoint of this step counts.
    """
    for path in sorted(folder.glob("step-*"), key=step_of, reverse=True):
        if not accept(step_of(path)):
            continue
        try:
            return path, _read_valid_state(path, job, metrics_bytes)
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("checkpoint %s is skipped: %s: %s", path.name, type(error).__name__, error)
    return None


def _read_valid_state(path: Path, job: str, metrics_bytes: int) -> dict[str, Any]:
    manifest = json.loads(read_text(path / MANIFEST))

    def verify(name: str) -> None:
        if manifest[name] != file_sha256(path / name):
            raise ValueError(f"{name} differs from its sha256 in {MANIFEST}")

    verify(STATE)
    state = json.loads(read_text(path / STATE))
    if state["job"] != job:
        raise ValueError("it belongs to another job")
    if state["metrics_bytes"] > metrics_bytes:
        raise ValueError("metrics.jsonl is shorter than at that step")
    parts = state.get("parts", 1)
    for number in range(parts):
        for kind in ("model", "optimizer"):
            verify(name_tensor_file(kind, number, parts))
    return state


def restore_checkpoint(
    path: Path, model: nn.Module, optimizer: Optimizer, extras: Mapping[str, Tensor] = MappingProxyType({})
) -> None:
    """Load a checkpoint's weights and moments into a model and its optimizer, and copy its extras, bit by bit.

    Each rank reads the rows that it keeps, however many ranks wrote them.

    Raises: ValueError if the checkpoint does not fit the model.
    """
    part = find_part(model)
    with ExitStack() as stack:
        listed = sorted(json.loads(read_text(path / MANIFEST)))
        weights, moments = (
            _TensorFiles([path / name for name in listed if name.startswith(kind)], stack)
            for kind in ("model", "optimizer")
        )
        own = model.state_dict()
        if own.keys() != weights.names:
            raise ValueError(f"{path}: the model's tensors differ: {sorted(own.keys() ^ weights.names)[:5]}")

        def read_into(tensor: Tensor, files: "_TensorFiles", name: str) -> Tensor:
            local = local_part(tensor)
            read = files.read(name, rows_of_part(len(tensor), part) if is_sharded(tensor) else None)
            if read.shape != local.shape:
                raise ValueError(f"{path}: {name} has the shape {tuple(read.shape)}, not {tuple(local.shape)}")
            local.copy_(read)
            return tensor

        with torch.no_grad():
            for name, tensor in own.items():
                read_into(tensor, weights, name)
            for name, tensor in extras.items():
                read_into(tensor, moments, name)
            slots = _group_slots(moments.names - extras.keys())
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    optimizer.state[parameter] = {
                        key: moments.read(f"step/{name}").to(local_part(parameter).device)
                        if key == "step"
                        else read_into(torch.empty_like(parameter), moments, f"{key}/{name}")
                        for key in slots[name]
                    }


def _group_slots(names: set[str]) -> dict[str, list[str]]:
    """Return the keys of an optimizer's state by parameter, of names such as exp_avg/logit_scale."""
    slots: dict[str, list[str]] = {}
    for key, _, name in (full.partition("/") for full in sorted(names)):
        slots.setdefault(name, []).append(key)
    return slots


class _TensorFiles:
    """Tensors whose rows lie in several files, in the order of the files.

    Args:
        stack: closes the files.
    """

    def __init__(self, paths: Sequence[Path], stack: ExitStack):
        self._files = [stack.enter_context(safe_open(path, "pt")) for path in paths]
        self._holders: dict[str, list[Any]] = {}
        for file in self._files:
            for name in file.keys():  # noqa: SIM118 — the file is no mapping
                self._holders.setdefault(name, []).append(file)

    @property
    def names(self) -> set[str]:
        """Names of the tensors."""
        return set(self._holders)

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """Return a tensor, or some of its rows."""
        holders = self._holders[name]
        if rows is None:
            whole = [file.get_tensor(name) for file in holders]
            return whole[0] if len(whole) == 1 else torch.cat(whole)
        found, first = [], 0
        for file in holders:
            held = file.get_slice(name)
            start, stop = (min(max(row - first, 0), held.get_shape()[0]) for row in (rows.start, rows.stop))
            if start < stop or (file is holders[-1] and not found):  # a rank may keep no row of a small matrix
                found.append(held[start:stop])
            first += held.get_shape()[0]
        return torch.cat(found)
