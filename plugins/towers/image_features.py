"""The features of a frozen image tower: of the square at the centre of each image, once.

Legend: B batch, S side of the input, N samples of a shard, W width of a feature.
"""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dataops.digest import canonical_json, file_sha256, text_sha256
from dataops.regular_files import read_text
from dataops.storage.cached_files import mark_used
from training import distributed
from training.data.loader import Dataset
from training.data.shard_files import find_checksum
from training.evaluation.encode import map_in_order
from training.feature_files import VERSION, name_shard_features, read_features, write_features
from training.model.checkpoint import write_atomically
from training.model.preprocess import normalize
from training.towers.towers import BackboneTower

IMAGES_PER_BATCH = 32

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageFeatures:
    """Features by sample, and the reason of each sample that has none."""

    firsts: list[int]
    """First sample of each shard."""
    arrays: list[np.ndarray]
    errors: list[dict[int, str]]

    @property
    def width(self) -> int:
        """Numbers of a feature."""
        return self.arrays[0].shape[1]

    def read(self, shard: int, sample: int) -> np.ndarray:
        """Return the feature (W,) of a sample.

        Raises: ValueError with the reason if its image cannot be read.
        """
        row = sample - self.firsts[shard]
        if (reason := self.errors[shard].get(row)) is not None:
            raise ValueError(reason)
        return self.arrays[shard][row]


def prepare_image_features(
    tower: BackboneTower, dataset: Dataset, checksums: Mapping[str, str], weights_digest: str, folder: Path
) -> ImageFeatures:
    """Return the features of a dataset's images, which the ranks of each machine read or compute; all ranks together.

    Args:
        checksums: sha256 of the shards (training/data/shard_files.py); that of another is computed.
        weights_digest: of all that decides what the tower's network computes.
        folder: keeps the features, in a file for each shard named after its sha256, and the digest, the side of the input
            and the kind of device.
    """
    device, width = next(tower.parameters()).device, tower.feature_width
    spans = [dataset.index.samples_of(shard) for shard in range(len(dataset.files.paths))]
    paths: list[Path] = []
    for path in dataset.files.paths:
        sha256 = find_checksum(checksums, path) or file_sha256(path)
        decides = [VERSION, weights_digest, device.type, sha256, dataset.image_size]
        paths.append(folder / name_shard_features(sha256, text_sha256(canonical_json(decides))))
    shares = range(len(paths))[distributed.local_rank() :: distributed.local_world_size()]

    def prepare() -> None:
        started, computed = time.monotonic(), 0
        was_training = tower.training
        tower.eval()
        for shard in shares:
            if not _is_known(paths[shard], len(spans[shard]), width):
                _compute_shard(tower, dataset, spans[shard], paths[shard], width)
                computed += len(spans[shard])
        tower.train(was_training)
        logger.info("the features of %s images are computed in %.1f s", f"{computed:,}", time.monotonic() - started)

    distributed.run_together(prepare)
    arrays = [read_features(path, len(span), width) for path, span in zip(paths, spans, strict=True)]
    found = [array for array in arrays if array is not None]
    assert len(found) == len(arrays)
    errors = [{int(row): reason for row, reason in _read_errors(path).items()} for path in paths]
    return ImageFeatures([span.start for span in spans], found, errors)


def _is_known(path: Path, count: int, width: int) -> bool:
    return path.with_suffix(".json").is_file() and read_features(path, count, width) is not None


def _read_errors(path: Path) -> dict[str, str]:
    mark_used(path.with_suffix(".json"))
    return json.loads(read_text(path.with_suffix(".json")))


def _compute_shard(tower: BackboneTower, dataset: Dataset, samples: range, path: Path, width: int) -> None:
    device = next(tower.parameters()).device
    errors: dict[str, str] = {}

    def load(batch: range) -> tuple[np.ndarray, Tensor]:
        rows, squares = [], []
        for sample in batch:
            try:
                squares.append(dataset.load_square(sample))
                rows.append(sample - samples.start)
            except ValueError as error:
                errors[str(sample - samples.start)] = str(error)
        side = dataset.image_size
        pixels = np.stack(squares) if squares else np.empty((0, side, side, 3), np.uint8)
        return np.array(rows, np.int64), torch.from_numpy(pixels)

    def encode(loaded: tuple[np.ndarray, Tensor]) -> tuple[np.ndarray, np.ndarray]:
        rows, pixels_BSS3 = loaded
        if not len(rows):
            return rows, np.empty((0, width), np.float32)
        images_B3SS = normalize(pixels_BSS3.to(device).permute(0, 3, 1, 2).float() / 255)
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            return rows, tower.encode(images_B3SS).float().cpu().numpy()

    batches = [samples[start : start + IMAGES_PER_BATCH] for start in range(0, len(samples), IMAGES_PER_BATCH)]
    if device.type == "cpu":
        results = map_in_order(lambda batch: encode(load(batch)), batches)
    else:
        results = map(encode, map_in_order(load, batches))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").unlink(missing_ok=True)
    write_features(path, len(samples), width, results)
    write_atomically(path.with_suffix(".json"), canonical_json(errors))
