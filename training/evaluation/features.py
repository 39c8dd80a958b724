"""The encoded images of a set, computed once for zero-shot transfer, retrieval, prompts and probe.

In a folder they outlive the process: one npz file for a model, a split's bytes and a way to
compute. Labels and captions are not in it: they are read from the set each time, which costs
little.
"""

import io
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from dataops.digest import canonical_json, text_sha256
from dataops.errors import ContractError
from dataops.regular_files import open_regular
from dataops.storage.cached_files import mark_used
from dataops.store import FolderStore
from training import distributed
from training.evaluation.encode import EvaluatedModel, encode_images, get_device_and_dtype
from training.evaluation.samples import Sample
from training.evaluation.sets import EvalSet
from training.progress import Progress

FEATURES_VERSION = 1
"""Version of the features, raised when the same model and images give other ones."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncodedSet:
    """A split: every sample without its image, the error of each undecodable one, and features of the R others."""

    folder: Path
    samples: list[Sample]
    errors: list[str | None]
    features_RD: Tensor
    """Unit-norm rows, in the order of the samples that have no error."""
    pooled_RW: Tensor | None
    """Input of the tower's last projection; None if the tower is of an unknown kind."""

    @property
    def readable(self) -> list[Sample]:
        """The samples that have features, in their order."""
        return [sample for sample, error in zip(self.samples, self.errors, strict=True) if error is None]

    def rows(self, answers: Sequence[dict[str, object]]) -> list[dict[str, Any]]:
        """Return a row per sample: key and status, with the answers of the readable ones and the errors of the others."""
        remaining = iter(answers)
        return [
            {"key": sample.key, "status": "ok", **next(remaining)}
            if error is None
            else {"key": sample.key, "status": "unreadable", "error_message": error}
            for sample, error in zip(self.samples, self.errors, strict=True)
        ]


@dataclass(frozen=True)
class Examples:
    """Labelled features; an unreadable image has none."""

    features_NW: Tensor
    labels_N: Tensor

    def select(self, rows: np.ndarray) -> "Examples":
        """Return those rows."""
        chosen = torch.from_numpy(np.asarray(rows, dtype=np.int64)).to(self.labels_N.device)
        return Examples(self.features_NW[chosen], self.labels_N[chosen])

    def concatenate(self, other: "Examples") -> "Examples":
        """Return these examples followed by others."""
        both = torch.cat([self.features_NW, other.features_NW]), torch.cat([self.labels_N, other.labels_N])
        return Examples(*both)


@dataclass(frozen=True)
class FeatureCache:
    """A folder that keeps features between tasks, retries and commands."""

    store: FolderStore
    model_digest: str

    def file_name(self, loaded: EvaluatedModel, files: Sequence[Sequence[str]], batch_size: int) -> str:
        """Return the file name of a model's features of these files (name and sha256 each)."""
        device, dtype = get_device_and_dtype(loaded.model)
        inputs = {
            "version": FEATURES_VERSION,
            "model": self.model_digest,
            "files": [list(file) for file in files],
            "batch_size": batch_size,
            "computed": [device.type, str(dtype)],
        }
        return f"{text_sha256(canonical_json(inputs))[:32]}.npz"

    def read(self, name: str) -> tuple[list[str | None], Tensor, Tensor | None] | None:
        """Return errors, features and pooled features; None if the file is missing or damaged."""
        if self.store.size(name) is None:
            return None
        mark_used(path := self.store.local(name))
        try:
            with (
                open_regular(path) as file,
                np.load(file, allow_pickle=False) as found,
            ):  # with a checksum of each array
                pooled = torch.from_numpy(found["pooled"]) if "pooled" in found else None
                return json.loads(str(found["errors"])), torch.from_numpy(found["features"]), pooled
        except (KeyError, ValueError, OSError, EOFError, BadZipFile) as error:
            logger.warning("%s is damaged (%s): its images are encoded again", path, error)
            return None

    def write(self, name: str, encoded: EncodedSet) -> None:
        """Write features, whole or not at all."""
        arrays = {"errors": np.array(json.dumps(encoded.errors)), "features": encoded.features_RD.cpu().numpy()}
        if encoded.pooled_RW is not None:
            arrays["pooled"] = encoded.pooled_RW.cpu().numpy()
        data = io.BytesIO()
        np.savez(data, allow_pickle=False, **arrays)
        self.store.put(name, data.getvalue())


def encode_set(
    loaded: EvaluatedModel,
    data: EvalSet,
    batch_size: int,
    threads: int | None = None,
    *,
    cache: FeatureCache | None = None,
    files: Sequence[Sequence[str]] = (),
) -> EncodedSet:
    """Encode every image of a set, or read its features from the cache.

    Args:
        cache: keeps features after the call; None: they are not kept.
        files: name and sha256 of all that the set is read from; needed with `cache`.

    Raises: ContractError if the set is damaged or no image can be decoded; TrainingDiverged if features are not finite.
    """
    name = cache.file_name(loaded, files, batch_size) if cache is not None else ""
    own = cache if distributed.rank() == 0 else None
    cached = distributed.broadcast_from_first(own.read(name) if own is not None else None)
    device, _ = get_device_and_dtype(loaded.model)
    if cached is not None:
        errors, features_RD, pooled_RW = cached
        samples = [replace(sample, image=b"") for sample in data.samples()]
        on_device = None if pooled_RW is None else pooled_RW.to(device)
        if len(errors) == len(samples) and errors.count(None) == len(features_RD):
            return EncodedSet(data.folder, samples, errors, features_RD.to(device), on_device)
    encoded = _encode(loaded, data, batch_size, threads)
    if own is not None:
        own.write(name, encoded)
    return encoded


def _encode(loaded: EvaluatedModel, data: EvalSet, batch_size: int, threads: int | None) -> EncodedSet:
    samples: list[Sample] = []
    errors: list[str | None] = []
    features: list[Tensor] = []
    pooled: list[Tensor] = []
    batches = encode_images(loaded, data.samples(), batch_size, threads)
    for batch in Progress("model", "images").follow(batches, lambda batch: len(batch.samples)):
        samples += [replace(sample, image=b"") for sample in batch.samples]
        errors += batch.errors
        if len(batch.features_RD):
            features.append(batch.features_RD)
            pooled += [] if batch.pooled_RW is None else [batch.pooled_RW]
    if not features:
        raise ContractError(f"{data.folder}: none of {len(samples)} images can be decoded ({errors[0]})")
    device, _ = get_device_and_dtype(loaded.model)
    whole = torch.cat(pooled).to(device) if len(pooled) == len(features) else None
    return EncodedSet(data.folder, samples, errors, torch.cat(features).to(device), whole)
